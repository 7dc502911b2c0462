"""One process that runs functions: their engines, one consumer a stream, and a heartbeat."""

import asyncio
import gc
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from bus import subjects
from bus.port import Bucket, Bus, Consumption, StreamName, Subscription
from functions.core.engine import Engine
from functions.core.ports import NotStored, Ports, Tools
from functions.core.remedy import AnyRemedy, Scope
from infra.audit.fill import FillWatch
from infra.hosts.brake import BusBrake
from infra.hosts.fence import LocalFence
from infra.hosts.fleet import FleetMirror
from infra.hosts.inbox import Inbox
from infra.hosts.leases import BusLeases
from infra.hosts.permits import BusPermits
from infra.hosts.plans import BusPlans
from infra.hosts.signals import BusSignals
from infra.hosts.state import BusLedger
from infra.hosts.story import BusStory, Publisher
from schemas.alert import Alert, AlertState, Severity
from schemas.audit import Step
from schemas.clock import Clock, SystemClock
from schemas.envelope import new_id
from schemas.probes import Probes
from schemas.settings.bus import state_directory
from schemas.settings.root import Configuration

logger = logging.getLogger(__name__)

ACK_WAIT = timedelta(seconds=30)

SETTINGS = "operator.settings"
"""The name under which is told what is about no function in particular."""


@dataclass(frozen=True)
class Machine:
    """What the functions of one host may read and change."""

    host: str
    probes: Probes
    tools: Tools


class _Stoppable(Protocol):
    async def stop(self) -> None: ...


