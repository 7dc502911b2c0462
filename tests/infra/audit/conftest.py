"""Chains of the audit trail on a real nats-server, a bus that has its troubles, and what a verifier says of it all."""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bus import subjects
from bus.jetstream import JetStreamBus, connect
from bus.port import Bus, Conflict, Rejected, Stored, StreamName, Unavailable
from functions.core.ports import NotStored
from infra.audit.findings import Verification
from infra.audit.keys import Keyring
from infra.audit.segments import Chain
from infra.audit.tombstones import claims_in
from infra.audit.trail import AuditTrail
from infra.audit.trust import Trust
from infra.audit.verification import Verifier
from schemas.alert import Alert
from schemas.audit import AuditRecord, AuditSegment, Step
from schemas.clock import Clock, SystemClock
from schemas.envelope import Event
from schemas.remediation import Mode
from schemas.settings.bus import BusSettings
from tests.servers import NatsServer, running_server

HOST = "web-1"
FUNCTION = "disk.free_space"


class Troubled:
    """A real bus whose `append` now and then goes wrong, in the order of `troubles`; then it is well again."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.troubles: deque[str] = deque()
        self.held: deque[Callable[[], Any]] = deque()
        self.appended = 0
        self.gate = asyncio.Event()
        self.gate.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    async def arrive(self) -> None:
        """The oldest message that is held comes now; the bus may refuse it, and nobody waits for its answer."""
        with contextlib.suppress(Conflict):
            await self.held.popleft()()

    async def append(self, subject: str, body: bytes, *, expected_last: int) -> int:
        await self.gate.wait()
        self.appended += 1
        trouble = self.troubles.popleft() if self.troubles else ""

        async def deliver() -> int:
            return await self._bus.append(subject, body, expected_last=expected_last)

        match trouble:
            case "answer lost":
                await deliver()
                raise Unavailable("no answer")
            case "message lost":
                raise Unavailable("no answer")
            case "message late":
                self.held.append(deliver)
                raise Unavailable("no answer")
            case "refused":
                raise Rejected("the stream is full")
            case "arrives now":
                await self.arrive()
        return await deliver()


@dataclass
class Writers:
    """One server, and any number of chains in its trail."""

    server: NatsServer
    bus: JetStreamBus
    settings: BusSettings
    state: Path
    alerts: list[Alert] = field(default_factory=list)
    trails: list[AuditTrail] = field(default_factory=list)

    @property
    def keyring(self) -> Keyring:
        """As another process would open it."""
        return Keyring(self.state / "keys")

    def trail(
        self, emitter: str = "emitter-1", *, bus: Any = None, clock: Clock | None = None, function: str = FUNCTION,
        **options: Any,
    ) -> AuditTrail:  # fmt: skip
        chain = Chain(HOST, function, emitter, "boot-1")
        clock = clock or SystemClock()
        options = {"keyring": self.keyring, "settle_within": 3.0, **options}
        made = AuditTrail(
            bus or self.bus, chain, options.pop("keyring"), self.state, clock, self.alerts.append, **options
        )
        self.trails.append(made)
        return made

    async def stored(self, stream: StreamName = StreamName.AUDIT, pattern: str = "") -> list[Stored]:
        return [message async for message in self.bus.read(stream, pattern)]

    async def segments(self) -> list[AuditSegment]:
        return [Event[AuditSegment].model_validate_json(message.body).data for message in await self.stored()]

    async def records(self, emitter: str = "emitter-1") -> list[AuditRecord]:
        """Of one chain, as a reader sees them."""
        return [record for each in await self.segments() for record in each.records if each.emitter == emitter]

    async def told(self, emitter: str = "emitter-1") -> list[str]:
        """Step or text of each record of one chain."""
        return [each.text if each.step is Step.ACTING else each.step.value for each in await self.records(emitter)]

    async def verify(self, trust: Trust | None = None) -> Verification:
        """As `ansai audit verify` does, with the checkpoints."""
        public = self.keyring.public_keys()
        messages = await self.stored()
        claims = [claim for message in messages for claim in claims_in(message)]
        verifier = Verifier(trust or Trust({HOST: frozenset(public)}, public), claims=claims)
        for message in await self.stored(StreamName.CHECKPOINT):
            verifier.checkpoint(message)
        for message in messages:
            verifier.message(message)
        return verifier.result()

    async def whole(self) -> bool:
        """Whether the chains verify."""
        found = await self.verify()
        assert not found.problems, [problem.text for problem in found.problems]
        return True


@pytest.fixture
async def writers(tmp_path: Path) -> AsyncIterator[Writers]:
    async with running_server(tmp_path / "nats") as server:
        settings = BusSettings(url=server.url, publish_deadline=timedelta(seconds=1), audit_max_size=2**20)
        bus = await connect(settings, name="audit test")
        made = Writers(server, bus, settings, tmp_path / "audit")
        try:
            yield made
        finally:
            for trail in made.trails:
                await trail.stop()
            await bus.close()


async def act(trail: AuditTrail, text: str, **fields: Any) -> bool:
    """Ask for one record as the engine does; whether it is stored."""
    try:
        await trail.append("c1", step=Step.ACTING, mode=Mode.AUTO, text=text, **fields)
    except NotStored:
        return False
    return True


def data_of(stored: Stored) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(stored.body)["data"]
    return found


SUBJECT = subjects.audit(HOST, FUNCTION, "emitter-1")
