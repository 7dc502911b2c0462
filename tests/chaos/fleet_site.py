"""Sites for trouble: a server, hosts on it by the dozen, a clock that can be set, a world that notes what was done."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from bus import subjects
from bus.jetstream import JetStreamBus, connect
from bus.port import Bucket, KeyValue, Stored, StreamName
from functions.core.plan import Plan, Rung
from functions.core.remedy import AnyRemedy, Case, Remedy
from infra.audit.findings import Verification
from infra.audit.keys import Keyring
from infra.audit.online import verify_stream
from infra.audit.trust import Trust, local_keys
from infra.hosts.function_host import FunctionHost, Machine, process_name
from schemas.alert import Alert, AlertState
from schemas.audit import AuditRecord, Step
from schemas.clock import Clock, SystemClock
from schemas.envelope import Event
from schemas.health import Level
from schemas.incident import Incident
from schemas.probes import ProbeError
from schemas.remediation import ActionResult, Gap, Outcome
from schemas.settings.bus import BusSettings
from schemas.settings.policy import Policy
from schemas.settings.root import Configuration
from tests.audit_trail import records_of
from tests.functions.core.tank import EAGER, Drain, TankFound, TankHealth, TankSeen, TankSettings
from tests.servers import NatsServer, running_server

FUNCTION = "water.drain"
HOST = "web-1"
TARGET = "tank:a"
LIMIT = 10
"""Litres at which a tank is healthy."""
STEP = 3
"""Litres that one action drains."""
REPOSITORY = Path(__file__).parents[2]
PATIENCE = 60
"""Seconds that a test waits for what must come."""


class TankConfiguration(Configuration):
    water_monitoring: TankSettings = TankSettings()


# The world.


class Effect(NamedTuple):
    """One action as the world saw it. `began` and `ended` are monotonic, the same for all processes of a machine."""

    host: str
    tank: str
    name: str
    began: float
    ended: float
    at: datetime


@dataclass
class World:
    """The tanks of one host, and the log that all hosts share. Both probes and tools."""

    host: str
    water: dict[str, int]
    effects: list[Effect] = field(default_factory=list)
    takes: float = 0.0
    """seconds of one action"""
    clock: Clock = field(default_factory=SystemClock)
    during: Callable[[str], None] = lambda name: None
    """called in the middle of an action, in its thread"""
    refill: int = 0
    """litres that come in with each action"""
    broken_probe: str = ""

    def level(self, tank: str) -> int:
        if self.broken_probe:
            raise ProbeError(self.broken_probe)
        return self.water[tank]

    def tanks(self) -> list[str]:
        return list(self.water)

    def drain(self, tank: str, amount: int, name: str) -> ActionResult:
        began, at = time.monotonic(), self.clock.now()
        self.during(name)
        time.sleep(self.takes)
        self.water[tank] += self.refill - amount
        self.effects.append(Effect(self.host, tank, name, began, time.monotonic(), at))
        return ActionResult(outcome=Outcome.DONE, done=1, freed={"litres": amount})

    @property
    def done(self) -> list[str]:
        return [effect.name for effect in self.effects if effect.host == self.host]


def draining(actions: int = 100, kind: type[Drain] = Drain) -> AnyRemedy:
    """Drains a tank to its limit by steps of three litres, no more than *actions* in one plan.

    An action is named after the level that it drains from: whatever runs a second time bears a name twice.
    """

    def plan(case: Case[TankSettings], seen: TankSeen, found: TankFound) -> Plan:
        tank = case.target.partition(":")[2]
        levels = list(range(seen.water, LIMIT, -STEP))[:actions]
        steps = tuple(kind(tank=tank, litres=STEP, name=f"{tank} from {level}") for level in levels)
        return Plan(rungs=(Rung(name="drain", title="Drain it", actions=steps),))

    return Remedy(
        name=FUNCTION, title="Drain full tanks", section_name="water_monitoring", section=TankSettings,
        listens=(TankHealth,), actions=(kind,),
        targets=lambda settings, probes: [f"tank:{name}" for name in probes.tanks()],
        observe=lambda case, probes: TankSeen(water=probes.level(case.target.partition(":")[2])),
        gap=lambda case, seen: Gap(amount=seen.water - LIMIT, unit="litres"),
        survey=lambda case, seen, probes: TankFound(),
        plan=plan,
    )  # fmt: skip


class SetClock:
    """Runs *scale* times as fast as the machine's.

    `advance` lets time pass at once; `jump` sets the wall time only, of which the steady one knows nothing.
    """

    def __init__(self, scale: float = 1.0, begin: datetime | None = None) -> None:
        self._scale = scale
        self._wall = begin or datetime.now(UTC)
        self._passed = 0.0
        self._real = time.monotonic()
        self._moved = asyncio.Event()
        self._sleepers: list[float] = []

    def now(self) -> datetime:
        return self._wall + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return self._passed + (time.monotonic() - self._real) * self._scale

    async def sleep(self, duration: timedelta) -> None:
        until = self.monotonic() + duration.total_seconds()
        self._sleepers.append(until)
        try:
            await asyncio.sleep(0)
            while (left := until - self.monotonic()) > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left / self._scale):
                        await self._moved.wait()
        finally:
            self._sleepers.remove(until)

    @property
    def due(self) -> bool:
        """Somebody slept until now, and has not woken up yet."""
        return any(until <= self.monotonic() for until in self._sleepers)

    def advance(self, by: timedelta) -> None:
        self._passed += by.total_seconds()
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def jump(self, by: timedelta) -> None:
        self._wall += by


def health(
    target: str = TARGET, level: Level = Level.CRITICAL, at: datetime | None = None, **fields: Any
) -> Event[TankHealth]:
    time_of_it = at or datetime.now(UTC)
    data = TankHealth(target=target, level=level, reason=f"{target} is {level}", observed_at=time_of_it)
    return Event[TankHealth](
        source="/test", type=TankHealth.type_name(), subject=target, time=time_of_it, data=data, **fields
    )


# The site.


class Site:
    """Everything that is started here is stopped with it."""

    def __init__(
        self, server: NatsServer, settings: BusSettings, directory: Path, stack: contextlib.AsyncExitStack
    ) -> None:
        self.server = server
        self.settings = settings
        self.directory = directory
        """below it what each host keeps: keys, heads, fences"""
        self.stack = stack
        self.bus: JetStreamBus

    @property
    def freeze_file(self) -> Path:
        return self.directory / "freeze"

    def state_of(self, host: str) -> Path:
        """As `schemas.settings.bus.state_directory` has it when XDG_STATE_HOME is a directory of that host."""
        return self.directory / host / "ansai"

    async def join(self, url: str | None = None) -> JetStreamBus:
        """A connection, as a process of its own would have."""
        bus = await connect(self.settings, name="test", url=url)
        self.stack.push_async_callback(bus.close)
        return bus

    def configuration(self, policy: Mapping[str, Any] | None = None) -> TankConfiguration:
        """Live and eager, but for what *policy* says otherwise; `default` in it is for the limits."""
        said = {"mode": "auto", "freeze_file": self.freeze_file, **(policy or {})}
        said["default"] = EAGER | said.get("default", {})
        return TankConfiguration(bus=self.settings, policy=Policy.model_validate(said))

    async def host(
        self, world: World, remedy: AnyRemedy | None = None, policy: Mapping[str, Any] | None = None,
        *, bus: JetStreamBus | None = None, **options: Any,
    ) -> FunctionHost:  # fmt: skip
        """Start a function host in that world; on a connection of its own unless *bus* is given."""
        bus = bus or await self.join()
        options.setdefault("directory", self.state_of(world.host))
        options.setdefault("clock", world.clock)
        machine = Machine(world.host, world, world)  # type: ignore[arg-type]
        spool = options.pop("spool", bus)
        host = FunctionHost([remedy or draining()], self.configuration(policy), bus, spool, machine, **options)
        self.stack.push_async_callback(host.stop)
        await host.start()
        return host

    async def report(
        self, target: str = TARGET, level: Level = Level.CRITICAL, *, host: str = HOST, at: datetime | None = None
    ) -> None:
        """Publish a health event, as a collector does with every change and then now and again."""
        event = health(target, level, at)
        await self.bus.publish(
            subjects.health(host, "water", "level", target), event.body(), message_id=event.id
        )  # fmt: skip

    async def ansai(self, *arguments: str) -> tuple[int, str, str]:
        """Run the command line as somebody on that host does; its status, and what it said and complained of."""
        home = self.directory / "operator"
        home.mkdir(exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSAI_", "XDG_"))}
        ours = {
            "HOME": str(home), "XDG_STATE_HOME": str(self.state_of(HOST).parent), "PYTHONPATH": str(REPOSITORY),
            "PYTHONWARNINGS": "error", "ANSAI_HOST": HOST, "ANSAI_BUS__URL": self.server.url,
            "ANSAI_BUS__LEASE_TTL": f"{self.settings.lease_ttl.total_seconds()} s",
            "ANSAI_BUS__AUDIT_MAX_SIZE": str(self.settings.audit_max_size),
            "ANSAI_POLICY__FREEZE_FILE": str(self.freeze_file),
        }  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "infra.cli.main", *arguments, cwd=home, env=kept | ours,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, complained = await process.communicate()
        assert process.returncode is not None
        return process.returncode, said.decode(), complained.decode()

    # What is on the bus.

    async def stored(self, stream: StreamName, pattern: str = "") -> list[Stored]:
        return [message async for message in self.bus.read(stream, pattern)]

    async def records(self, *steps: Step, rule: str = "") -> list[AuditRecord]:
        """The audit trail, or only these steps of it, or only what that rule decided."""
        found = records_of(await self.stored(StreamName.AUDIT))
        return [each for each in found if (not steps or each.step in steps) and (not rule or each.rule == rule)]

    async def alerts(self, *states: AlertState, saying: str = "") -> list[Alert]:
        found = [Event[Alert].model_validate_json(each.body).data for each in await self.stored(StreamName.ALERT)]
        return [
            each
            for each in found
            if (not states or each.state in states) and saying in f"{each.title} {each.text} {each.next}"
        ]

    async def answered(self, host: str = HOST) -> bool:
        """Every health event about that host was delivered and acknowledged."""
        name = subjects.durable(f"{host}-{process_name([FUNCTION])}")
        told = await self.bus._outbox.api(f"CONSUMER.INFO.HEALTH.{name}")
        return told["num_pending"] == 0 and told["num_ack_pending"] == 0

    async def bucket(self, name: Bucket) -> KeyValue:
        return await self.bus.bucket(name)

    async def incidents(self) -> list[Incident]:
        bucket = await self.bucket(Bucket.INCIDENTS)
        entries = [await bucket.get(key) for key in await bucket.keys()]
        return [Incident.model_validate_json(entry.value) for entry in entries if entry is not None]

    async def verified(self, *hosts: str) -> Verification:
        """The trail, verified by the keys of all hosts, and by what *hosts* remember of their own chains."""
        trust = Trust()
        for keys in sorted(self.directory.glob("*/ansai/audit/keys")):
            trust = trust.joined(local_keys(keys.parents[2].name, Keyring(keys)))
        for host in hosts or (HOST,):
            found = await verify_stream(self.bus, trust, self.state_of(host) / "audit" / "heads", lambda *_: None)
            if not found.ok:
                return found
        return found


@contextlib.asynccontextmanager
async def open_site(directory: Path, extra: str = "", **settings: Any) -> AsyncIterator[Site]:
    """A server with *extra* lines of configuration. Leases of two seconds, unless told otherwise."""
    async with running_server(directory / "nats", extra) as server, contextlib.AsyncExitStack() as stack:
        chosen = BusSettings(**{"url": server.url, "lease_ttl": timedelta(seconds=2), **settings})
        site = Site(server, chosen, directory / "state", stack)
        site.directory.mkdir(exist_ok=True)
        site.bus = await site.join()
        yield site
