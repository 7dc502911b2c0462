"""The bus without a server: all that `bus.port` promises, kept in this process and gone with it."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from datetime import UTC, datetime, timedelta

from bus.port import (
    Bucket,
    Conflict,
    Consumption,
    Entry,
    Handler,
    KeyValue,
    Listening,
    Rejected,
    Stored,
    StreamName,
    Subscription,
    Unavailable,
    Usage,
)
from bus.streams import StreamSpec, buckets, overlapping, refuse_limit, refuse_pattern, stream_of, streams
from bus.subjects import matches, valid_key
from schemas.settings.bus import BusSettings
from schemas.units import show_size

logger = logging.getLogger(__name__)

_MESSAGE_ID = "Nats-Msg-Id"
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_LONGEST_DELAY = timedelta(minutes=1)  # of a redelivery after a handler that raised, as on the real bus


class _Stream:
    """Messages in order, bounded by the same table as the real ones."""

    def __init__(self, name: StreamName, spec: StreamSpec) -> None:
        self.name = name
        self.spec = spec
        self.limit = spec.max_bytes
        self.messages: dict[int, Stored] = {}
        self.sequence = 0
        self.size = 0
        self._by_subject: dict[str, deque[int]] = {}
        self._ids: dict[str, tuple[datetime, int]] = {}
        self.consumers: dict[str, _Consumer] = {}

    def store(self, subject: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Return its sequence. Raises Rejected when it is full, Conflict when another last sequence was expected."""
        now = datetime.now(UTC)
        self.expire(now)
        expected = headers.get(_EXPECTED)
        last = self._by_subject[subject][-1] if self._by_subject.get(subject) else 0
        if expected is not None and int(expected) != last:
            raise Conflict(f"wrong last sequence: {last}")
        message_id = headers.get(_MESSAGE_ID)
        if message_id is not None and message_id in self._ids:
            return self._ids[message_id][1]
        if self.limit is not None and self.size + len(body) > self.limit and self.spec.discard_new:
            raise Rejected(f"the stream is full ({show_size(self.limit)}); archive and purge it, or widen its limit")
        self.sequence += 1
        if message_id is not None:
            self._ids[message_id] = (now, self.sequence)
        self.messages[self.sequence] = Stored(self.name, self.sequence, subject, body, now, dict(headers))
        self.size += len(body)
        of_subject = self._by_subject.setdefault(subject, deque())
        of_subject.append(self.sequence)
        limit = self.spec.max_messages_per_subject
        while limit is not None and len(of_subject) > limit:
            self._drop(of_subject[0])
        for consumer in self.consumers.values():
            consumer.offer(self.messages[self.sequence])
        return self.sequence

    def last(self, subject: str) -> Stored | None:
        self.expire(datetime.now(UTC))
        of_subject = self._by_subject.get(subject)
        return self.messages[of_subject[-1]] if of_subject else None

    def usage(self) -> Usage:
        self.expire(datetime.now(UTC))
        first = next(iter(self.messages), self.sequence + 1 if self.sequence else 0)
        return Usage(self.size, self.limit, len(self.messages), first, self.sequence)

    def purge(self, before: int) -> int:
        old = [sequence for sequence in self.messages if sequence < before]
        for sequence in old:
            self._drop(sequence)
        return len(old)

    def expire(self, now: datetime) -> None:
        while self._ids and next(iter(self._ids.values()))[0] < now - self.spec.duplicate_window:
            del self._ids[next(iter(self._ids))]
        while self.spec.max_age is not None and self.messages:
            oldest = next(iter(self.messages.values()))
            if oldest.stored_at >= now - self.spec.max_age:
                break
            self._drop(oldest.sequence)

    def _drop(self, sequence: int) -> None:
        message = self.messages.pop(sequence)
        self.size -= len(message.body)
        of_subject = self._by_subject[message.subject]
        of_subject.remove(sequence)
        if not of_subject:
            del self._by_subject[message.subject]


