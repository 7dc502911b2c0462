"""A machine in memory whose kernel holds groups to limits, and an engine on it; both its probes and its tools."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any

from functions.core.engine import Engine
from functions.core.plan import Plan
from functions.core.ports import Ports
from functions.core.remedy import Case
from functions.memory.enforce_limit import REMEDY
from functions.memory.limits import LimitsFound, LimitsSeen
from schemas.envelope import Event
from schemas.facts.cgroups import ControlGroupMemory, HostMemory, Pressure
from schemas.facts.containers import Container
from schemas.facts.processes import ProcessIdentity
from schemas.facts.units import Unit
from schemas.health import Level
from schemas.memory import MemoryTrend
from schemas.probes import ProbeError
from schemas.remediation import Gap, ItemResult, Mode, Outcome
from schemas.settings.memory import MemoryMonitoring
from tests.functions.core.tank import Plant
from tests.functions.memory.world import APP, FIRST_PID, MIB, NOW, RUN, UNIT, container, identity, trend, unit

GROUP = f"/system.slice/{UNIT}"
WORKERS = "/workers"
WEB = "/docker/web-1"


def group(path: str = GROUP, **changes: Any) -> ControlGroupMemory:
    """In which 200 MiB are in use, 100 MiB of them cache that goes for the asking."""
    facts = {
        "path": path, "version": 2, "usage": 300 * MIB, "working_set": 200 * MIB, "anonymous": 200 * MIB,
        "processes": (FIRST_PID,), "high_events": 0, "pressure": Pressure(),
    }  # fmt: skip
    return ControlGroupMemory(**{**facts, **changes})


@dataclass
class LimitWorld:
    """Has a unit, a container and a matching process, each without a limit, on a host with 1 GiB of free swap.

    What is named in `broken` raises ProbeError when it is read; `refuse` is what every tool answers, done when not
    given; in `crash` every tool ends with an error nobody expects. To a `deaf` kernel tools say things in vain.
    """

    units_here: dict[str, Unit] = field(default_factory=lambda: {UNIT: unit()})
    containers_here: list[Container] = field(default_factory=lambda: [container()])
    groups: dict[str, ControlGroupMemory] = field(
        default_factory=lambda: {path: group(path) for path in (GROUP, WEB, WORKERS)}
    )
    matches: list[ProcessIdentity] = field(default_factory=lambda: [identity()])
    swap_free: int = 1024 * MIB
    broken: set[str] = field(default_factory=set)
    done: list[tuple[Any, ...]] = field(default_factory=list)
    refuse: Outcome | None = None
    crash: bool = False
    deaf: bool = False

    # one object is every port, but for `processes`, which two of them have
    @property
    def units(self) -> "LimitWorld":
        return self

    control_groups = memory = units

    @property
    def containers(self) -> "ContainersPort":
        return ContainersPort(self)

    @property
    def processes(self) -> "ProcessesPort":
        return ProcessesPort(self)

    def read(self, what: str) -> None:
        if what in self.broken:
            raise ProbeError(f"{what}: permission denied")

    # ── probes ────────────────────────────────────────────────────────────────────────────────────────────────────

    def services(self, globs: Collection[str]) -> list[Unit]:
        self.read("units")
        return [each for each in self.units_here.values() if any(fnmatchcase(each.name, glob) for glob in globs)]

    def unit(self, name: str) -> Unit | None:
        self.read("unit")
        return self.units_here.get(name)

    def host(self) -> HostMemory:
        return HostMemory(total=16_384 * MIB, available=8192 * MIB, swap_free=self.swap_free)

    def control_group(self, path: str) -> ControlGroupMemory:
        if path not in self.groups:
            raise ProbeError(f"read the control group {path}: it is gone")
        return self.groups[path]

    def control_group_of(self, pid: int) -> str:
        return WORKERS

    # ── tools ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def limit_memory(self, name: str, *values: Any) -> ItemResult:
        """Of a unit, and of a group, by what *name* is."""
        self.done.append((name, *values))
        if self.crash:
            raise RuntimeError("the cable was pulled")
        if self.refuse is not None:
            return ItemResult(name=name, outcome=self.refuse, reason="as the test wants it")
        *run, high, maximum = values
        if run:
            return self._limit_unit(name, run[0], high, maximum)
        self.hold(name, high, maximum)
        return ItemResult(name=name, outcome=Outcome.DONE)

    def _limit_unit(self, name: str, invocation: str, high: int | None, maximum: int | None) -> ItemResult:
        now = self.units_here[name]
        if now.invocation != invocation:
            return ItemResult(name=name, outcome=Outcome.SKIPPED, reason="another run than planned")
        self.units_here[name] = now.model_copy(update={"memory_high": high, "memory_max": maximum})
        self.hold(now.control_group, high, maximum)
        return ItemResult(name=name, outcome=Outcome.DONE)

    def hold(self, path: str, high: int | None, maximum: int | None) -> None:
        """The kernel does; one of version 1 knows no high."""
        now = self.groups[path]
        if not self.deaf:
            high = high if now.version == 2 else None
            self.change(path, high=high, maximum=maximum, limit=maximum, limit_at=path if maximum is not None else "")

    def change(self, path: str = GROUP, **changes: Any) -> None:
        self.groups[path] = self.groups[path].model_copy(update=changes)

    def strangle(self, path: str = GROUP) -> None:
        """It has come to its high, and nothing can be reclaimed."""
        high = self.groups[path].high
        self.change(path, usage=high, working_set=high, pressure=Pressure(full10=90.0, full60=60.0))

    # ── the remedy on this machine ────────────────────────────────────────────────────────────────────────────────

    def case(self, target: str = APP, heard: MemoryTrend | None = None, **changes: Any) -> Case[MemoryMonitoring]:
        """Of *changes* those of the settings; `skip_rungs` is the case's."""
        skip = changes.pop("skip_rungs", frozenset())
        settings = settings_of(target, **changes)
        return Case(host="here", target=target, settings=settings, now=NOW, heard=heard, skip_rungs=frozenset(skip))

    def seen(self, *arguments: Any, **changes: Any) -> LimitsSeen:
        return REMEDY.observe(self.case(*arguments, **changes), self)

    def gap(self, *arguments: Any, **changes: Any) -> Gap:
        case = self.case(*arguments, **changes)
        return REMEDY.gap(case, REMEDY.observe(case, self))

    def found(self, *arguments: Any, **changes: Any) -> LimitsFound:
        case = self.case(*arguments, **changes)
        return REMEDY.survey(case, REMEDY.observe(case, self), self)

    def plan(self, *arguments: Any, **changes: Any) -> Plan:
        case = self.case(*arguments, **changes)
        seen = REMEDY.observe(case, self)
        return REMEDY.plan(case, seen, REMEDY.survey(case, seen, self))


