"""A machine in memory: units, containers and processes that hold memory; both its probes and its tools."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

from functions.core.plan import Plan
from functions.core.remedy import Case
from functions.memory.contain_leak import REMEDY
from functions.memory.facts import Found, Seen
from schemas.facts.cgroups import ControlGroupMemory, HostMemory
from schemas.facts.commands import Checked, Command
from schemas.facts.containers import Container
from schemas.facts.memory import Detector, Trend
from schemas.facts.processes import MemoryMapping, ProcessIdentity, ProcessMemory
from schemas.facts.units import Unit
from schemas.health import Level
from schemas.memory import MemoryTrend
from schemas.probes import ProbeError
from schemas.remediation import Gap, ItemResult, Outcome
from schemas.settings.memory import MemoryMonitoring

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MIB = 2**20
APP = "unit:app.service"
FIRST_PID = 5_000_000
"""No machine has so many: none of these is us."""

UNIT = "app.service"
RUN = "a" * 32


def unit(name: str = UNIT, **changes: Any) -> Unit:
    facts = {
        "name": name, "active": "active", "sub": "running", "type": "simple", "invocation": RUN,
        "control_group": f"/system.slice/{name}", "main_pid": FIRST_PID,
    }  # fmt: skip
    return Unit(**{**facts, **changes})


def container(name: str = "web-1", **changes: Any) -> Container:
    facts = {
        "id": name.encode().hex().ljust(64, "0"), "name": name, "engine": "docker", "image": "shop/web:1",
        "started": NOW - timedelta(days=1), "pid": FIRST_PID, "control_group": f"/docker/{name}",
    }  # fmt: skip
    return Container(**{**facts, **changes})


def identity(pid: int = FIRST_PID, started: int = 100, command: str = "/usr/bin/app") -> ProcessIdentity:
    return ProcessIdentity(pid=pid, started=started, command=command)


def process(pid: int = FIRST_PID, memory: int = 400 * MIB, **changes: Any) -> ProcessMemory:
    facts = {"identity": identity(pid), "user": 0, "cgroup": "/user.slice", "threads": 7, "descriptors": 31}
    return ProcessMemory(**{**facts, "memory": memory, **changes})


def trend(target: str = APP, **changes: Any) -> MemoryTrend:
    """What the collector says of a service that grows by 1 GiB an hour, 20 minutes before its limit."""
    facts = {
        "target": target, "level": Level.WARNING, "reason": "it leaks", "observed_at": NOW, "instance": RUN,
        "trend": Trend.EXHAUSTING, "detector": Detector.FAST, "per_hour": 1024.0 * MIB, "floor_start": 100 * MIB,
        "floor_now": 400 * MIB, "held": 410 * MIB, "seconds_to_limit": 1200.0, "window": 1800.0,
        "since": NOW - timedelta(minutes=5), "series_since": NOW - timedelta(hours=2),
        "sparkline": (100 * MIB, 200 * MIB, 400 * MIB),
    }  # fmt: skip
    return MemoryTrend(**{**facts, **changes})


def growing(**changes: Any) -> MemoryTrend:
    """It has been growing for days, and there is time."""
    facts = {"trend": Trend.GROWING, "detector": Detector.SLOW, "per_hour": 5.0 * MIB, "seconds_to_limit": 400_000.0}
    return trend(**{**facts, **changes})


def content(**changes: Any) -> MemoryTrend:
    facts = {"level": Level.OK, "reason": "", "trend": Trend.LEARNING, "per_hour": None, "seconds_to_limit": None}
    return trend(**{**facts, **changes})


@dataclass
class World:
    """Has one unit that holds 410 MiB of 740 MiB. What is named in `broken` raises ProbeError when it is read."""

    units_here: dict[str, Unit] = field(default_factory=lambda: {UNIT: unit()})
    containers_here: list[Container] = field(default_factory=list)
    held: dict[str, int] = field(default_factory=lambda: {f"/system.slice/{UNIT}": 410 * MIB})
    """path of a control group → what it holds"""
    limits: dict[str, int] = field(default_factory=lambda: {f"/system.slice/{UNIT}": 740 * MIB})
    limit_at: dict[str, str] = field(default_factory=dict)
    available: int = 8192 * MIB
    processes_here: dict[int, ProcessMemory] = field(default_factory=lambda: {FIRST_PID: process()})
    matches: dict[str, list[ProcessIdentity]] = field(default_factory=dict)
    handlers: set[str] = field(default_factory=set)
    checked: Checked | None = None
    broken: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    done: list[tuple[Any, ...]] = field(default_factory=list)
    refuse: dict[str, Outcome] = field(default_factory=dict)
    """what a tool answers, by its name; done when not given"""
    garbage: float = 0.0
    """share of what the unit holds that a collection frees"""

    @property
    def units(self) -> "UnitsPort":
        return UnitsPort(self)

    @property
    def memory(self) -> "MemoryPort":
        return MemoryPort(self)

    @property
    def processes(self) -> "ProcessesPort":
        return ProcessesPort(self)

    @property
    def containers(self) -> "ContainersPort":
        return ContainersPort(self)

    @property
    def commands(self) -> "CommandsPort":
        return CommandsPort(self)

    def read(self, what: str) -> None:
        self.asked.append(what)
        if what in self.broken:
            raise ProbeError(f"{what}: permission denied")

    def do(self, tool: str, name: str, *details: Any) -> bool:
        """Whether the tool does it."""
        self.done.append((tool, name, *details))
        return self.refuse.get(tool, Outcome.DONE) is Outcome.DONE

    def result(self, tool: str, name: str) -> ItemResult:
        outcome = self.refuse.get(tool, Outcome.DONE)
        return ItemResult(name=name, outcome=outcome, reason="" if outcome is Outcome.DONE else "as the test wants it")

    # ── the remedy on this machine ────────────────────────────────────────────────────────────────────────────────

    def case(self, heard: MemoryTrend | None = None, target: str = APP, **settings: Any) -> Case[MemoryMonitoring]:
        return Case(host="here", target=target, settings=MemoryMonitoring(**settings), now=NOW, heard=heard)

    def gap(self, heard: MemoryTrend | None = None, **settings: Any) -> Gap:
        case = self.case(heard, **settings)
        return REMEDY.gap(case, REMEDY.observe(case, self))

    def found(self, case: Case[MemoryMonitoring]) -> Found:
        return REMEDY.survey(case, REMEDY.observe(case, self), self)

    def plan(self, case: Case[MemoryMonitoring]) -> Plan:
        seen: Seen = REMEDY.observe(case, self)
        return REMEDY.plan(case, seen, REMEDY.survey(case, seen, self))


@dataclass
class UnitsPort:
    world: World

    def services(self, globs: Collection[str]) -> list[Unit]:
        self.world.read("units")
        return [each for each in self.world.units_here.values() if any(fnmatchcase(each.name, glob) for glob in globs)]

    def unit(self, name: str) -> Unit | None:
        self.world.read("unit")
        return self.world.units_here.get(name)

    def restart(self, name: str, invocation: str, timeout: float) -> ItemResult:
        world, now = self.world, self.world.units_here[name]
        if now.invocation != invocation:
            return ItemResult(name=name, outcome=Outcome.SKIPPED, reason="another run than planned")
        if world.do("restart", name, invocation, timeout):
            new = f"{int(invocation, 16) + 1:032x}"
            world.units_here[name] = now.model_copy(update={"invocation": new, "active": "active"})
            world.held[now.control_group] = 50 * MIB
        elif world.refuse["restart"] is Outcome.FAILED:
            world.units_here[name] = now.model_copy(
                update={"active": "failed", "result": "exit-code", "exit_code": 1, "exit_status": 1}
            )
        return world.result("restart", name)


@dataclass
class MemoryPort:
    world: World

    def host(self) -> HostMemory:
        self.world.read("host")
        return HostMemory(total=16_384 * MIB, available=self.world.available)

    def control_group(self, path: str) -> ControlGroupMemory:
        self.world.read("control_group")
        if path not in self.world.held:
            raise ProbeError(f"{path} is gone")
        held = self.world.held[path]
        return ControlGroupMemory(
            path=path, version=2, usage=held, working_set=held, anonymous=held, limit=self.world.limits.get(path),
            limit_at=self.world.limit_at.get(path, path), processes=tuple(self.world.processes_here),
        )  # fmt: skip

    def processes(self, path: str) -> tuple[int, ...]:
        self.world.read("group processes")
        return tuple(self.world.processes_here)

    def control_group_of(self, pid: int) -> str:
        self.world.read("control_group_of")
        return self.world.processes_here[pid].cgroup


@dataclass
class ProcessesPort:
    world: World

    def memory(self, pids: Collection[int]) -> list[ProcessMemory]:
        self.world.read("memory")
        return [self.world.processes_here[pid] for pid in pids if pid in self.world.processes_here]

    def matching(self, command: str, user: str | None = None) -> list[ProcessIdentity]:
        self.world.read("matching")
        return self.world.matches.get(command, [])

    def identity(self, pid: int) -> ProcessIdentity | None:
        self.world.read("identity")
        found = self.world.processes_here.get(pid)
        return found.identity if found is not None else None

    def mappings(self, pid: int, count: int) -> list[MemoryMapping]:
        self.world.read("mappings")
        return [
            MemoryMapping(pid=pid, name="[heap]", memory=300 * MIB),
            MemoryMapping(pid=pid, name="/lib/libc.so", memory=MIB),
        ]

    def handles(self, pid: int, signal: str) -> bool:
        self.world.read("handles")
        return signal in self.world.handlers

    def signal(self, process: ProcessIdentity, name: str) -> ItemResult:
        if self.world.do("signal", name, process.pid):
            for path in self.world.held:
                self.world.held[path] = int(self.world.held[path] * (1 - self.world.garbage))
        return self.world.result("signal", str(process.pid))

    def collect_java(self, process: ProcessIdentity, timeout: float) -> ItemResult:
        self.world.do("jcmd", str(process.pid), timeout)
        return self.world.result("jcmd", str(process.pid))

    def ask(self, url: str, method: str, timeout: float) -> ItemResult:
        self.world.do("ask", url, method, timeout)
        return self.world.result("ask", url)


@dataclass
class ContainersPort:
    world: World

    def running(self) -> list[Container]:
        self.world.read("running")
        return self.world.containers_here

    def container(self, name: str) -> Container | None:
        self.world.read("container")
        return next((each for each in self.world.containers_here if each.name == name), None)

    def restart(self, engine: str, container_id: str, started: datetime, timeout: float) -> ItemResult:
        self.world.do("restart_container", container_id, engine, started, timeout)
        return self.world.result("restart_container", container_id)


@dataclass
class CommandsPort:
    world: World

    def check(self, command: Command) -> Checked | None:
        self.world.read(f"check {command.shown()}")
        return self.world.checked

    def run(self, function: str, target: str, command: Command) -> ItemResult:
        self.world.do("run", target, function, command.argv, command.timeout)
        return self.world.result("run", target)


def titles(plan: Plan) -> list[str]:
    return [finding.title for finding in plan.findings]


def names(plan: Plan) -> list[str]:
    return [rung.name for rung in plan.rungs]


def actions(plan: Plan) -> Sequence[Any]:
    return [action for rung in plan.rungs for action in rung.actions]
