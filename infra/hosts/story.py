"""What is told over the bus: audit records, action events, alerts, and dead letters."""

import asyncio
import hashlib
import itertools
import logging
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from bus import subjects
from bus.port import Bus, BusError
from functions.core.ports import NotStored
from schemas.alert import Alert
from schemas.audit import ActionEvent, AuditRecord
from schemas.envelope import Event, new_id

logger = logging.getLogger(__name__)

AUDIT, ACTION, ALERT = Event[AuditRecord], Event[ActionEvent], Event[Alert]

DEAD_LETTER_BODY = 512 * 1024
"""Bytes kept of a message that can't be understood."""


class Publisher(Protocol):
    """The bus, or a spool before it."""

    async def publish(
        self, subject: str, body: bytes, *, message_id: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None: ...


class BusStory:
    """One emitter's story. Audit goes straight to the bus or fails; the rest may wait in the spool."""

    def __init__(self, bus: Bus, spool: Publisher, host: str, emitter: str) -> None:
        self._bus = bus
        self._spool = spool
        self._host = host
        self._emitter = emitter
        self._numbers = itertools.count(1)
        self._pending: set[asyncio.Task[None]] = set()

    async def audit(self, correlation: str, **fields: Any) -> None:
        """Append one record. Raises NotStored."""
        number = next(self._numbers)
        record = AuditRecord(emitter=self._emitter, sequence=number, at=datetime.now(UTC), **fields)
        subject = subjects.audit(self._host, record.function, self._emitter)
        event = self._wrap(AUDIT, "ansai.audit.v1", record.function, record.target, correlation, record)
        try:
            await self._bus.publish(subject, event.body(), message_id=f"{self._emitter}-{number}")
        except BusError as error:
            raise NotStored(f"the audit record {record.step!s} of {record.function} was not stored: {error}") from error

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
