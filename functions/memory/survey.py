"""Looking closer at a service that leaks: what a restart would destroy, and what stands for and against one.

Each part by itself: one that can't be read stops no other.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from functions.core.remedy import Case
from functions.memory import notices
from functions.memory.facts import Dependant, Found, Replica, Seen
from functions.memory.judgement import heard_of, outlook_of
from functions.memory.permission import group_of, obstacles
from functions.memory.services import matching, replicas_of, siblings_of, unit_of
from schemas.facts.commands import Command
from schemas.facts.instances import instance_of_container, instance_of_processes, instance_of_unit
from schemas.facts.processes import MemoryMapping, ProcessIdentity, ProcessMemory
from schemas.facts.units import Unit
from schemas.probes import ProbeError, Probes
from schemas.remediation import Finding
from schemas.settings.memory import MemoryMonitoring

LARGEST = 5
"""Processes that are told."""

MAPPINGS = 10

DEPENDANTS = 50
"""Units that are looked at; with more of them nobody could say what a restart does."""

DOWN = frozenset({"inactive", "failed"})

Answer = TypeVar("Answer")


def survey(case: Case[MemoryMonitoring], seen: Seen, probes: Probes) -> Found:
    """Reads only. Raises ProbeError when the service itself can't be read again."""
    return _Survey(case, seen, probes).run()


class _Survey:
    def __init__(self, case: Case[MemoryMonitoring], seen: Seen, probes: Probes) -> None:
        self._case = case
        self._settings = case.settings.of(case.target)
        self._seen = seen
        self._probes = probes
        self._findings: list[Finding] = []

    def run(self) -> Found:
        processes = self._processes()
        found = self._service().model_copy(
            update={
                "ours": os.getpid() in self._seen.processes,
                "count": len(processes),
                "processes": tuple(processes[:LARGEST]),
                "mappings": self._mappings(processes),
            }
        )
        found = found.model_copy(update={"replicas": self._replicas(found), "handles": self._handles(found.main)})
        found = found.model_copy(update={"check": self._check(found)})
        return found.model_copy(update={"findings": tuple(self._findings)})

    def _look(self, what: str, read: Callable[[], Answer], otherwise: Answer) -> Answer:
        """What *read* gives; a part that can't be read is told and counts as empty."""
        try:
            return read()
        except ProbeError as error:
            self._findings.append(notices.unreadable(what, str(error)))
            return otherwise

    def _service(self) -> Found:
        """Which run it is now, and its main process. Raises ProbeError."""
        kind, _, name = self._case.target.partition(":")
        if kind == "unit":
            unit = unit_of(name, self._probes)
            return Found(
                instance=instance_of_unit(unit), unit=unit, main=self._identity(unit.main_pid),
                dependants=self._dependants(unit),
            )  # fmt: skip
        if kind == "container":
            container = self._probes.containers.container(name)
            if container is None:
                raise ProbeError(f"no container {name} runs any more")
            main = self._identity(container.pid)
            return Found(instance=instance_of_container(container), container=container, main=main)
        found = matching(self._case, name, self._probes)
        oldest = min(found, key=lambda process: (process.started, process.pid), default=None)
        return Found(instance=instance_of_processes(found), main=oldest)

    def _dependants(self, unit: Unit) -> tuple[Dependant, ...]:
        """Systemd hands a restart on from one to the next. What can't be looked at is taken to run."""
        found: dict[str, Dependant | None] = {unit.name: None}
        waiting = list(unit.dependants)
        while waiting:
            name = waiting.pop(0)
            if name in found:
                continue
            if len(found) > DEPENDANTS:
                found[name] = Dependant(name=name, busy=f"is one of more than {DEPENDANTS}")
                break
            each = self._look(f"unit {name}", partial(self._probes.units.unit, name), None)
            down = each is not None and each.active in DOWN and not each.job
            aliases = each.names if each is not None else ()
            found[name] = None if down else Dependant(name=name, aliases=aliases, busy=_busy(each))
            waiting += each.dependants if each is not None and not down else ()
        return tuple(each for each in found.values() if each is not None)

    def _identity(self, pid: int | None) -> ProcessIdentity | None:
        """None for one that is not of the service: an engine may count processes otherwise than we do."""
        if not pid or pid not in self._seen.processes:
            return None
        return self._look(f"process {pid}", lambda: self._probes.processes.identity(pid), None)

    def _processes(self) -> list[ProcessMemory]:
        pids = self._seen.processes
        read: list[ProcessMemory] = self._look("its processes", lambda: self._probes.processes.memory(pids), [])
        return sorted(read, key=lambda process: (-process.memory, process.identity.pid))

    def _mappings(self, processes: list[ProcessMemory]) -> tuple[MemoryMapping, ...]:
        if not processes:
            return ()
        pid = processes[0].identity.pid
        read: list[MemoryMapping] = self._look(
            f"what process {pid} maps", lambda: self._probes.processes.mappings(pid, MAPPINGS), []
        )
        return tuple(read)

    def _handles(self, main: ProcessIdentity | None) -> bool:
        """A signal for which there is no handler would end the process: what can't be known is not sent."""
        collection = self._settings.garbage_collection
        if collection is None or collection.signal is None or main is None:
            return True
        signal = collection.signal
        return self._look("its signal handlers", lambda: self._probes.processes.handles(main.pid, signal), False)

    def _replicas(self, found: Found) -> tuple[Replica, ...]:
        case, group = self._case, group_of(self._case.target, self._case.settings)
        if not group:
            return ()
        try:
            if self._settings.replicas:
                others = replicas_of(group, case.target, case.settings, self._probes)
            else:
                others = siblings_of(found.container, self._probes) if found.container is not None else {}
        except ProbeError as error:
            others = {group: f"its members could not be seen: {error}"}
        return tuple(Replica(target=target, problem=problem) for target, problem in sorted(others.items()))

    def _check(self, found: Found) -> str:
        """What speaks against its configuration; looked at only when a restart would else be permitted."""
        argv, (heard, _) = self._settings.check, heard_of(self._case)
        if argv is None or heard is None:
            return ""
        near = outlook_of(self._case.settings, heard, self._seen, self._case.now).near
        if not near or obstacles(self._case, self._seen, found, heard):
            return ""
        command = Command(argv=argv, timeout=self._case.settings.read_timeout.total_seconds())
        try:
            checked = self._probes.commands.check(command)
        except ProbeError as error:
            return str(error)
        if checked is None:
            return f"there is no {argv[0]}"
        return "" if checked.passed else checked.said or "it did not pass, and said nothing"


def _busy(unit: Unit | None) -> str:
    if unit is None:
        return ""
    if unit.occasional:
        return "does a piece of work that would be cut off, or begun anew"
    return "has something else done with it" if unit.job else ""