class MemoryMessage:
    """One delivery; see `bus.port.Message`."""

    def __init__(self, stored: Stored, deliveries: int, consumer: "_Consumer") -> None:
        self._stored = stored
        self._deliveries = deliveries
        self._consumer = consumer
        self.answered = False

    @property
    def subject(self) -> str:
        return self._stored.subject

    @property
    def body(self) -> bytes:
        return self._stored.body

    @property
    def headers(self) -> Mapping[str, str]:
        return self._stored.headers

    @property
    def stored_at(self) -> datetime:
        return self._stored.stored_at

    @property
    def sequence(self) -> int:
        return self._stored.sequence

    @property
    def deliveries(self) -> int:
        return self._deliveries

    async def ack(self) -> None:
        self._finish()

    async def term(self) -> None:
        self._finish()

    async def nak(self, delay: timedelta | None = None) -> None:
        if not self.answered:
            self.answered = True
            self._consumer.again(self._stored, self._deliveries, delay or timedelta(0))

    async def in_progress(self) -> None:
        if not self.answered:
            self._consumer.await_answer(self._stored, self._deliveries)

    def _finish(self) -> None:
        if not self.answered:
            self.answered = True
            self._consumer.finish(self._stored, self._deliveries)


class _Consumer:
    """A durable's position, shared by all that consume under its name."""

    def __init__(self, subscription: Subscription, stream: _Stream) -> None:
        self.subscription = subscription
        self._stream = stream
        self._queue: deque[Stored] = deque()
        self._deliveries: dict[int, int] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self.members: list[_Member] = []
        if subscription.replay:
            stream.expire(datetime.now(UTC))
            self._queue.extend(m for m in stream.messages.values() if overlapping(subscription.subjects, m.subject))

    def offer(self, stored: Stored) -> None:
        if overlapping(self.subscription.subjects, stored.subject):
            self._queue.append(stored)
            self.distribute()

    def distribute(self) -> None:
        """Hand out what waits, to whoever has the most room."""
        while self._queue:
            member = max(self.members, key=lambda member: member.room, default=None)
            if member is None or member.room <= 0:
                return
            stored = self._queue.popleft()
            if stored.sequence not in self._stream.messages:
                self._deliveries.pop(stored.sequence, None)
                continue  # aged out, or pushed out of its subject, while it waited
            deliveries = self._deliveries[stored.sequence] = self._deliveries.get(stored.sequence, 0) + 1
            self.await_answer(stored, deliveries)
            member.begin(MemoryMessage(stored, deliveries, self))

    def await_answer(self, stored: Stored, deliveries: int) -> None:
        self._cancel_timer(stored.sequence)
        wait = self.subscription.ack_wait.total_seconds()
        loop = asyncio.get_running_loop()
        self._timers[stored.sequence] = loop.call_later(wait, self._redeliver, stored, deliveries)

    def again(self, stored: Stored, deliveries: int, delay: timedelta) -> None:
        if self._deliveries.get(stored.sequence) == deliveries:
            self._cancel_timer(stored.sequence)
            loop = asyncio.get_running_loop()
            self._timers[stored.sequence] = loop.call_later(delay.total_seconds(), self._redeliver, stored, deliveries)

    def finish(self, stored: Stored, deliveries: int) -> None:
        if self._deliveries.get(stored.sequence) == deliveries:
            self._cancel_timer(stored.sequence)
            del self._deliveries[stored.sequence]

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _redeliver(self, stored: Stored, deliveries: int) -> None:
        if self._deliveries.get(stored.sequence) == deliveries:
            self._timers.pop(stored.sequence, None)
            self._queue.appendleft(stored)
            self.distribute()

    def _cancel_timer(self, sequence: int) -> None:
        timer = self._timers.pop(sequence, None)
        if timer is not None:
            timer.cancel()


