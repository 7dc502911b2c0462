"""Key-value state on JetStream: a stream with one message per key, written by compare-and-set."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from itertools import count
from uuid import uuid4

from bus.connection import Connection
from bus.ordered import OrderedReader, Replaced, Where
from bus.outbox import ApiRefusal, Denied, Outbox
from bus.port import Bucket, Conflict, Entry, Rejected, Unavailable
from bus.restore import Restorer
from bus.store import created_at
from bus.streams import bucket_stream, key_prefix
from bus.subjects import valid_key

logger = logging.getLogger(__name__)

_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_MESSAGE_ID = "Nats-Msg-Id"
_OPERATION = "KV-Operation"
_EXPIRED = "Nats-Marker-Reason"  # the server's own marker, instead of an operation
_RETRY = 1.0  # seconds until a watch begins again
_FASTEST = 100_000  # writes a second that no bucket takes: measured were 4,000 one by one, 18,000 sixteen at once


class JetStreamBucket:
    """One bucket; see `bus.port.KeyValue`.

    Values are read from whoever is near. In a cluster that may be a copy which lags by moments; every write is
    checked by the leader, so acting upon an old value ends in a Conflict.
    """

    def __init__(self, name: Bucket, connection: Connection, outbox: Outbox, restorer: Restorer) -> None:
        self._stream = bucket_stream(name)
        self._prefix = key_prefix(name)
        self._connection = connection
        self._outbox = outbox
        self._restorer = restorer
        self._writer = uuid4().hex
        self._writes = count()
        self._epoch: int | None = None
        self._looked = 0.0  # on the monotonic clock, before the look that gave the epoch

    async def open(self) -> None:
        """Find out the epoch. Raises Unavailable, Rejected; a role that may not ask goes without."""
        try:
            await self._look()
        except Denied:
            self._epoch = None

    @property
    def epoch(self) -> int:
        """Raises Rejected when the role of this client may not look at the bucket's stream."""
        if self._epoch is None:
            raise Rejected(
                f"{self._connection.url} does not tell us when bucket {self._stream} was made;"
                f" permit this role to publish to $JS.API.STREAM.INFO.{self._stream}"
            )
        return self._epoch

    async def get(self, key: str) -> Entry | None:
        entry, _ = await self._last(key)
        return None if entry is None or entry.deleted else entry

    async def create(self, key: str, value: bytes) -> int:
        revision = await self._create(key, value)
        # Revisions of a bucket that was made anew begin at 1. A larger one than a bucket made since the last look can
        # have reached is the old bucket's. That needs no event that may get lost, nor a second question with each
        # create; and unlike "lower than one seen before" it holds when others wrote much while we wrote nothing.
        if self._epoch is not None and revision <= (time.monotonic() - self._looked) * _FASTEST:
            await self._look()
        return revision

    async def _look(self) -> None:
        looked = time.monotonic()
        try:
            info = await self._outbox.api(f"STREAM.INFO.{self._stream}")
        except ApiRefusal as error:
            raise self._explained(error) from error
        self._epoch, self._looked = created_at(info), looked

    def _explained(self, error: ApiRefusal) -> Rejected:
        """A bucket that is gone is made again, and whoever asked is told."""
        return self._restorer.missing(self._stream) if error.stream_missing else error

    async def _create(self, key: str, value: bytes) -> int:
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
        except ApiRefusal as error:
            raise self._explained(error) from error
        finally:
            await reader.close()
        return sorted(found)

    async def watch(self, prefix: str = "") -> AsyncIterator[Entry | None]:
        """As promised; when the bucket is made anew, its keys are seen deleted, and then what the new one holds."""
        present: set[str] = set()
        all_present_seen = False
        while True:
            try:
                async with aclosing(self._watch_one(prefix)) as entries:
                    async for entry in entries:
                        if entry is not None:
                            (present.discard if entry.deleted else present.add)(entry.key)
                            yield entry
                        elif not all_present_seen:
                            all_present_seen = True
                            yield None
            except Unavailable:
                if not all_present_seen:
                    raise
            except (ApiRefusal, Replaced) as error:
                if isinstance(error, ApiRefusal) and not (error.stream_missing and all_present_seen):
                    raise self._explained(error) from error
                self._restorer.missing(self._stream)
                logger.log(logging.WARNING if present else logging.INFO, "watching %s anew: %s", self._stream, error)
                for key in sorted(present):
                    yield Entry(key, b"", 0, deleted=True)
                present.clear()
            await asyncio.sleep(_RETRY)

    async def _watch_one(self, prefix: str) -> AsyncGenerator[Entry | None, None]:
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
