"""The bucket `fleet` as one process knows it: one watch for all, and values that are replaced by compare-and-set."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from bus.port import Bucket, Bus, BusError, Entry, KeyValue
from functions.core.ports import NotStored
from schemas.remediation import Value

logger = logging.getLogger(__name__)

Kept = TypeVar("Kept", bound=Value)
Follower = Callable[[Entry], None]

RETRY = 1.0
"""Seconds until a watch that broke is tried again."""


class FleetMirror:
    """Everything that the bucket holds. Start it once in a process; functions and brake share it."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._bucket: KeyValue | None = None
        self._entries: dict[str, Entry] = {}
        self._followers: list[tuple[str, Follower]] = []
        self._cells: dict[str, Cell[Any]] = {}
        self._watching: asyncio.Task[None] | None = None
        self.problem = "it was never read"
        """why it may be out of date; empty while the watch runs"""
        self.on_problem: list[Callable[[], None]] = []
        """called when `problem` has changed"""

    @property
    def bucket(self) -> KeyValue:
        if self._bucket is None:
            raise NotStored("the bucket fleet was never opened: the mirror is not started")
        return self._bucket

    async def start(self) -> None:
        """Return when it holds everything that is stored now. Raises BusError."""
        self._bucket = await self._bus.bucket(Bucket.FLEET)
        filled = asyncio.Event()
        first = asyncio.create_task(self._watch(filled))
        ready = asyncio.create_task(filled.wait())
        try:
            await asyncio.wait({first, ready}, return_when=asyncio.FIRST_COMPLETED)
            if first.done():
                first.result()
        except BaseException:
            first.cancel()
            raise
        finally:
            ready.cancel()
        self._watching = asyncio.create_task(self._keep_watching(first))

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None

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

    async def _keep_watching(self, watch: asyncio.Task[None]) -> None:
        try:
            while True:
                try:
                    await watch
                    self._troubled("its watch has ended")
                except BusError as error:
                    self._troubled(str(error))
                await asyncio.sleep(RETRY)
                watch = asyncio.create_task(self._watch(asyncio.Event()))
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _watch(self, filled: asyncio.Event) -> None:
        """One watch, to its end. What it doesn't meet among what is present was deleted while nobody watched."""
        seen: set[str] = set()
        present = True
        async with contextlib.aclosing(_generator(self.bucket)) as entries:
            async for entry in entries:
                if entry is None:
                    for key in self._entries.keys() - seen:
                        self._reflect(Entry(key, b"", 0, deleted=True))
                    present = False
                    self._troubled("")
                    filled.set()
                    continue
                if present:
                    seen.add(entry.key)
                self._reflect(entry)

    def _reflect(self, entry: Entry) -> None:
        if entry.deleted:
            self._entries.pop(entry.key, None)
        else:
            self._entries[entry.key] = entry
        if (cell := self._cells.get(entry.key)) is not None:
            cell.hear(entry)
        for prefix, follower in self._followers:
            if entry.key.startswith(prefix):
                follower(entry)

    def _troubled(self, problem: str) -> None:
        if problem == self.problem:
            return
        if problem:
            logger.warning("the bucket fleet can't be watched, trying again: %s", problem)
        self.problem = problem
        for tell in self.on_problem:
            tell()


def _generator(bucket: KeyValue) -> Any:
    """The watch over all keys; an asynchronous generator, although the port promises an iterator only."""
    return bucket.watch()


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
        self.arrived = 0.0
        """monotonic, when we learnt of the present value"""
        if (entry := mirror.get(key)) is not None:
            self._take(entry)

    @property
    def stored(self) -> Kept | None:
        """As it is known now; None when there is none, or it can't be read."""
        return self._value

    @property
    def exists(self) -> bool:
        return self._revision > 0

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
        self._take(await self._mirror.bucket.get(self.key))
        return self.latest()

    async def replace(self, value: Kept) -> None:
        """Raises Conflict when it is another one by now, BusError."""
        body = value.model_dump_json().encode()
        if self._revision:
            revision = await self._mirror.bucket.update(self.key, body, self._revision)
        else:
            revision = await self._mirror.bucket.create(self.key, body)
        self._revision, self._value, self._damage, self.arrived = revision, value, "", time.monotonic()

    async def remove(self) -> None:
        """Raises Conflict when it is another one by now, BusError."""
        await self._mirror.bucket.delete(self.key, self._revision)
        self._take(None)

    def hear(self, entry: Entry) -> None:
        """What the watch tells."""
        if entry.deleted:
            # A deletion that came before what we wrote since is old news.
            if entry.revision == 0 or entry.revision > self._revision:
                self._take(None)
        elif entry.revision > self._revision:
            self._take(entry)

    def _take(self, entry: Entry | None) -> None:
        self._revision = entry.revision if entry is not None else 0
        self._value, self._damage, self.arrived = None, "", time.monotonic()
        if entry is None:
            return
        try:
            self._value = self._model.model_validate_json(entry.value)
        except ValidationError as error:
            self._damage = f"{error.error_count()} errors"
            logger.error("%s of bucket fleet is damaged (%s): nats kv del fleet %s", self.key, self._damage, self.key)
