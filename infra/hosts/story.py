"""What is told over the bus: audit records, action events, alerts, and dead letters."""

import asyncio
import hashlib
import logging
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, Protocol

from bus import subjects
from bus.port import Bus, BusError
from functions.core.ports import NotStored
from infra.audit.keys import Keyring
from infra.audit.opening import boot_id
from infra.audit.segments import Chain
from infra.audit.trail import AuditTrail
from schemas.alert import Alert
from schemas.approval import Approval
from schemas.audit import ActionEvent
from schemas.clock import Clock, SystemClock
from schemas.envelope import Event, new_id
from schemas.settings.bus import state_directory

logger = logging.getLogger(__name__)

ACTION, ALERT, APPROVAL = Event[ActionEvent], Event[Alert], Event[Approval]

DEAD_LETTER_BODY = 512 * 1024
"""Bytes kept of a message that can't be understood."""


class Publisher(Protocol):
    """The bus, or a spool before it."""

    async def publish(
        self, subject: str, body: bytes, *, message_id: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None: ...


class BusStory:
    """What one process tells. Audit and questions go straight to the bus or fail; the rest may wait in the spool."""

    def __init__(
        self, bus: Bus, spool: Publisher, host: str, emitter: str, *, keyring: Keyring | None = None,
        state: Path | None = None, clock: Clock | None = None, version: str = "",
    ) -> None:  # fmt: skip
        """*state*: where this machine remembers its audit chains, by default `audit` below `state_directory()`.

        *keyring*: what signs them, by default `keys` below *state*.
        """
        self._bus = bus
        self._spool = spool
        self._host = host
        self._emitter = emitter
        self._state = state if state is not None else state_directory() / "audit"
        self._keyring = keyring or Keyring(self._state / "keys")
        self._clock = clock or SystemClock()
        self._version = version
        self._boot = boot_id()
        self._trails: dict[tuple[str, str], AuditTrail] = {}
        self._pending: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """See that there is a key to sign with; the first start on a machine makes it. Raises KeyUnusable."""
        await asyncio.to_thread(self._keyring.current)

    async def stop(self) -> None:
        """End the chains of the trail, tell the rest. Idempotent; nothing is audited afterwards."""
        await asyncio.gather(*(trail.stop() for trail in self._trails.values()))
        await self.flush()

    async def audit(self, correlation: str, **fields: Any) -> None:
        """Append one record to the chain of its function. Raises NotStored."""
        trail = self._trail(fields.pop("host", self._host), fields.pop("function"))
        await trail.append(correlation, **fields)

    async def approval(self, correlation: str, approval: Approval) -> None:
        """Ask people to answer. Raises NotStored: a question that nobody can hear is none."""
        subject = subjects.approval(approval.host, approval.function, approval.state.value)
        name = Approval.type_name()
        event = self._wrap(APPROVAL, name, approval.function, approval.target, correlation, approval)
        try:
            await self._bus.publish(subject, event.body(), message_id=event.id)
        except BusError as error:
            raise NotStored(f"people were not asked about {approval.function} on {approval.host}: {error}") from error

    async def action(self, correlation: str, event: ActionEvent) -> None:
        subject = subjects.action(self._host, event.function, event.step.value)
        body = self._wrap(ACTION, "ansai.action.v1", event.function, event.target, correlation, event)
        self._in_background(self._publish(subject, body))

    async def alert(self, correlation: str, alert: Alert) -> bool:
        subject = subjects.alert(self._host, alert.function, alert.severity.value)
        event = self._wrap(ALERT, "ansai.alert.v1", alert.function, alert.target, correlation, alert)
        level = logging.INFO if alert.severity == "info" else logging.WARNING
        logger.log(level, "alert %s: %s %s", alert.state, alert.title, alert.next)
        try:
            await self._bus.publish(subject, event.body(), message_id=event.id)
        except BusError as error:
            logger.error("the alert was not stored, it waits in the spool: %s", error)
            self._in_background(self._publish(subject, event))
            return False
        return True

    async def dead_letter(self, function: str, subject: str, body: bytes, error: str) -> None:
        """Keep what can't be understood. Raises BusError when it could not be kept."""
        digest = hashlib.sha256(body).hexdigest()
        headers = {
            "Ansai-Error": " ".join(error.split())[:1000].encode("ascii", "backslashreplace").decode(),
            "Ansai-Subject": subject,
            "Ansai-Length": str(len(body)),
            "Ansai-Sha256": digest,
        }
        logger.warning("dead letter from %s: %s", subject, headers["Ansai-Error"])
        await self._bus.publish(
            subjects.dead_letter(function), body[:DEAD_LETTER_BODY], headers=headers, message_id=new_id()
        )

    async def flush(self) -> None:
        """Wait for what is still being told."""
        while self._pending:
            await asyncio.wait(self._pending)

    def _trail(self, host: str, function: str) -> AuditTrail:
        """The chain of a function; a number makes it an emitter of its own among those of this process."""
        trail = self._trails.get((host, function))
        if trail is None:
            chain = Chain(host, function, f"{self._emitter}-{len(self._trails) + 1}", self._boot)
            trail = self._trails[host, function] = AuditTrail(
                self._bus, chain, self._keyring, self._state, self._clock, self._tell, version=self._version
            )
        return trail

    def _tell(self, alert: Alert) -> None:
        self._in_background(self._told(alert))

    async def _told(self, alert: Alert) -> None:
        await self.alert(new_id(), alert)

    def _wrap(self, kind: Any, name: str, function: str, target: str, correlation: str, data: Any) -> Any:
        return kind(
            source=f"/hosts/{self._host}/functions/{function}", type=name, subject=target, correlationid=correlation,
            data=data,
        )  # fmt: skip

    async def _publish(self, subject: str, event: Any) -> None:
        try:
            await self._spool.publish(subject, event.body(), message_id=event.id)
        except BusError as error:
            logger.error("not told on %s: %s", subject, error)

    def _in_background(self, telling: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(telling)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)