class _Member:
    """One process's share of a consumer."""

    def __init__(self, consumer: _Consumer, subscription: Subscription, handler: Handler) -> None:
        self._consumer = consumer
        self._subscription = subscription
        self._handler = handler
        self._running: set[asyncio.Task[None]] = set()

    @property
    def room(self) -> int:
        return self._subscription.window - len(self._running)

    def begin(self, message: MemoryMessage) -> None:
        task = asyncio.get_running_loop().create_task(self._handle(message))
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._consumer.distribute()

    async def stop(self) -> None:
        if self in self._consumer.members:
            self._consumer.members.remove(self)
        if self._running:
            await asyncio.wait(set(self._running))

    async def _handle(self, message: MemoryMessage) -> None:
        if self._subscription.settled(message):
            await message.ack()
            return
        try:
            await self._handler(message)
        except Exception:
            delay = min(timedelta(seconds=2 ** min(message.deliveries - 1, 10)), _LONGEST_DELAY)
            logger.exception(
                "%s: %s, delivery %d, failed; again in %d s",
                self._consumer.subscription.durable, message.subject, message.deliveries, delay.total_seconds(),
            )  # fmt: skip
            await message.nak(delay)


class MemoryBucket:
    """One bucket; see `bus.port.KeyValue`. A key that was not written for *ttl* expires, and watchers hear of it."""

    def __init__(self, name: str, ttl: timedelta | None) -> None:
        self._name = name
        self._ttl = ttl
        self._entries: dict[str, Entry] = {}
        self._revision = 0
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._watchers: list[tuple[str, asyncio.Queue[Entry]]] = []
        self._epoch = time.time_ns()

    @property
    def epoch(self) -> int:
        return self._epoch

    async def get(self, key: str) -> Entry | None:
        entry = self._entries.get(_checked(key))
        return None if entry is None or entry.deleted else entry

    async def create(self, key: str, value: bytes) -> int:
        entry = await self.get(key)
        if entry is not None:
            raise Conflict(f"{self._name} {key}: expected no such key, found revision {entry.revision}")
        return self._put(key, value)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        self._expect(key, revision)
        return self._put(key, value)

    async def delete(self, key: str, revision: int | None = None) -> None:
        if revision is not None:
            self._expect(key, revision)
        self._put(_checked(key), b"", deleted=True)

    async def keys(self, prefix: str = "") -> list[str]:
        return sorted(key for key, entry in self._entries.items() if key.startswith(prefix) and not entry.deleted)

    async def watch(self, prefix: str = "") -> AsyncIterator[Entry | None]:
        changes: asyncio.Queue[Entry] = asyncio.Queue()
        present = [e for key, e in self._entries.items() if key.startswith(prefix) and not e.deleted]
        watcher = (prefix, changes)
        self._watchers.append(watcher)
        try:
            for entry in sorted(present, key=lambda entry: entry.revision):
                yield entry
            yield None
            while True:
                yield await changes.get()
        finally:
            self._watchers.remove(watcher)

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _expect(self, key: str, revision: int) -> None:
        entry = self._entries.get(_checked(key))
        found = entry.revision if entry is not None else 0
        if found != revision:
            raise Conflict(f"{self._name} {key}: expected revision {revision}, found revision {found}")

    def _put(self, key: str, value: bytes, *, deleted: bool = False) -> int:
        self._revision += 1
        entry = self._entries[key] = Entry(key, value, self._revision, deleted)
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()
        if self._ttl is not None and not deleted:
            loop = asyncio.get_running_loop()
            self._timers[key] = loop.call_later(self._ttl.total_seconds(), self._expire, key)
        for prefix, changes in self._watchers:
            if key.startswith(prefix):
                changes.put_nowait(entry)
        return self._revision

    def _expire(self, key: str) -> None:
        del self._timers[key]
        self._put(key, b"", deleted=True)


def _checked(key: str) -> str:
    if not valid_key(key):
        raise Rejected(f"{key!r} is no key; allowed are letters, digits, -, _ and single dots between them")
    return key


class MemoryListening:
    """See `bus.port.Listening`."""

    def __init__(self, pattern: str, listeners: list[tuple[str, asyncio.Queue[tuple[str, bytes]]]]) -> None:
        self._listeners = listeners
        self._listener = (pattern, asyncio.Queue[tuple[str, bytes]]())
        listeners.append(self._listener)

    async def ready(self) -> None:
        """At once: there is no server to wait for."""

    def __aiter__(self) -> AsyncIterator[tuple[str, bytes]]:
        return self

    async def __anext__(self) -> tuple[str, bytes]:
        return await self._listener[1].get()

    async def aclose(self) -> None:
        if self._listener in self._listeners:
            self._listeners.remove(self._listener)


