"""Where the spool keeps its events: a bounded SQLite file, or bounded memory when the disk refuses."""

import asyncio
import contextlib
import json
import logging
import os
import re
import sqlite3
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from schemas.settings.bus import SpoolSettings
from schemas.units import show_size

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    position INTEGER PRIMARY KEY, subject TEXT NOT NULL, body BLOB NOT NULL, message_id TEXT NOT NULL,
    headers TEXT NOT NULL, size INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS dropped (subject TEXT PRIMARY KEY, count INTEGER NOT NULL);
"""
_OVERHEAD = 64  # bytes that a row costs beyond what it holds


@dataclass(frozen=True)
class SpooledEvent:
    """An event that waits. `order` is that of publishing."""

    order: int
    subject: str
    body: bytes
    message_id: str
    headers: Mapping[str, str]

    @property
    def size(self) -> int:
        headers = sum(len(key) + len(value) for key, value in self.headers.items())
        return len(self.subject) + len(self.body) + len(self.message_id) + headers + _OVERHEAD


class SpoolStore:
    """Appends at the end, drops the oldest when full. Never raises for a disk that refuses: memory takes over.

    The file is written ahead and survives the death of the process; a power cut may take the last moments.
    """

    def __init__(self, settings: SpoolSettings, name: str) -> None:
        self._settings = settings
        self.path = settings.directory / f"{re.sub(r'[^A-Za-z0-9_-]', '-', name)}.sqlite"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._database: sqlite3.Connection | None = None
        self._on_disk = 0
        self._disk_size = 0
        self._delivered: set[int] = set()  # rows that are done but could not be removed from the file
        self._memory: deque[SpooledEvent] = deque()
        self._memory_size = 0
        self._disk_refuses = False
        self._full = False
        self._closed = False
        self.dropped: Counter[str] = Counter()

    @property
    def count(self) -> int:
        return self._on_disk - len(self._delivered) + len(self._memory)

    async def open(self) -> int:
        """Open the file, return the order of the last event in it."""
        return await self._run(self._open)

    async def append(self, event: SpooledEvent) -> None:
        await self._run(lambda: self._append(event))

    async def oldest(self, count: int) -> list[SpooledEvent]:
        return await self._run(lambda: self._oldest(count))

    async def remove(self, orders: Sequence[int]) -> None:
        await self._run(lambda: self._remove(orders))

    async def count_dropped(self, subject: str) -> None:
        await self._run(lambda: self._count_dropped([subject]))

    async def forget_dropped(self, told: Mapping[str, int]) -> None:
        await self._run(lambda: self._forget_dropped(told))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._run(self._close)
        self._thread.shutdown()
        if self._memory:
            logger.error(
                "%d events were only in memory, because the disk refused them, and are lost", len(self._memory)
            )

    async def _run(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open(self) -> int:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # SQLite follows links; refuse one, and make the file ours alone before anything is in it.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
            self._database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=1)
            # Exclusive: a second process under the same name would deliver our events a second time.
            for pragma in (
                "locking_mode=EXCLUSIVE",
                "auto_vacuum=INCREMENTAL",
                "journal_mode=WAL",
                "synchronous=NORMAL",
            ):
                self._database.execute(f"PRAGMA {pragma}").fetchall()
            self._database.executescript(_SCHEMA)
            row = self._database.execute(
                "SELECT count(*), coalesce(sum(size), 0), coalesce(max(position), 0) FROM events"
            )
            self._on_disk, self._disk_size, last = row.fetchone()
            self.dropped.update(dict(self._database.execute("SELECT subject, count FROM dropped").fetchall()))
            return int(last)
        except (OSError, sqlite3.Error) as error:
            if self._database is not None:
                self._database.close()
                self._database = None
            self._refused(error)
            return 0

    def _append(self, event: SpooledEvent) -> None:
        # Once something is in memory all that follows goes there: it is newer than everything in the file.
        if self._database is not None and not self._memory:
            try:
                self._append_to_file(self._database, event)
                self._disk_refuses = False
                return
            except sqlite3.Error as error:
                self._refused(error)
        self._memory.append(event)
        self._memory_size += event.size
        lost = []
        while self._memory_size > self._settings.memory_size and len(self._memory) > 1:
            oldest = self._memory.popleft()
            self._memory_size -= oldest.size
            lost.append(oldest.subject)
        self._count_dropped(lost)

    def _append_to_file(self, database: sqlite3.Connection, event: SpooledEvent) -> None:
        with _transaction(database):
            lost, removed, freed = self._make_room(database, event)
            database.execute(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)",
                (event.order, event.subject, event.body, event.message_id, json.dumps(dict(event.headers)), event.size),
            )
            _add_dropped(database, Counter(lost))
        self.dropped.update(lost)
        self._on_disk += 1 - removed
        self._disk_size += event.size - freed
        if lost:
            self._say_full()

    def _make_room(self, database: sqlite3.Connection, event: SpooledEvent) -> tuple[list[str], int, int]:
        """Remove the oldest until *event* fits; return the subjects of what is lost, the rows removed, their bytes."""
        lost: list[str] = []
        removed = freed = 0
        while self._on_disk > removed and (
            self._on_disk - removed >= self._settings.max_events
            or self._disk_size - freed + event.size > self._settings.max_size
        ):
            row = database.execute("SELECT position, subject, size FROM events ORDER BY position LIMIT 1").fetchone()
            database.execute("DELETE FROM events WHERE position = ?", (row[0],))
            if row[0] not in self._delivered:
                lost.append(row[1])
            removed, freed = removed + 1, freed + row[2]
        return lost, removed, freed

    def _oldest(self, count: int) -> list[SpooledEvent]:
        found: list[SpooledEvent] = []
        if self._database is not None:
            try:
                rows = self._database.execute(
                    "SELECT position, subject, body, message_id, headers FROM events ORDER BY position LIMIT ?",
                    (count + len(self._delivered),),
                ).fetchall()
                found = [
                    SpooledEvent(row[0], row[1], row[2], row[3], json.loads(row[4]))
                    for row in rows
                    if row[0] not in self._delivered
                ]
            except sqlite3.Error as error:
                self._refused(error)
        found.extend(self._memory)
        return sorted(found, key=lambda event: event.order)[:count]

    def _remove(self, orders: Sequence[int]) -> None:
        gone = set(orders)
        in_memory = [event for event in self._memory if event.order in gone]
        if in_memory:
            self._memory = deque(event for event in self._memory if event.order not in gone)
            self._memory_size -= sum(event.size for event in in_memory)
            gone -= {event.order for event in in_memory}
        self._delivered |= gone
        if self._database is not None and self._delivered:
            try:
                self._remove_from_file(self._database)
            except sqlite3.Error as error:
                self._refused(error)
        if self.count == 0:
            self._full = False

    def _remove_from_file(self, database: sqlite3.Connection) -> None:
        with _transaction(database):
            database.executemany("DELETE FROM events WHERE position = ?", [(order,) for order in self._delivered])
        self._delivered.clear()
        self._on_disk, self._disk_size = database.execute(
            "SELECT count(*), coalesce(sum(size), 0) FROM events"
        ).fetchone()
        if self._on_disk == 0:
            # As a script, because a plain execute steps only once, which gives back a single page.
            database.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);")

    def _count_dropped(self, subjects: Sequence[str]) -> None:
        if not subjects:
            return
        self.dropped.update(subjects)
        self._say_full()
        if self._database is not None:
            try:
                with _transaction(self._database):
                    _add_dropped(self._database, Counter(subjects))
            except sqlite3.Error as error:
                self._refused(error)

    def _forget_dropped(self, told: Mapping[str, int]) -> None:
        self.dropped = Counter({s: n - told.get(s, 0) for s, n in self.dropped.items() if n > told.get(s, 0)})
        if self._database is not None:
            try:
                with _transaction(self._database):
                    self._database.execute("DELETE FROM dropped")
                    _add_dropped(self._database, self.dropped)
            except sqlite3.Error as error:
                self._refused(error)

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _refused(self, error: Exception) -> None:
        if not self._disk_refuses:
            self._disk_refuses = True
            logger.error(
                "%s: %s; keeping up to %s of events in memory, which a restart would lose",
                self.path, error, show_size(self._settings.memory_size),
            )  # fmt: skip

    def _say_full(self) -> None:
        if not self._full:
            self._full = True
            logger.error(
                "the spool %s is full; the oldest events are dropped and counted until the bus is back;"
                " a larger bus.spool.max_size in ansai.yaml keeps more", self.path,
            )  # fmt: skip


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _add_dropped(database: sqlite3.Connection, counts: Mapping[str, int]) -> None:
    database.executemany(
        "INSERT INTO dropped VALUES (?, ?) ON CONFLICT (subject) DO UPDATE SET count = count + excluded.count",
        list(counts.items()),
    )