@dataclass
class ContainersPort:
    world: LimitWorld

    def running(self) -> list[Container]:
        self.world.read("containers")
        return self.world.containers_here

    def container(self, name: str) -> Container | None:
        return next((each for each in self.world.containers_here if each.name == name), None)

    def limit_memory(self, engine: str, container_id: str, limit: int | None, swap_limit: int | None) -> ItemResult:
        world = self.world
        world.done.append((engine, container_id, limit, swap_limit))
        place = next(place for place, each in enumerate(world.containers_here) if each.id == container_id)
        now = world.containers_here[place]
        world.containers_here[place] = now.model_copy(update={"memory_limit": limit, "memory_swap_limit": swap_limit})
        world.hold(now.control_group, None, limit)
        return ItemResult(name=now.name, outcome=Outcome.DONE)


@dataclass
class ProcessesPort:
    """Of processes, and, as a method of the probe of memory, of a group."""

    world: LimitWorld

    def matching(self, command: str, user: str | None = None) -> list[ProcessIdentity]:
        return self.world.matches

    def __call__(self, path: str) -> tuple[int, ...]:
        return self.world.groups[path].processes


def settings_of(target: str, **changes: Any) -> MemoryMonitoring:
    """With *high* and *maximum* for the target."""
    limits = {name: changes.pop(name) for name in ("high", "maximum") if name in changes}
    settings = {"services": {target: limits} if limits else {}, "processes": {"worker": {"command": "worker.py"}}}
    return MemoryMonitoring.model_validate({**settings, **changes})


class LimitPlant(Plant):
    """An engine on such a machine; on a real one with *tools* of its own."""

    def __init__(
        self, world: Any, settings: MemoryMonitoring, mode: Mode = Mode.AUTO, tools: Any = None, **policy: Any
    ) -> None:
        self.world = world
        self.tools = world if tools is None else tools
        self.settings = settings
        super().__init__(world, REMEDY, mode, **policy)  # type: ignore[arg-type]

    def new_engine(self) -> Engine:
        ports = Ports(
            self.world, self.tools, self.ledger, self.leases, self.fence, self.brake,  # type: ignore[arg-type]
            self.permits, self.plans, self.signals, self.story,  # type: ignore[arg-type]
        )  # fmt: skip
        timeout = timedelta(seconds=5)
        engine = Engine(REMEDY, self.settings, self.policy, "host-1", ports, self.clock, read_timeout=timeout)
        self.engines.append(engine)
        return engine

    async def hear(self, level: Level = Level.WARNING, target: str = APP, instance: str = RUN) -> Any:
        """The collector says so; it is what is remembered as said last, too."""
        now = self.clock.now()
        said = trend(target, level=level, observed_at=now, instance=instance, floor_start=0, floor_now=0)
        self.signals.said[target] = said  # type: ignore[assignment]
        kind = Event[MemoryTrend]
        event = kind(source="/test", type=MemoryTrend.type_name(), subject=target, time=now, data=said)
        return await self.engine.on_health(event)

    def outcomes(self) -> list[str]:
        """What became of every action, and of every way back."""
        steps = {"acted", "failed", "undone"}
        return [f"{each['step']} {each['outcome']}" for each in self.story.records if each["step"] in steps]


def titles(plan: Plan) -> list[str]:
    return [finding.title for finding in plan.findings]


def names(plan: Plan) -> list[str]:
    return [rung.name for rung in plan.rungs]


def only(plan: Plan) -> Any:
    """The one action of a plan."""
    [action] = [action for rung in plan.rungs for action in rung.actions]
    return action
