"""Small in-memory worlds: a machine to read, a clock to turn, and an outlet that keeps what it was told."""

import asyncio
import heapq
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

from collectors.core.outlet import OutletError
from schemas.envelope import Event
from schemas.facts.containers import Engine
from schemas.facts.files import DeletedOpen, FileStat, LargeFile, Mount, Root, Usage
from schemas.facts.journal import JournalUsage
from schemas.facts.logs import LogRotation
from schemas.facts.packages import PackageCache
from schemas.heartbeat import Heartbeat
from schemas.probes import ProbeError, Walk

GIB = 2**30
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


class FakeClock:
    """Stands still until it is moved. `advance` wakes sleepers in order, and waits until each sleeps again or ended."""

    def __init__(self, start: datetime = START) -> None:
        self._start = start
        self._elapsed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._count = 0

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._elapsed)

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, duration: timedelta) -> None:
        future = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._sleepers, (self._elapsed + max(0.0, duration.total_seconds()), self._count, future))
        await future

    def move(self, duration: timedelta) -> None:
        """Let time pass for those who only look at the clock."""
        self._elapsed += duration.total_seconds()

    @property
    def asleep(self) -> int:
        self._sleepers = [sleeper for sleeper in self._sleepers if not sleeper[2].done()]
        heapq.heapify(self._sleepers)
        return len(self._sleepers)

    async def until_asleep(self, count: int) -> None:
        """Wait until *count* tasks sleep; their work may run in real threads."""
        async with asyncio.timeout(30):
            while self.asleep != count:
                await asyncio.sleep(0.001)

    async def advance(self, duration: timedelta) -> None:
        """Let time pass, for as many tasks as sleep now; each of them must come back to sleep."""
        end, count = self._elapsed + duration.total_seconds(), self.asleep
        while self._sleepers and self._sleepers[0][0] <= end:
            self._elapsed, _, future = heapq.heappop(self._sleepers)
            future.set_result(None)
            await self.until_asleep(count)
        self._elapsed = end


