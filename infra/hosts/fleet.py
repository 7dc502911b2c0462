"""The bucket `fleet` as one process knows it: one watch for all, and values that are replaced by compare-and-set."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import ValidationError

from bus.port import Bucket, Bus, Entry, KeyValue
from functions.core.ports import NotStored
from infra.hosts.watching import BucketWatch
from schemas.remediation import Value

if TYPE_CHECKING:
    from infra.hosts.desk import Desk

logger = logging.getLogger(__name__)

Kept = TypeVar("Kept", bound=Value)
Follower = Callable[[Entry], None]


class FleetMirror:
    """Everything that the bucket holds. Start it once in a process; functions and brake share it."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._bucket: KeyValue | None = None
        self._watch: BucketWatch | None = None
        self._entries: dict[str, Entry] = {}
        self._followers: list[tuple[str, Follower]] = []
        self._cells: dict[str, Cell[Any]] = {}
        self.desks: dict[str, Desk] = {}
        """one a budget: who shares the mirror shares them"""
        self.on_problem: list[Callable[[], None]] = []
        """called when `problem` has changed"""

    @property
    def problem(self) -> str:
        """Why it may be out of date; empty while the watch runs."""
        return "it was never read" if self._watch is None else self._watch.problem

    @property
    def bucket(self) -> KeyValue:
        if self._bucket is None:
            raise NotStored("the bucket fleet was never opened: the mirror is not started")
        return self._bucket

    async def start(self) -> None:
        """Return when it holds everything that is stored now. Raises BusError."""
        self._bucket = await self._bus.bucket(Bucket.FLEET)
        self._watch = BucketWatch(self._bucket, "", self._reflect)
        self._watch.on_problem = self.on_problem
        await self._watch.start()

    async def stop(self) -> None:
        if self._watch is not None:
            await self._watch.stop()

    def get(self, key: str) -> Entry | None:
        return self._entries.get(key)

    def follow(self, prefix: str, follower: Follower) -> None:
        """Tell *follower* of every present entry whose key begins with *prefix*, and of every change as it comes."""
        self._followers.append((prefix, follower))
        for key, entry in self._entries.items():
            if key.startswith(prefix):
                follower(entry)

    def unfollow(self, follower: Follower) -> None:
        self._followers = [each for each in self._followers if each[1] != follower]

    def cell(self, key: str, model: type[Kept]) -> "Cell[Kept]":
        """The value under *key*; the same cell for all that ask for it."""
        if key not in self._cells:
            self._cells[key] = Cell(self, key, model)
        return self._cells[key]

    def _reflect(self, entry: Entry, first: bool) -> None:
        if entry.deleted:
            self._entries.pop(entry.key, None)
        else:
            self._entries[entry.key] = entry
        if (cell := self._cells.get(entry.key)) is not None:
            cell.hear(entry, first)
        for prefix, follower in self._followers:
            if entry.key.startswith(prefix):
                follower(entry)


class Cell(Generic[Kept]):
    """One value of the bucket: what was written or seen last, and the next one by compare-and-set.

    Whoever reads, judges and replaces takes `lock` for as long, so that the functions of one process don't conflict
    with one another.
    """

    def __init__(self, mirror: FleetMirror, key: str, model: type[Kept]) -> None:
        self.lock = asyncio.Lock()
        self.key = key
        self._mirror = mirror
        self._model = model
        self._revision = 0
        self._value: Kept | None = None
        self._damage = ""
        self._writing: tuple[bytes, Kept] | None = None
        """what we are writing: the watch may tell of it before the answer comes"""
        self.arrived = 0.0
        """monotonic, when we learnt of the present value"""
        if (entry := mirror.get(key)) is not None:
            self._take(entry)

    @property
    def stored(self) -> Kept | None:
        """As it is known now; None when there is none, or it can't be read."""
        return self._value

    @property
    def revision(self) -> int:
        """Of what is known now; 0 when there is none. The watch may change it at any moment that we wait."""
        return self._revision

    def latest(self) -> Kept | None:
        """As it is known now. Raises NotStored when it can't be read."""
        if self._damage:
            raise NotStored(
                f"what is stored under {self.key} is damaged ({self._damage}), nothing is done until it is removed:"
                f" nats kv del fleet {self.key}"
            )
        return self._value

    async def read(self) -> Kept | None:
        """As it is stored now. Raises NotStored when it can't be read, BusError."""
        before = self._revision
        entry = await self._mirror.bucket.get(self.key)
        # The watch may have told of a newer one meanwhile; and in a cluster, the one who answered may lag behind it.
        if (entry is None and self._revision == before) or (entry is not None and entry.revision > self._revision):
            self._take(entry)
        return self.latest()

    async def replace(self, value: Kept, judged: int) -> None:
        """*judged*: the revision upon which *value* rests. Raises Conflict when it is another one by now, BusError."""
        body = value.model_dump_json().encode()
        self._writing = body, value
        try:
            if judged:
                revision = await self._mirror.bucket.update(self.key, body, judged)
            else:
                revision = await self._mirror.bucket.create(self.key, body)
        finally:
            self._writing = None
        if revision > self._revision:  # else the watch was faster, and has told of somebody's next one already
            self._revision, self._value, self._damage, self.arrived = revision, value, "", time.monotonic()

    async def remove(self) -> None:
        """Raises Conflict when it is another one by now, BusError."""
        before = self._revision
        await self._mirror.bucket.delete(self.key, before)
        if self._revision == before:
            self._take(None)

    def hear(self, entry: Entry, first: bool) -> None:
        """What the watch tells. What came before our own last write is old news, but not from another bucket."""
        another = entry.revision == 0 or (first and entry.revision != self._revision)
        if another or entry.revision > self._revision:
            self._take(None if entry.deleted else entry)

    def _take(self, entry: Entry | None) -> None:
        self._revision = entry.revision if entry is not None else 0
        self._value, self._damage, self.arrived = None, "", time.monotonic()
        if entry is None:
            return
        if self._writing is not None and self._writing[0] == entry.value:
            self._value = self._writing[1]
            return
        try:
            self._value = self._model.model_validate_json(entry.value)
        except ValidationError as error:
            self._damage = f"{error.error_count()} errors"
            logger.error("%s of bucket fleet is damaged (%s): nats kv del fleet %s", self.key, self._damage, self.key)