class FunctionHost:
    """Start it, and it heals until it is stopped. `every_trigger` makes it answer for names nobody has.

    *directory* is where this machine keeps what no server may lose: keys and heads of the audit trail, and fences.
    """

    def __init__(
        self, remedies: Sequence[AnyRemedy], configuration: Configuration, bus: Bus, spool: Publisher, machine: Machine,
        *, clock: Clock | None = None, every_trigger: bool = False, ack_wait: timedelta = ACK_WAIT, name: str = "",
        directory: Path | None = None, version: str = "",
    ) -> None:  # fmt: skip
        self._remedies = list(remedies)
        self._configuration = configuration
        self._bus = bus
        self._machine = machine
        self._clock = clock or SystemClock()
        self._every_trigger = every_trigger
        self._ack_wait = ack_wait
        self._name = name or process_name([each.name for each in remedies])
        self._holder = new_id()
        fences = directory / "fences" if directory is not None else None
        directory = directory or state_directory()
        self._story = BusStory(
            bus, spool, machine.host, self._holder, state=directory / "audit", clock=self._clock, version=version
        )
        self._mirror = FleetMirror(bus)
        self._brake = BusBrake(self._mirror, configuration.policy.freeze_file)
        self._fence = LocalFence(fences)
        self._fill = FillWatch(bus, machine.host, self._story.alert, self._clock)
        self._running: list[_Stoppable] = []
        self._engines: list[Engine] = []
        self._inbox: Inbox | None = None
        self._consumptions: list[Consumption] = []

    @property
    def functions(self) -> list[str]:
        """Those that the policy has not switched off."""
        return [each.name for each in self._remedies if self._configuration.policy.of(each.name).enabled]

    @property
    def handled(self) -> int:
        """Messages taken from the bus so far."""
        return self._inbox.handled if self._inbox is not None else 0

    async def start(self) -> None:
        """Return when it is consuming. Raises BusError, NotStored."""
        await self._story.start()
        await self._mirror.start()
        self._running.append(self._mirror)
        await self._brake.start()
        self._running.append(self._brake)
        self._fill.start()
        self._running.append(self._fill)
        for remedy in self._remedies:
            self._engines.append(await self._engine(remedy))
        self._inbox = Inbox(self._engines, self._configuration.policy, self._story, self._clock, self._ack_wait)
        self._brake.on_lifted.append(self._look_again)
        for engine in self._engines:
            engine.look_again()
        await self._consume(self._inbox)
        gc.freeze()  # modules and models live as long as the process: no collection need look at them again

    async def reconfigure(self, configuration: Configuration) -> None:
        """Other limits and thresholds, from the next event on; audited where they differ."""
        self._configuration = configuration
        if self._inbox is not None:
            self._inbox.reconfigure(configuration.policy)
        for engine in self._engines:
            name, before = engine.remedy.name, engine.policy.version
            policy, section = configuration.policy.of(name, engine.host), self._section(engine.remedy)
            if engine.reconfigure(section, policy):
                text = (
                    f"policy {before} → {policy.version}: {policy.mode}" if before != policy.version else "thresholds"
                )
                await self._tell_reload(engine, text)
            engine.look_again()  # a raised cap may let go on what waited

    async def _tell_reload(self, engine: Engine, text: str) -> None:
        policy, name = engine.policy, engine.remedy.name
        logger.info("%s: other settings are in force: %s", name, text)
        try:
            await self._story.audit(
                new_id(), host=engine.host, function=name, step=Step.RELOADED, mode=policy.mode, policy=policy.version,
                text=text,
            )  # fmt: skip
        except NotStored as error:
            logger.error("%s", error)

    async def keep(self, why: str) -> None:
        """People are told that the settings on disk are broken, and that the old ones stay in force."""
        first, _, more = why.partition("\n")
        alert = Alert(
            host=self._machine.host, function=SETTINGS, target="ansai.yaml", severity=Severity.WARNING,
            state=AlertState.REFUSED, title=f"the settings on disk are broken, the old ones stay in force: {first}",
            text=more, next="Mend them; ansai config check says what is wrong. They are read again by themselves.",
            at=self._clock.now(),
        )  # fmt: skip
        await self._story.alert(new_id(), alert)

    async def stop(self) -> None:
        """Fetch no more, finish what runs, hand leases back, tell the rest. Idempotent."""
        consumptions, self._consumptions = self._consumptions, []
        engines, self._engines = self._engines, []
        stopping = [asyncio.create_task(engine.stop()) for engine in engines]
        await asyncio.gather(*(consumption.stop() for consumption in consumptions))
        await asyncio.gather(*stopping)
        if self._inbox is not None:
            await self._inbox.stop()
        running, self._running = self._running, []
        for each in reversed(running):
            await each.stop()
        await self._story.stop()

    def _look_again(self) -> None:
        """The freeze was lifted: what waited for it goes on."""
        for engine in self._engines:
            engine.look_again()

    async def _consume(self, inbox: Inbox) -> None:
        durable = subjects.durable(f"{self._machine.host}-{self._name}")
        for stream, wanted, settles, handler in (
            (StreamName.HEALTH, self._health_subjects(), inbox.settles, inbox.on_health),
            (StreamName.TRIGGER, self._trigger_subjects(), None, inbox.on_trigger),
            (StreamName.APPROVAL, self._answer_subjects(), None, inbox.on_answer),
        ):
            subscription = Subscription(stream, durable, wanted, ack_wait=self._ack_wait, settles=settles)
            if wanted:
                self._consumptions.append(await self._bus.consume(subscription, handler))

    async def _engine(self, remedy: AnyRemedy) -> Engine:
        policy, host = self._configuration.policy, self._host_of(remedy)
        ledger = BusLedger(await self._bus.bucket(Bucket.INCIDENTS), host, remedy.name)
        permits = BusPermits(self._mirror, policy.group, remedy.name, host, self._holder, self._clock)
        for each in (ledger, permits):
            await each.start()
            self._running.append(each)
        ttl = self._configuration.bus.lease_ttl
        ports = Ports(
            probes=self._machine.probes, tools=self._machine.tools, ledger=ledger, fence=self._fence,
            leases=BusLeases(await self._bus.bucket(Bucket.LEASES), host, self._holder, ttl), brake=self._brake,
            permits=permits, plans=BusPlans(await self._bus.bucket(Bucket.PLANS), host, remedy.name, self._clock),
            signals=BusSignals(self._bus, host, remedy.listens, policy.future_tolerance, self._clock),
            story=self._story,
        )  # fmt: skip
        return Engine(remedy, self._section(remedy), policy.of(remedy.name, host), host, ports, self._clock)

    def _section(self, remedy: AnyRemedy) -> Any:
        return getattr(self._configuration, remedy.section_name)

    def _host_of(self, remedy: AnyRemedy) -> str:
        return self._machine.host if remedy.scope is Scope.HOST else subjects.ANY_HOST

    def _health_subjects(self) -> tuple[str, ...]:
        return tuple(
            sorted(
                {
                    subjects.health_pattern(
                        self._machine.host if remedy.scope is Scope.HOST else None, model.domain, model.signal
                    )
                    for remedy in self._remedies
                    for model in remedy.listens
                }
            )
        )

    def _trigger_subjects(self) -> tuple[str, ...]:
        if self._every_trigger:
            return (
                f"ansai.trigger.{subjects.host_token(self._machine.host)}.>",
                f"ansai.trigger.{subjects.ANY_HOST}.>",
            )
        return tuple(
            pattern for each in self._remedies for pattern in subjects.trigger_patterns(self._host_of(each), each.name)
        )

    def _answer_subjects(self) -> tuple[str, ...]:
        return tuple(
            pattern for each in self._remedies for pattern in subjects.answer_patterns(self._host_of(each), each.name)
        )


def process_name(functions: Sequence[str]) -> str:
    """The name under which a process that runs these functions keeps its place in the streams."""
    joined = "-".join(sorted(functions))
    return joined if len(joined) <= 60 else f"functions-{hashlib.sha256(joined.encode()).hexdigest()[:12]}"
