"""A bus for publishers that must lose nothing while the server is away: what can't be published waits on the disk.

Everything goes straight through while the server answers. From the first event that could not be delivered on, new
ones go behind it, and a background task delivers them in order. Of one subject none overtakes another.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from bus.port import (
    Bucket,
    Bus,
    BusError,
    Consumption,
    Handler,
    KeyValue,
    Listening,
    Stored,
    StreamName,
    Subscription,
    Unavailable,
)
from bus.spool_store import SpooledEvent, SpoolStore
from bus.streams import refuse_unstored
from schemas.settings.bus import SpoolSettings

logger = logging.getLogger(__name__)

DROPPED_HEADER = "Ansai-Dropped"
"""How many events were dropped before this one, on the first that is delivered after it happened."""

_BATCH = 64  # events on their way at once while draining, no two of one subject
_RETRY = 0.5  # seconds between looks at whether the server is back
_CLOSE_DEADLINE = 15.0  # seconds for what is on its way

Dropped = Callable[[Mapping[str, int]], Awaitable[None]]


class Spool:
    """Wraps a bus: `publish` returns when the event is stored by the server or safe in the spool."""

    def __init__(self, bus: Bus, settings: SpoolSettings, name: str, on_dropped: Dropped | None = None) -> None:
        """*name* is this publisher's own file; *on_dropped* is told, after a drain, what was lost by subject."""
        self._bus = bus
        self._store = SpoolStore(settings, name)
        self._on_dropped = on_dropped
        self._order = 0
        self._on_their_way: dict[int, asyncio.Task[None]] = {}
        self._being_kept: set[asyncio.Task[None]] = set()
        self._not_empty = asyncio.Event()
        self._drain: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        return self._bus.connected

    @property
    def waiting(self) -> int:
        """Events in the spool."""
        return self._store.count

    @property
    def dropped(self) -> Mapping[str, int]:
        """By subject, what was dropped and not told yet."""
        return self._store.dropped

    @property
    def path(self) -> Path:
        """The file."""
        return self._store.path

    async def open(self) -> None:
        """Take up what an earlier process left behind."""
        self._order = await self._store.open()
        if self._store.count:
            logger.info("%d events are left from before; delivering them first", self._store.count)
            self._not_empty.set()
        self._drain = asyncio.create_task(self._deliver_for_ever(), name="bus spool")

    async def publish(
        self, subject: str, body: bytes, *, message_id: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        await asyncio.shield(await self.publish_soon(subject, body, message_id=message_id, headers=headers))

    async def publish_soon(
        self, subject: str, body: bytes, *, message_id: str | None = None, headers: Mapping[str, str] | None = None
    ) -> asyncio.Task[None]:
        """As the bus does, but never Unavailable. Without a *message_id* it gets one, since it may be sent twice."""
        refuse_unstored(subject)
        self._order += 1
        event = SpooledEvent(self._order, subject, body, message_id or uuid4().hex, dict(headers or {}))
        if self._not_empty.is_set() or not self._bus.connected:
            return self._keep(event)
        task = asyncio.create_task(self._publish_or_keep(event))
        self._on_their_way[event.order] = task
        task.add_done_callback(lambda _: self._on_their_way.pop(event.order))
        return task

    async def announce(self, subject: str, body: bytes) -> None:
        await self._bus.announce(subject, body)

    def listen(self, pattern: str) -> Listening:
        return self._bus.listen(pattern)

    async def consume(self, subscription: Subscription, handler: Handler) -> Consumption:
        return await self._bus.consume(subscription, handler)

    async def bucket(self, name: Bucket) -> KeyValue:
        return await self._bus.bucket(name)

    def read(self, stream: StreamName, pattern: str = "", since: datetime | None = None) -> AsyncIterator[Stored]:
        return self._bus.read(stream, pattern, since)

    async def close(self) -> None:
        """Keep what is still on its way, close the bus and the file. What waits is delivered after the next start."""
        if self._drain is not None:
            self._drain.cancel()
            await asyncio.gather(self._drain, return_exceptions=True)
        if self._on_their_way:
            await asyncio.wait(set(self._on_their_way.values()), timeout=_CLOSE_DEADLINE)
        if self._being_kept:
            await asyncio.wait(set(self._being_kept))
        await self._store.close()
        await self._bus.close()

    async def _publish_or_keep(self, event: SpooledEvent) -> None:
        try:
            await self._bus.publish(
                event.subject, event.body, message_id=event.message_id, headers=event.headers or None
            )
        except Unavailable as error:
            if not self._not_empty.is_set():
                logger.warning("keeping events until the bus is back: %s", error)
            await self._keep(event)

    def _keep(self, event: SpooledEvent) -> asyncio.Task[None]:
        """From this call on, before the file has it, new events go behind *event*."""
        self._not_empty.set()
        task = asyncio.create_task(self._store.append(event))
        self._being_kept.add(task)
        task.add_done_callback(self._being_kept.discard)
        return task

    async def _deliver_for_ever(self) -> None:
        while True:
            await self._not_empty.wait()
            try:
                if not self._bus.connected or not await self._deliver_batch():
                    await asyncio.sleep(_RETRY)
            except Unavailable as error:
                logger.debug("the bus is still away: %s", error)
                await asyncio.sleep(_RETRY)

    async def _deliver_batch(self) -> bool:
        """Deliver the oldest events, at most one of each subject; False when they can't be read.

        Raises Unavailable when the bus is away.
        """
        batch = _first_of_each_subject(await self._store.oldest(4 * _BATCH))[:_BATCH]
        earlier = [task for order, task in self._on_their_way.items() if not batch or order < batch[-1].order]
        if earlier:  # these may come behind us into the spool, and belong before us
            await asyncio.wait(earlier)
            return True
        if not batch:
            if self._being_kept:
                await asyncio.wait(set(self._being_kept))
            elif self._store.count == 0:
                self._not_empty.clear()
            else:
                return False
            return True
        lost = dict(self._store.dropped)
        if lost:  # the header must come with the first that is delivered, so that is sent alone
            if await self._deliver(batch[0], {DROPPED_HEADER: str(sum(lost.values()))}):
                await self._tell_of_loss(lost)
            await self._store.remove([batch[0].order])
            return True
        results = await asyncio.gather(*(self._deliver(event, {}) for event in batch), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        done = [event.order for event, result in zip(batch, results, strict=True) if result not in failures]
        await self._store.remove(done)
        if failures:
            raise failures[0]
        return True

    async def _deliver(self, event: SpooledEvent, headers: Mapping[str, str]) -> bool:
        """Whether it was stored; False when the bus refuses it. Raises Unavailable."""
        sent = {**event.headers, **headers} or None
        try:
            await self._bus.publish(event.subject, event.body, message_id=event.message_id, headers=sent)
        except Unavailable:
            raise
        except BusError as error:  # it would be refused again, and hold up all behind it
            logger.error("dropped an event that the bus refuses: %s", error)
            await self._store.count_dropped(event.subject)
            return False
        return True

    async def _tell_of_loss(self, lost: Mapping[str, int]) -> None:
        logger.warning("%d events were dropped while the bus was away, of %d subjects", sum(lost.values()), len(lost))
        await self._store.forget_dropped(lost)
        if self._on_dropped is None:
            return
        try:
            await self._on_dropped(lost)
        except BusError as error:
            logger.warning("could not tell of the dropped events: %s", error)


def _first_of_each_subject(events: list[SpooledEvent]) -> list[SpooledEvent]:
    first: dict[str, SpooledEvent] = {}
    for event in events:
        first.setdefault(event.subject, event)
    return list(first.values())
