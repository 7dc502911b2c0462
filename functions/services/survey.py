"""Looking for what keeps a unit down. Each part by itself: one that can't be read stops no other."""

import os
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

MOST = 200
"""Units that are looked at for one start: what is tied to more of them is told, and not followed further."""


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
        self._known: dict[str, Unit | None] = {}

    def run(self) -> Found:
        others = self._down_along()
        found = Found(
            check=self._check(), stale_files=tuple(self._stale_files()), holders=self._holders(), ours=self._ours(),
            others=tuple(unit for unit in others if unit.name.endswith(STARTABLE)),
            stopped_along=tuple(self._stopped_along(others)), restarted_along=self._restarted_along(),
        )  # fmt: skip
        return found.model_copy(update={"findings": tuple(self._findings)})

    def _look(self, what: str, read: Callable[[], Answer], otherwise: Answer) -> Answer:
        """What *read* gives; a part that can't be read is told and counts as empty."""
        try:
            return read()
        except ProbeError as error:
            self._findings.append(notices.unreadable(what, str(error)))
            return otherwise

    def _check(self) -> Check | None:
        argv = check_of(self._unit, self._settings)
        if argv is None or self._unit.occasional:
            return None
        try:
            answer = self._probes.commands.check(Command(argv=argv, timeout=TIMEOUT))
        except ProbeError as error:
            return Check(argv=argv, trouble=str(error))
        if answer is None and self._settings.of(*self._unit.names).check is not None:
            return Check(argv=argv, trouble=f"there is no program {argv[0]}")
        if answer is None:
            self._findings.append(notices.no_check(self._unit, argv))
            return None
        return Check(argv=argv, answer=answer)

    def _stale_files(self) -> Iterator[str]:
        """Those that are there; whether anybody holds one is for the tool to say, right before it is removed."""
        if not self._unit.at_rest:
            return
        named = (self._unit.pid_file, *self._settings.of(*self._unit.names).stale_files)
        for path in dict.fromkeys(path for path in named if path):
            try:
                self._probes.files.mount_of(path)
            except ProbeError:
                continue  # not there, or not to be had: nothing to remove
            yield path

    def _holders(self) -> tuple[Holder, ...]:
        ports = self._settings.of(*self._unit.names).ports
        if not ports or not self._unit.at_rest:
            return ()
        listeners: list[Listener] = self._look(
            "who holds its ports", lambda: self._probes.processes.listeners(ports), []
        )
        holders = {
            (listener.port, process.pid): Holder(port=listener.port or 0, process=process, group=group)
            for listener in listeners
            for process, group in zip(listener.holders, listener.cgroups, strict=True)
        }
        if holders and self._began_another_run():  # then they may as well be of that one
            self._findings.append(notices.unreadable("who holds its ports", "it was started meanwhile"))
            return ()
        return tuple(holders.values())

    def _began_another_run(self) -> bool:
        name = self._unit.name
        now = self._look(name, lambda: self._probes.units.unit(name), None)
        return now is None or not now.at_rest or now.invocation != self._unit.invocation

    def _ours(self) -> bool:
        group = self._unit.control_group
        if self._unit.at_rest or not group:
            return False
        unknown: tuple[int, ...] = (os.getpid(),)
        inside = self._look("its processes", lambda: self._probes.memory.processes(group), unknown)
        return os.getpid() in inside

    # ── what a start or a restart takes along ─────────────────────────────────────────────────────────────────────

    def _down_along(self) -> list[Unit]:
        """What does not run and is started along; what runs brings nothing with it."""
        return self._reached(
            lambda unit: (*unit.requires, *unit.wants), lambda unit: unit.active in {"inactive", "failed"}
        )

    def _restarted_along(self) -> tuple[str, ...]:
        if self._unit.failed:
            return ()
        found = self._reached(lambda unit: unit.dependants, lambda unit: unit.active not in {"inactive", "failed"})
        return tuple(unit.name for unit in found)

    def _stopped_along(self, others: list[Unit]) -> Iterator[str]:
        started = {self._unit.name, *(unit.name for unit in others)}
        names = dict.fromkeys(name for unit in (self._unit, *others) for name in unit.conflicts)
        for name in names:
            unit = self._unit_named(name) if name not in started else None
            if unit is not None and (unit.job or unit.active not in {"inactive", "failed"}):
                yield unit.name

    def _reached(self, tied: Callable[[Unit], tuple[str, ...]], reached: Callable[[Unit], bool]) -> list[Unit]:
        """Units to which the ties of this one, and of those that are *reached*, lead."""
        waiting, met, found = list(tied(self._unit)), {self._unit.name}, list[Unit]()
        while waiting:
            name = waiting.pop(0)
            if name in met or name.endswith(".slice"):
                continue
            if len(met) > MOST:
                self._findings.append(notices.unreadable("all that is tied to it", f"there are more than {MOST} units"))
                break
            met.add(name)
            unit = self._unit_named(name)
            if unit is not None and reached(unit):
                found.append(unit)
                waiting += tied(unit)
        return found

    def _unit_named(self, name: str) -> Unit | None:
        if name not in self._known:
            self._known[name] = self._look(name, lambda: self._probes.units.unit(name), None)
        return self._known[name]
