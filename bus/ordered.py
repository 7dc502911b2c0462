"""Read a stream in order without leaving a trace: for what it holds now, or for every change as it comes."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from nats.aio.msg import Msg

from bus.connection import Connection
from bus.outbox import ApiRefusal, Denied, Outbox
from bus.port import BusError, Rejected
from bus.pull import JetStreamMessage
from bus.store import created_at

logger = logging.getLogger(__name__)

_BATCH = 256
_EXPIRES = 30.0  # seconds a request stays open
_HEARTBEAT = 5.0  # seconds between signs of life
_SILENCE = 2.5 * _HEARTBEAT
_INACTIVE = 60  # seconds after which the server removes a consumer we did not say goodbye to
_RETRY = 1.0  # seconds
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Replaced(Rejected):
    """The stream is not the one that was read so far: it was made anew, or an older store was restored."""


@dataclass(frozen=True)
class Where:
    """What to read: a stream, a subject pattern in it, and from where on."""

    stream: str
    pattern: str = ""
    since: datetime | None = None
    last_per_subject: bool = False
    headers_only: bool = False


class OrderedReader:
    """An ephemeral consumer that is made anew behind the last message whenever it was lost or skipped one."""

    def __init__(self, where: Where, connection: Connection, outbox: Outbox) -> None:
        self._where = where
        self._connection = connection
        self._outbox = outbox
        self._name = ""
        self._inbox = ""
        self._last_sequence = 0
        self._last_stored_at = _EPOCH
        self._delivered = 0  # consumer sequence of the last message
        self._requested = 0
        self._messages: asyncio.Queue[Msg | None] = asyncio.Queue()  # None: the connection was lost and is back
        self._subscription: Any = None
        connection.on_connected.append(self._on_connected)

    async def present(self) -> AsyncGenerator[JetStreamMessage, None]:
        """What is there now, then end. Raises Unavailable, Rejected."""
        left = await self._begin()
        while left:
            message = await self._next()
            if message is None:  # begun anew: what is left is counted anew
                left = await self._begin()
                continue
            left = message.pending
            yield message

    async def for_ever(self) -> AsyncGenerator[JetStreamMessage | None, None]:
        """What is there now, then None once, then what comes. Waits for a server that is away."""
        left = await self._begin()
        caught_up = False
        while True:
            if not caught_up and not left:
                caught_up = True
                yield None
            message = await self._next()
            if message is None:
                left = await self._begin_patiently()
                continue
            yield message
            left = message.pending

    async def close(self) -> None:
        """Remove the consumer; the server does it in a minute when we can't reach it."""
        if self._on_connected in self._connection.on_connected:
            self._connection.on_connected.remove(self._on_connected)
        await self._leave()
        if self._name and self._connection.connected:
            with suppress(BusError):
                await self._outbox.api(f"CONSUMER.DELETE.{self._where.stream}.{self._name}", deadline=2)

    async def _begin_patiently(self) -> int:
        while True:
            try:
                return await self._begin()
            except (ApiRefusal, Replaced):
                raise
            except BusError as error:
                logger.info("reading %s: waiting for the bus: %s", self._where.stream, error)
                await asyncio.sleep(_RETRY)

    async def _begin(self) -> int:
        """Make the consumer; return how many messages it has to deliver."""
        await self._leave()
        await self._refuse_another()
        self._messages = asyncio.Queue()
        self._inbox = self._connection.client.new_inbox()
        self._name = self._inbox.rpartition(".")[2]
        self._subscription = await self._connection.subscribe(self._inbox, self._messages.put)
        subject = f"CONSUMER.CREATE.{self._where.stream}.{self._name}"
        if self._where.pattern:
            subject = f"{subject}.{self._where.pattern}"
        info = await self._outbox.api(subject, {"stream_name": self._where.stream, "config": self._configuration()})
        self._delivered = self._requested = 0
        left = int(info["num_pending"])
        if left or self._where.last_per_subject:
            await self._request()
        return left

    async def _refuse_another(self) -> None:
        """Raise Replaced when what we have read is not in the stream's past: behind it we would wait in vain."""
        if not self._last_sequence:
            return
        try:
            info = await self._outbox.api(f"STREAM.INFO.{self._where.stream}")
        except Denied:
            return  # a role that may not look reads on, as it always did
        created = _EPOCH + timedelta(microseconds=created_at(info) // 1000)
        if created > self._last_stored_at or int(info["state"]["last_seq"]) < self._last_sequence:
            raise Replaced(f"stream {self._where.stream} was replaced while it was read; read it again")

    async def _on_connected(self) -> None:
        self._messages.put_nowait(None)

    async def _leave(self) -> None:
        if self._subscription is not None and not self._connection.client.is_closed:
            with suppress(Exception):  # the connection may go at any moment, and its subscriptions with it
                await self._subscription.unsubscribe()
        self._subscription = None

    def _configuration(self) -> dict[str, Any]:
        wanted: dict[str, Any] = {
            "name": self._name,
            "ack_policy": "none",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": _INACTIVE * 10**9,
            "headers_only": self._where.headers_only,
        }
        if self._where.pattern:
            wanted["filter_subject"] = self._where.pattern
        if self._last_sequence:
            return wanted | {"deliver_policy": "by_start_sequence", "opt_start_seq": self._last_sequence + 1}
        if self._where.since is not None:
            start = self._where.since.astimezone(UTC).isoformat().replace("+00:00", "Z")
            return wanted | {"deliver_policy": "by_start_time", "opt_start_time": start}
        return wanted | {"deliver_policy": "last_per_subject" if self._where.last_per_subject else "all"}

    async def _request(self) -> None:
        self._requested += _BATCH
        body = {"batch": _BATCH, "expires": int(_EXPIRES * 1e9), "idle_heartbeat": int(_HEARTBEAT * 1e9)}
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._where.stream}.{self._name}"
        await self._connection.publish(subject, json.dumps(body).encode(), self._inbox)

    async def _next(self) -> JetStreamMessage | None:
        """The next message, or None when the consumer must be made anew."""
        while True:
            try:
                async with asyncio.timeout(_SILENCE):  # wait_for may swallow a cancellation in Python 3.11
                    raw = await self._messages.get()
            except TimeoutError:
                return None
            if raw is None:
                return None
            if not raw.reply.startswith("$JS.ACK."):
                headers = raw.headers or {}
                unanswered = headers.get("Nats-Pending-Messages")
                if headers.get("Status") == "100":
                    continue
                if unanswered is None:
                    return None
                self._requested -= int(unanswered)
            else:
                message = JetStreamMessage(raw, self._connection)
                self._requested -= 1
                self._delivered += 1
                if message.consumer_sequence != self._delivered:
                    return None
                self._last_sequence, self._last_stored_at = message.sequence, message.stored_at
                if self._requested < _BATCH // 2 and (message.pending or self._where.last_per_subject):
                    await self._request()
                return message
            if self._requested <= 0:
                await self._request()