class FakeFiles:
    """Filesystems and files as plain attributes that a test changes while the code under test runs.

    `broken` makes a read fail: a method's name (`"mounts"`) or a path given to one → the error's text.
    """

    def __init__(self) -> None:
        self.mounted: list[Mount] = []
        self.usages: dict[str, Usage] = {}
        self.pools: dict[str, str] = {}
        """device → thin pool"""
        self.trees: dict[str, dict[str, FileStat]] = {}
        """root directory → its files by relative path"""
        self.open: set[tuple[int, int]] = set()
        self.deleted: list[DeletedOpen] = []
        self.broken: dict[str, str] = {}
        self.calls: defaultdict[str, int] = defaultdict(int)

    def disk(
        self, point: str, percent: float = 50, *, total: int = 100 * GIB, inodes: int = 1_000_000,
        inode_percent: float = 10, device: str = "", fstype: str = "ext4", options: tuple[str, ...] = ("rw",),
    ) -> Usage:  # fmt: skip
        """Mount a filesystem there, or change how full the one there is; no blocks are reserved for root."""
        held = next((mount for mount in self.mounted if mount.point == point), None)
        if held is None:
            number = len(self.mounted) + 1
            held = Mount(
                mount_id=number, device=device or f"8:{number}", root="/", point=point, options=options, fstype=fstype,
                source=f"server:/{number}" if fstype == "nfs4" else f"/dev/disk{number}",
            )  # fmt: skip
            self.mounted.append(held)
        used, inodes_used = round(total * percent / 100), round(inodes * inode_percent / 100)
        usage = self.usages[point] = Usage(
            point=point, device=held.mount_id, total=total, used=used, available=total - used,
            root_available=total - used, inodes_total=inodes, inodes_used=inodes_used,
            inodes_available=inodes - inodes_used,
        )  # fmt: skip
        return usage

    def unmount(self, point: str) -> None:
        self.mounted = [mount for mount in self.mounted if mount.point != point]
        del self.usages[point]

    def file(
        self, root: str, path: str, size: int, age: timedelta, *, now: datetime = START, links: int = 1, uid: int = 0
    ) -> FileStat:
        """Put a file below *root*, last touched *age* ago."""
        touched = int((now - age).timestamp()) * 10**9
        tree = self.trees.setdefault(root, {})
        tree[path] = FileStat(
            path=path, device=self.root(root).device, inode=len(tree) + 100 * len(self.trees), mtime_ns=touched,
            newest_ns=touched, size=size, allocated=-(-size // 4096) * 4096, links=links, uid=uid,
        )  # fmt: skip
        return tree[path]

    def mounts(self) -> list[Mount]:
        self._read("mounts")
        return list(self.mounted)

    def usage(self, point: str) -> Usage:
        self._read("usage", point)
        if point not in self.usages:
            raise ProbeError(f"{point} is no mount point")
        return self.usages[point]

    def thin_pool(self, device: str) -> str | None:
        self._read("thin_pool", device)
        return self.pools.get(device)

    def mount_of(self, path: str) -> str:
        self._read("mount_of", path)
        points = [point for point in self.usages if path == point or path.startswith(point.rstrip("/") + "/")]
        if not points:
            raise ProbeError(f"{path} does not exist")
        return max(points, key=len)

    def root(self, path: str) -> Root:
        self._read("root", path)
        if path not in self.trees:
            raise ProbeError(f"{path} does not exist")
        device = self.usages[self.mount_of(path)].device if self.usages else 1
        return Root(path=path, device=device, inode=2 + list(self.trees).index(path))

    def walk(self, walk: Walk) -> Iterator[FileStat]:
        self._read("walk", walk.root.path)
        limit = walk.older_than.timestamp() * 1e9
        for path, stat in self.trees[walk.root.path].items():
            names = path.split("/")
            if any(fnmatchcase(name, glob) for name in names for glob in walk.exclude):
                continue
            walk.met += 1
            if (walk.names and not any(fnmatchcase(names[-1], glob) for glob in walk.names)) or (
                (stat.mtime_ns if walk.by_mtime else stat.newest_ns) >= limit
            ):
                continue
            reason = "hard link" if stat.links > 1 else "in use" if stat[1:3] in walk.skip else ""
            if reason:
                walk.skipped[reason] = walk.skipped.get(reason, 0) + 1
            else:
                yield stat

    def kept_by_tmpfiles(self) -> tuple[str, ...]:
        return ()

    def in_use(self) -> frozenset[tuple[int, int]]:
        self._read("in_use")
        return frozenset(self.open)

    def deleted_open(self) -> list[DeletedOpen]:
        self._read("deleted_open")
        return sorted(self.deleted, key=lambda file: file.allocated, reverse=True)

    def largest(self, point: str, count: int) -> list[LargeFile]:
        self._read("largest", point)
        found = [
            LargeFile(
                path=f"{root}/{path}",
                allocated=stat.allocated,
                modified=datetime.fromtimestamp(stat.mtime_ns / 1e9, UTC),
            )
            for root, tree in self.trees.items()
            if self.mount_of(root) == point
            for path, stat in tree.items()
        ]
        return sorted(found, key=lambda file: file.allocated, reverse=True)[:count]

    def _read(self, method: str, path: str | None = None) -> None:
        self.calls[method] += 1
        for key in (method, path):
            if key in self.broken:
                raise ProbeError(self.broken[key])


@dataclass
class FakePackages:
    found: list[PackageCache] = field(default_factory=list)

    def caches(self) -> list[PackageCache]:
        return list(self.found)


@dataclass
class FakeJournal:
    found: JournalUsage | None = None

    def usage(self) -> JournalUsage | None:
        return self.found


@dataclass
class FakeLogRotation:
    found: LogRotation = field(default_factory=LogRotation)

    def rotation(self) -> LogRotation:
        return self.found


@dataclass
class FakeContainers:
    found: Engine | None = None

    def engine(self) -> Engine | None:
        return self.found


@dataclass
class FakeProbes:
    """A machine: each port a world of its own."""

    files: FakeFiles = field(default_factory=FakeFiles)
    packages: FakePackages = field(default_factory=FakePackages)
    journal: FakeJournal = field(default_factory=FakeJournal)
    log_rotation: FakeLogRotation = field(default_factory=FakeLogRotation)
    containers: FakeContainers = field(default_factory=FakeContainers)


class FakeOutlet:
    """Keeps what a collector tells; `error` is raised instead while it is set."""

    def __init__(self) -> None:
        self.events: list[Event[Any]] = []
        self.beats: list[Event[Heartbeat]] = []
        self.error: OutletError | None = None
        self.dropped = 0

    async def health(self, event: Event[Any]) -> None:
        if self.error is not None:
            raise self.error
        self.events.append(event)

    async def heartbeat(self, event: Event[Heartbeat]) -> None:
        self.beats.append(event)

    def take(self) -> list[Any]:
        """The data of what was told since the last call."""
        events, self.events = self.events, []
        return [event.data for event in events]
