"""Key-value state on JetStream: a stream with one message per key, written by compare-and-set."""

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from itertools import count
from uuid import uuid4

from bus.connection import Connection
from bus.ordered import OrderedReader, Where
from bus.outbox import Outbox
from bus.port import Bucket, Conflict, Entry, Rejected
from bus.streams import bucket_stream, key_prefix
from bus.subjects import valid_key

_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_MESSAGE_ID = "Nats-Msg-Id"
_OPERATION = "KV-Operation"
_EXPIRED = "Nats-Marker-Reason"  # the server's own marker, instead of an operation


class JetStreamBucket:
    """One bucket; see `bus.port.KeyValue`.

    Values are read from whoever is near. In a cluster that may be a copy which lags by moments; every write is
    checked by the leader, so acting upon an old value ends in a Conflict.
    """

    def __init__(self, name: Bucket, connection: Connection, outbox: Outbox) -> None:
        self._stream = bucket_stream(name)
        self._prefix = key_prefix(name)
        self._connection = connection
        self._outbox = outbox
        self._writer = uuid4().hex
        self._writes = count()

    async def get(self, key: str) -> Entry | None:
        entry, _ = await self._last(key)
        return None if entry is None or entry.deleted else entry

    async def create(self, key: str, value: bytes) -> int:
        try:
            return await self._write(key, value, 0)
        except Conflict:
            entry, _ = await self._last(key)
            if entry is not None and not entry.deleted:
                raise
            return await self._write(key, value, entry.revision if entry is not None else 0)

    async def update(self, key: str, value: bytes, revision: int) -> int:
        return await self._write(key, value, revision)

    async def delete(self, key: str, revision: int | None = None) -> None:
        await self._write(key, b"", revision, {_OPERATION: "DEL"})

    async def keys(self, prefix: str = "") -> list[str]:
        found = []
        where = Where(self._stream, self._pattern(prefix), last_per_subject=True, headers_only=True)
        reader = OrderedReader(where, self._connection, self._outbox)
        try:
            async for message in reader.present():
                key = message.subject.removeprefix(self._prefix)
                if key.startswith(prefix) and not _gone(message.headers):
                    found.append(key)
        finally:
            await reader.close()
        return sorted(found)

    async def watch(self, prefix: str = "") -> AsyncIterator[Entry | None]:
        where = Where(self._stream, self._pattern(prefix), last_per_subject=True)
        reader = OrderedReader(where, self._connection, self._outbox)
        all_present_seen = False
        try:
            async with aclosing(reader.for_ever()) as messages:
                async for message in messages:
                    if message is None:
                        all_present_seen = True
                        yield None
                        continue
                    key, deleted = message.subject.removeprefix(self._prefix), _gone(message.headers)
                    if key.startswith(prefix) and (all_present_seen or not deleted):
                        yield Entry(key, message.body, message.sequence, deleted)
        finally:
            await reader.close()

    def _pattern(self, prefix: str) -> str:
        """The subjects of keys that begin with *prefix*, as narrow as whole tokens allow."""
        whole_tokens = prefix[: prefix.rfind(".") + 1]
        return f"{self._prefix}{whole_tokens}>"

    def _subject(self, key: str) -> str:
        if not valid_key(key):
            raise Rejected(f"{key!r} is no key; allowed are letters, digits, -, _ and single dots between them")
        return self._prefix + key

    async def _last(self, key: str) -> tuple[Entry | None, str]:
        """The last entry of the key, deleted or not, and the id it was written with."""
        subject = f"$JS.API.DIRECT.GET.{self._stream}.{self._subject(key)}"
        message = await self._outbox.request(subject, b"", self._outbox.found)
        if message is None:
            return None, ""
        headers = message.headers or {}
        entry = Entry(key, message.data, int(headers["Nats-Sequence"]), _gone(headers))
        return entry, headers.get(_MESSAGE_ID, "")

    async def _write(
        self, key: str, value: bytes, revision: int | None, headers: Mapping[str, str] | None = None
    ) -> int:
        written_as = f"{self._writer}.{next(self._writes)}"
        sent = {**(headers or {}), _MESSAGE_ID: written_as}
        if revision is not None:
            sent[_EXPECTED] = str(revision)
        subject = self._subject(key)
        try:
            return await (await self._outbox.publish(subject, value, sent, self._outbox.sequence))
        except Conflict as conflict:
            # A write whose answer was lost is sent again, and then conflicts with itself.
            entry, last_writer = await self._last(key)
            if entry is not None and last_writer == written_as:
                return entry.revision
            found = f"revision {entry.revision}" if entry is not None else "no such key"
            raise Conflict(f"{self._stream} {key}: expected revision {revision}, found {found}") from conflict


def _gone(headers: Mapping[str, str]) -> bool:
    return headers.get(_OPERATION) in ("DEL", "PURGE") or _EXPIRED in headers
