"""One process that runs functions: their engines, one consumer a stream, and a heartbeat."""

import asyncio
import gc
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from bus import subjects
from bus.port import Bucket, Bus, Consumption, StreamName, Subscription
from functions.core.engine import Engine
from functions.core.ports import Tools
from functions.core.remedy import AnyRemedy, Scope
from infra.hosts.inbox import Inbox
from infra.hosts.state import BusLeases, BusLedger
from infra.hosts.story import BusStory, Publisher
from schemas.clock import Clock, SystemClock
from schemas.envelope import new_id
from schemas.probes import Probes
from schemas.settings.root import Configuration

logger = logging.getLogger(__name__)

ACK_WAIT = timedelta(seconds=30)


@dataclass(frozen=True)
class Machine:
    """What the functions of one host may read and change."""

    host: str
    probes: Probes
    tools: Tools


class FunctionHost:
    """Start it, and it heals until it is stopped. `every_trigger` makes it answer for names nobody has."""

    def __init__(
        self, remedies: Sequence[AnyRemedy], configuration: Configuration, bus: Bus, spool: Publisher, machine: Machine,
        *, clock: Clock | None = None, every_trigger: bool = False, ack_wait: timedelta = ACK_WAIT, name: str = "",
    ) -> None:  # fmt: skip
        self._remedies = [each for each in remedies if configuration.policy.of(each.name).enabled]
        self._configuration = configuration
        self._bus = bus
        self._machine = machine
        self._clock = clock or SystemClock()
        self._every_trigger = every_trigger
        self._ack_wait = ack_wait
        self._name = name or process_name([each.name for each in remedies])
        self._emitter = new_id()
        self._story = BusStory(bus, spool, machine.host, self._emitter)
        self._ledgers: list[BusLedger] = []
        self._engines: list[Engine] = []
        self._inbox: Inbox | None = None
        self._consumptions: list[Consumption] = []

    @property
    def functions(self) -> list[str]:
        return [each.name for each in self._remedies]

    @property
    def handled(self) -> int:
        """Messages taken from the bus so far."""
        return self._inbox.handled if self._inbox is not None else 0

    async def start(self) -> None:
        """Return when it is consuming. Raises BusError."""
        for remedy in self._remedies:
            self._engines.append(await self._engine(remedy))
        self._inbox = Inbox(self._engines, self._configuration.policy, self._story, self._clock, self._ack_wait)
        for engine in self._engines:
            await engine.start()
        durable = subjects.durable(f"{self._machine.host}-{self._name}")
        for stream, wanted, settles, handler in (
            (StreamName.HEALTH, self._health_subjects(), self._inbox.settles, self._inbox.on_health),
            (StreamName.TRIGGER, self._trigger_subjects(), None, self._inbox.on_trigger),
        ):
            subscription = Subscription(stream, durable, wanted, ack_wait=self._ack_wait, settles=settles)
            if wanted:
                self._consumptions.append(await self._bus.consume(subscription, handler))
        gc.freeze()  # modules and models live as long as the process: no collection need look at them again

    async def stop(self) -> None:
        """Fetch no more, finish what runs, hand leases back, tell the rest. Idempotent."""
        consumptions, self._consumptions = self._consumptions, []
        engines, self._engines = self._engines, []
        stopping = [asyncio.create_task(engine.stop()) for engine in engines]
        await asyncio.gather(*(consumption.stop() for consumption in consumptions))
        await asyncio.gather(*stopping)
        if self._inbox is not None:
            await self._inbox.stop()
        await self._story.flush()
        for ledger in self._ledgers:
            await ledger.stop()

    async def _engine(self, remedy: AnyRemedy) -> Engine:
        host = self._machine.host if remedy.scope is Scope.HOST else subjects.ANY_HOST
        ledger = BusLedger(await self._bus.bucket(Bucket.INCIDENTS), host, remedy.name)
        await ledger.start()
        self._ledgers.append(ledger)
        ttl = self._configuration.bus.lease_ttl
        leases = BusLeases(await self._bus.bucket(Bucket.LEASES), host, remedy.name, self._emitter, ttl)
        section: Any = getattr(self._configuration, remedy.section_name)
        return Engine(
            remedy, section, self._configuration.policy.of(remedy.name), host, self._machine.probes,
            self._machine.tools, ledger, leases, self._story, self._clock,
        )  # fmt: skip

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
        hosts = {
            each.name: self._machine.host if each.scope is Scope.HOST else subjects.ANY_HOST for each in self._remedies
        }
        return tuple(pattern for name, host in hosts.items() for pattern in subjects.trigger_patterns(host, name))


def process_name(functions: Sequence[str]) -> str:
    """The name under which a process that runs these functions keeps its place in the streams."""
    joined = "-".join(sorted(functions))
    return joined if len(joined) <= 60 else f"functions-{hashlib.sha256(joined.encode()).hexdigest()[:12]}"
