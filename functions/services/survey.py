"""Looking for what keeps a unit down. Each part by itself: one that can't be read stops no other."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from functions.core.remedy import Case
from functions.services import notices
from functions.services.checks import TIMEOUT, check_of
from functions.services.facts import Check, Found, Holder, Seen
from schemas.facts.commands import Command
from schemas.facts.processes import Listener
from schemas.facts.units import Unit
from schemas.probes import ProbeError, Probes
from schemas.remediation import Finding
from schemas.settings.services import ServiceMonitoring

Answer = TypeVar("Answer")

STARTABLE = (".service", ".socket", ".mount", ".path", ".timer")
"""Kinds of units that can fail and that a start brings with it; targets and slices are only names for others."""


def survey(case: Case[ServiceMonitoring], seen: Seen, probes: Probes) -> Found:
    """What is left of it, who holds its ports, what it needs, and whether its configuration is sound. Reads only."""
    if seen.unit is None:
        return Found()
    return _Survey(case, seen.unit, probes).run()


class _Survey:
    def __init__(self, case: Case[ServiceMonitoring], unit: Unit, probes: Probes) -> None:
        self._settings = case.settings
        self._unit = unit
        self._probes = probes
        self._findings: list[Finding] = []

    def run(self) -> Found:
        found = Found(
            check=self._check(), stale_files=tuple(self._stale_files()), holders=self._holders(), others=self._others()
        )
        return found.model_copy(update={"findings": tuple(self._findings)})

    def _look(self, what: str, read: Callable[[], Answer], otherwise: Answer) -> Answer:
        """What *read* gives; a part that can't be read is told and counts as empty."""
        try:
            return read()
        except ProbeError as error:
            self._findings.append(notices.unreadable(what, str(error)))
            return otherwise

    def _check(self) -> Check | None:
        argv = check_of(self._unit.name, self._settings)
        if argv is None or self._unit.scheduled:
            return None
        try:
            answer = self._probes.commands.check(Command(argv=argv, timeout=TIMEOUT))
        except ProbeError as error:
            return Check(argv=argv, trouble=str(error))
        if answer is None and self._settings.of(self._unit.name).check is not None:
            return Check(argv=argv, trouble=f"there is no program {argv[0]}")
        if answer is None:
            self._findings.append(notices.no_check(self._unit, argv))
            return None
        return Check(argv=argv, answer=answer)

    def _stale_files(self) -> Iterator[str]:
        """Those that are there; whether anybody holds one is for the tool to say, right before it is removed."""
        if self._unit.running:
            return
        named = (self._unit.pid_file, *self._settings.of(self._unit.name).stale_files)
        for path in dict.fromkeys(path for path in named if path):
            try:
                self._probes.files.mount_of(path)
            except ProbeError:
                continue  # not there, or not to be had: nothing to remove
            yield path

    def _holders(self) -> tuple[Holder, ...]:
        ports = self._settings.of(self._unit.name).ports
        if not ports or self._unit.running:
            return ()
        listeners: list[Listener] = self._look(
            "who holds its ports", lambda: self._probes.processes.listeners(ports), []
        )
        holders = {
            (listener.port, process.pid): Holder(port=listener.port or 0, process=process, group=group)
            for listener in listeners
            for process, group in zip(listener.holders, listener.cgroups, strict=True)
        }
        return tuple(holders.values())

    def _others(self) -> tuple[Unit, ...]:
        names = [name for name in (*self._unit.requires, *self._unit.wants) if name.endswith(STARTABLE)]
        found = map(self._unit_named, dict.fromkeys(names))
        return tuple(unit for unit in found if unit is not None and unit.active in {"inactive", "failed"})

    def _unit_named(self, name: str) -> Unit | None:
        return self._look(name, lambda: self._probes.units.unit(name), None)