class MemoryBus:
    """Everything that uses the same instance shares one bus. Use it within one event loop."""

    def __init__(self, settings: BusSettings | None = None) -> None:
        settings = settings or BusSettings()
        self._max_payload = settings.embedded.max_payload
        self._streams = {name: _Stream(name, spec) for name, spec in streams(settings).items()}
        self._buckets = {name: MemoryBucket(spec.name, spec.max_age) for name, spec in buckets(settings).items()}
        self._listeners: list[tuple[str, asyncio.Queue[tuple[str, bytes]]]] = []
        self._members: list[_Member] = []
        self._closed = False

    @property
    def connected(self) -> bool:
        return not self._closed

    async def publish(
        self, subject: str, body: bytes, *, message_id: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self._store(subject, body, {**(headers or {}), **({_MESSAGE_ID: message_id} if message_id is not None else {})})

    async def publish_soon(
        self, subject: str, body: bytes, *, message_id: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Awaitable[None]:
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            await self.publish(subject, body, message_id=message_id, headers=headers)
        except Conflict as error:
            stored.set_exception(error)
        else:
            stored.set_result(None)
        return stored

    async def append(self, subject: str, body: bytes, *, expected_last: int) -> int:
        return self._store(subject, body, {_EXPECTED: str(expected_last)})

    async def last(self, subject: str) -> Stored | None:
        refuse_pattern(subject)
        return self._stream(stream_of(subject)).last(subject)

    async def usage(self, stream: StreamName) -> Usage:
        return self._stream(stream).usage()

    async def purge(self, stream: StreamName, before: int) -> int:
        return self._stream(stream).purge(before)

    async def resize(self, stream: StreamName, limit: int) -> None:
        kept = self._stream(stream)
        refuse_limit(stream, limit, kept.size)
        kept.limit = limit

    async def announce(self, subject: str, body: bytes) -> None:
        self._check(subject, body)
        self._tell(subject, body)

    def listen(self, pattern: str) -> Listening:
        return MemoryListening(pattern, self._listeners)

    async def consume(self, subscription: Subscription, handler: Handler) -> Consumption:
        stream = self._streams[subscription.stream]
        consumer = stream.consumers.get(subscription.durable)
        if consumer is None:
            consumer = stream.consumers[subscription.durable] = _Consumer(subscription, stream)
        consumer.subscription = subscription  # filters may have changed, as with a durable on a server
        member = _Member(consumer, subscription, handler)
        consumer.members.append(member)
        self._members.append(member)
        consumer.distribute()
        return member

    async def bucket(self, name: Bucket) -> KeyValue:
        return self._buckets[name]

    async def read(
        self, stream: StreamName, pattern: str = "", since: datetime | None = None
    ) -> AsyncGenerator[Stored, None]:
        kept = self._streams[stream]
        kept.expire(datetime.now(UTC))
        for message in list(kept.messages.values()):
            if (not pattern or matches(pattern, message.subject)) and (since is None or message.stored_at >= since):
                yield message

    async def close(self) -> None:
        self._closed = True
        for member in self._members:
            await member.stop()
        for stream in self._streams.values():
            for consumer in stream.consumers.values():
                consumer.close()
        for bucket in self._buckets.values():
            bucket.close()

    def _store(self, subject: str, body: bytes, headers: Mapping[str, str]) -> int:
        self._check(subject, body)
        sequence = self._streams[stream_of(subject)].store(subject, body, headers)
        self._tell(subject, body)
        return sequence

    def _stream(self, name: StreamName) -> _Stream:
        if self._closed:
            raise Unavailable("the bus is closed")
        return self._streams[name]

    def _check(self, subject: str, body: bytes) -> None:
        if self._closed:
            raise Unavailable("the bus is closed")
        if len(body) > self._max_payload:
            raise Rejected(
                f"a message of {len(body)} bytes ({show_size(len(body))}) to {subject} is larger than the"
                f" {self._max_payload} bytes ({show_size(self._max_payload)}) that the bus takes"
            )

    def _tell(self, subject: str, body: bytes) -> None:
        for pattern, queue in self._listeners:
            if matches(pattern, subject):
                queue.put_nowait((subject, body))
