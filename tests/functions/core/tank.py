"""A small world for the engine: tanks that fill up, a remedy that drains them, and an in-memory bus side."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Literal

from functions.core.engine import Engine
from functions.core.plan import Action, Plan, Rung
from functions.core.ports import Fenced, LedgerConflict, NotStored, PlanTooLarge, Ports, Remembered, Token, ToolError
from functions.core.remedy import Case, Remedy
from schemas.alert import Alert
from schemas.approval import Approval, PendingPlan
from schemas.audit import ActionEvent
from schemas.envelope import Event
from schemas.facts.files import Fact
from schemas.fleet import Fleet
from schemas.freeze import Freeze
from schemas.health import Health, Level
from schemas.incident import Incident
from schemas.probes import ProbeError
from schemas.remediation import ActionResult, Estimate, Gap, Mode, Outcome, Risk, UndoWhen
from schemas.settings.base import Settings
from schemas.settings.policy import EffectivePolicy


class TankSettings(Settings):
    limit: int = 10
    grace: timedelta = timedelta(0)
    advice: str = ""


class TankHealth(Health):
    domain: ClassVar[str] = "water"
    signal: ClassVar[str] = "level"


class TankSeen(Fact):
    water: int


class TankFound(Fact):
    done: tuple[str, ...] = ()


class Tanks:
    """Both probes and tools of this world."""

    def __init__(self, **water: int) -> None:
        self.water = water
        self.fail: set[str] = set()
        self.busy: set[str] = set()
        self.crash: set[str] = set()
        self.leak: set[str] = set()
        """drains named here free nothing"""
        self.refill = 0
        self.broken_probe = ""
        self.observed = 0
        self.log: list[str] = []

    def drain(self, tank: str, amount: int, name: str) -> ActionResult:
        if name in self.busy:
            return ActionResult(outcome=Outcome.DEFERRED, detail="somebody holds the valve")
        if name in self.fail:
            raise ToolError(f"valve {name} is jammed; open it by hand")
        if name in self.crash:
            raise RuntimeError("the valve exploded")
        freed = 0 if name in self.leak else amount
        self.water[tank] += self.refill - freed
        self.log.append(name)
        return ActionResult(outcome=Outcome.DONE, done=1, freed={"litres": freed})


class Drain(Action):
    risk: ClassVar[Risk] = Risk.IRREVERSIBLE
    undo: ClassVar[str] = "none"
    repeatable: ClassVar[bool] = True

    action: Literal["drain"] = "drain"
    tank: str
    litres: int
    name: str
    exact_estimate: bool = True

    def title(self) -> str:
        return f"drain {self.litres} l by {self.name}"

    def estimates(self) -> tuple[Estimate, ...]:
        return (Estimate(amount=self.litres, unit="litres", exact=self.exact_estimate),)

    def items(self) -> list[str]:
        return [self.name]

    def apply(self, tools: Any) -> ActionResult:
        return tools.drain(self.tank, self.litres, self.name)


class Pour(Drain):
    """A drain that can be taken back by itself with the sign turned."""

    risk: ClassVar[Risk] = Risk.REVERSIBLE
    undo: ClassVar[str] = "pour it back"
    undo_when: ClassVar[UndoWhen] = UndoWhen.FAILED
    repeatable: ClassVar[bool] = False

    action: Literal["pour"] = "pour"

    def inverse(self, result: ActionResult | None) -> "Pour":
        return self.model_copy(update={"litres": -self.litres, "name": f"undo-{self.name}"})


class Setting(Pour):
    """Taken back when it did not help."""

    undo_when: ClassVar[UndoWhen] = UndoWhen.GAP_NOT_SMALLER
    action: Literal["setting"] = "setting"


class Restart(Drain):
    """Something is shortly away."""

    risk: ClassVar[Risk] = Risk.AVAILABILITY
    action: Literal["restart"] = "restart"


class Blast(Drain):
    """Neither repeatable nor to be taken back."""

    repeatable: ClassVar[bool] = False
    action: Literal["blast"] = "blast"


def remedy(
    *rungs: tuple[Action, ...], grace: timedelta = timedelta(0), advice: str = "", once: bool = False
) -> Remedy[Any, Any, Any]:
    def observe(case: Case[TankSettings], probes: Tanks) -> TankSeen:
        probes.observed += 1
        if probes.broken_probe:
            raise ProbeError(probes.broken_probe)
        return TankSeen(water=probes.water[case.target.partition(":")[2]])

    def plan(case: Case[TankSettings], seen: TankSeen, found: TankFound) -> Plan:
        ladder = tuple(
            Rung(
                name=f"rung{number}",
                title=f"Rung {number}",
                actions=tuple(each for each in actions if each.name not in found.done),
            )
            for number, actions in enumerate(rungs, 1)
            if f"rung{number}" not in case.skip_rungs
        )
        return Plan(rungs=ladder, grace=grace, advice=advice)

    return Remedy(
        name="water.drain", title="Drain full tanks", section_name="water_monitoring", section=TankSettings,
        listens=(TankHealth,), actions=(Drain, Pour, Setting, Restart, Blast),
        targets=lambda settings, probes: [f"tank:{name}" for name in probes.water],
        observe=observe,
        gap=lambda case, seen: Gap(amount=seen.water - case.settings.limit, unit="litres"),
        survey=lambda case, seen, probes: TankFound(done=tuple(probes.log) if once else ()),
        plan=plan,
    )  # fmt: skip


@dataclass
class MemoryLedger:
    incidents: dict[str, tuple[Incident, int]] = field(default_factory=dict)
    saves: int = 0
    loads: int = 0
    down: bool = False

    def is_open(self, target: str) -> bool:
        return target in self.incidents and self.incidents[target][0].open

    def open_incidents(self) -> list[Incident]:
        return [incident for incident, _ in self.incidents.values() if incident.open]

    async def load(self, target: str) -> Remembered:
        self.loads += 1
        incident, revision = self.incidents.get(target, (None, 0))
        return Remembered(incident, revision)

    async def save(self, incident: Incident, revision: int) -> int:
        if self.down:
            raise NotStored("the ledger is away")
        if self.incidents.get(incident.target, (None, 0))[1] != revision:
            raise LedgerConflict("somebody wrote first")
        self.saves += 1
        # Through JSON, as on the bus.
        stored = Incident.model_validate_json(incident.model_dump_json())
        self.incidents[incident.target] = stored, revision + 1
        return revision + 1


class MemoryLease:
    def __init__(self, leases: "MemoryLeases", tokens: dict[str, Token]) -> None:
        self.leases, self.tokens, self.lost = leases, tokens, False

    async def release(self) -> None:
        for resource in self.tokens:
            self.leases.held.pop(resource, None)


@dataclass
class MemoryLeases:
    held: dict[str, MemoryLease] = field(default_factory=dict)
    acquired: int = 0

    async def acquire(self, resources: Sequence[str]) -> MemoryLease | None:
        if any(resource in self.held for resource in resources):
            return None
        self.acquired += 1
        lease = MemoryLease(self, {resource: Token(1, self.acquired) for resource in resources})
        self.held |= dict.fromkeys(resources, lease)
        return lease


@dataclass
class MemoryFence:
    latest: dict[str, Token] = field(default_factory=dict)

    def admit(self, tokens: Mapping[str, Token]) -> None:
        for resource, token in tokens.items():
            if self.latest.get(resource, token) > token:
                raise Fenced(f"a later holder has acted on {resource}")
        self.latest |= tokens

    @contextmanager
    def passing(self, tokens: Mapping[str, Token], *, wait: bool = True) -> Iterator[None]:
        self.admit(tokens)
        yield


@dataclass
class MemorySignals:
    said: dict[str, TankHealth] = field(default_factory=dict)

    async def latest(self, target: str) -> TankHealth | None:
        return self.said.get(target)


@dataclass
class MemoryBrake:
    freeze: Freeze | None = None

    def frozen(self) -> Freeze | None:
        return self.freeze


@dataclass
class MemoryPermits:
    fleet: Fleet = field(default_factory=Fleet)
    reports: list[bool] = field(default_factory=list)
    taken: int = 0
    given_back: int = 0
    storming: bool = False

    def view(self, now: datetime) -> Fleet:
        return self.fleet

    async def report(self, *, unhealthy: bool) -> None:
        self.reports.append(unhealthy)

    async def take(self, judge: Callable[[Fleet], Any], *, irreversible: bool) -> Any:
        objection = judge(self.fleet)
        if objection is None:
            self.taken += 1
        return objection

    async def give_back(self) -> None:
        self.given_back += 1

    async def storm(self, *, begins: bool, unhealthy: int = 0, members: int = 0) -> bool:
        first, self.storming = self.storming is not begins, begins
        return first


@dataclass
class MemoryPlans:
    clock: "HandClock"
    waiting: dict[tuple[str, str], PendingPlan] = field(default_factory=dict)
    largest: int = 1_000_000

    async def put(self, plan: PendingPlan) -> None:
        if len(plan.model_dump_json()) > self.largest:
            raise PlanTooLarge(f"the plan has {len(plan.model_dump_json())} bytes, a message holds {self.largest}")
        self.waiting = {key: each for key, each in self.waiting.items() if key[0] != plan.target}
        self.waiting[plan.target, plan.hash] = PendingPlan.model_validate_json(plan.model_dump_json())

    async def get(self, target: str, plan_hash: str) -> PendingPlan | None:
        found = self.waiting.get((target, plan_hash))
        return found if found is not None and self.clock.now() < found.expires_at else None

    async def take(self, target: str, plan_hash: str) -> bool:
        return self.waiting.pop((target, plan_hash), None) is not None


@dataclass
class MemoryStory:
    records: list[dict[str, Any]] = field(default_factory=list)
    events: list[ActionEvent] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    questions: list[Approval] = field(default_factory=list)
    refuse_audit: set[str] = field(default_factory=set)
    refuse_alerts: bool = False

    async def audit(self, correlation: str, **fields: Any) -> None:
        await asyncio.sleep(0)
        if str(fields["step"]) in self.refuse_audit:
            raise NotStored("the audit stream is full")
        self.records.append({"correlation": correlation, **fields})

    async def approval(self, correlation: str, approval: Approval) -> None:
        self.questions.append(approval)

    async def action(self, correlation: str, event: ActionEvent) -> None:
        self.events.append(event)

    async def alert(self, correlation: str, alert: Alert) -> bool:
        self.alerts.append(alert)
        return not self.refuse_alerts

    @property
    def steps(self) -> list[str]:
        return [str(record["step"]) for record in self.records]


class HandClock:
    """Time moves when it is told to; sleepers wake when their moment comes."""

    def __init__(self) -> None:
        self._set = datetime(2026, 1, 1, tzinfo=UTC)
        self._steady = timedelta(0)
        self._sleepers: list[tuple[timedelta, asyncio.Future[None]]] = []

    def now(self) -> datetime:
        self._steady += timedelta(microseconds=1)
        return self._set + self._steady

    def monotonic(self) -> float:
        return self._steady.total_seconds()

    def jump(self, by: timedelta) -> None:
        """Somebody sets the clock: nothing has passed."""
        self._set += by

    async def sleep(self, duration: timedelta) -> None:
        if duration <= timedelta(0):
            return await asyncio.sleep(0)
        future = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._steady + duration, future))
        return await future

    def sleeping(self) -> int:
        """How many sleep."""
        self._sleepers = [sleeper for sleeper in self._sleepers if not sleeper[1].done()]
        return len(self._sleepers)

    def waiting(self) -> bool:
        return bool(self.sleeping())

    def next_wake(self) -> timedelta:
        """Until the first sleeper wakes."""
        return min(due for due, _ in self._sleepers) - self._steady

    def advance(self, duration: timedelta) -> None:
        self._steady += duration
        due = [sleeper for sleeper in self._sleepers if sleeper[0] <= self._steady]
        self._sleepers = [sleeper for sleeper in self._sleepers if sleeper[0] > self._steady]
        for _, future in due:
            if not future.done():
                future.set_result(None)


EAGER: dict[str, Any] = {
    "confirmation": {"needed": 1, "of": 1},
    "second_source": False,
    "risk_modes": {"irreversible": "auto"},
    "max_fixes": 20,
    "flapping": {"begin": 20, "end": 19},
    "budget": {"per_function": 1_000_000, "per_host": 1_000_000, "irreversible": 1_000_000},
}
"""A policy that acts at the first look, for tests of what comes after the guard."""


class Plant:
    """An engine with its world."""

    def __init__(self, tanks: Tanks, treatment: Remedy[Any, Any, Any], mode: Mode = Mode.AUTO, **policy: Any) -> None:
        self.tanks = tanks
        self.ledger = MemoryLedger()
        self.leases = MemoryLeases()
        self.fence = MemoryFence()
        self.brake = MemoryBrake()
        self.permits = MemoryPermits()
        self.clock = HandClock()
        self.plans = MemoryPlans(self.clock)
        self.signals = MemorySignals()
        self.story = MemoryStory()
        self.remedy = treatment
        self.policy = EffectivePolicy.model_validate({**EAGER, "mode": mode, **policy})
        self.engines: list[Engine] = []
        self.engine = self.new_engine()

    def new_engine(self) -> Engine:
        """Another process on the same bus."""
        ports = Ports(
            self.tanks, self.tanks, self.ledger, self.leases, self.fence, self.brake,  # type: ignore[arg-type]
            self.permits, self.plans, self.signals, self.story,
        )  # fmt: skip
        timeout = timedelta(seconds=5)
        engine = Engine(self.remedy, TankSettings(), self.policy, "host-1", ports, self.clock, read_timeout=timeout)
        self.engines.append(engine)
        return engine

    def busy(self) -> bool:
        """Some engine treats a target, or is just about to."""
        timers = [task for engine in self.engines for _, task in engine._again.values() if not task.done()]
        return any(engine._running for engine in self.engines) or len(timers) > self.clock.sleeping()

    def refused(self) -> list[str]:
        """The rules that refused, as the audit has them."""
        return [str(record["rule"]) for record in self.story.records if record["step"] == "refused"]

    def waited(self) -> list[str]:
        """The rules that put something off."""
        return [str(record["rule"]) for record in self.story.records if record["step"] == "deferred"]

    def event(self, target: str = "tank:a", level: Level = Level.CRITICAL) -> Event[TankHealth]:
        now = self.clock.now()
        health = TankHealth(target=target, level=level, reason=f"{target} is {level}", observed_at=now)
        return Event[TankHealth](source="/test", type=TankHealth.type_name(), subject=target, time=now, data=health)

    def incident(self, target: str = "tank:a") -> Incident:
        return self.ledger.incidents[target][0]
