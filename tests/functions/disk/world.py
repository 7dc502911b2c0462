"""A machine in memory: one filesystem with files, caches, a journal, logs, images; both its probes and its tools."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from functions.core.remedy import Case
from functions.disk.facts import Found, Seen
from functions.disk.free_space import REMEDY
from schemas.disk import DiskPressure
from schemas.facts.containers import Engine, Image, Volume
from schemas.facts.files import DeletedOpen, FileItem, FileStat, LargeFile, Mount, Resource, Root, Usage
from schemas.facts.journal import JournalFile, JournalUsage
from schemas.facts.logs import LogRotation, RotatedLog
from schemas.facts.packages import PackageCache
from schemas.health import Level
from schemas.probes import ProbeError, Walk
from schemas.remediation import ItemResult, Outcome
from schemas.settings.disk import DiskMonitoring

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DEVICE = 2049
OTHER_DEVICE = 2050
MIB = 2**20


@dataclass
class File:
    path: str
    allocated: int = MIB
    age: timedelta = timedelta(days=100)
    links: int = 1
    device: int = DEVICE
    touched: timedelta | None = None
    """how long ago the newest of its three times lies; as long as mtime when not given"""


@dataclass
class World:
    """Everything on it is on `/` unless said otherwise. A part named in `broken` raises ProbeError when it is read."""

    total: int = 1000 * MIB
    used: int = 920 * MIB
    inodes_total: int = 10_000
    inodes_used: int = 1_000
    fstype: str = "ext4"
    read_only: bool = False
    files_here: list[File] = field(default_factory=list)
    open_files: set[str] = field(default_factory=set)
    caches_here: list[PackageCache] = field(default_factory=list)
    journal_here: JournalUsage | None = None
    logs_here: LogRotation = field(default_factory=LogRotation)
    engine_here: Engine | None = None
    held_open: list[DeletedOpen] = field(default_factory=list)
    directories: dict[str, int] = field(
        default_factory=lambda: {"/tmp": DEVICE, "/var/tmp": DEVICE, "/var/log": DEVICE}
    )
    other_mounts: list[Mount] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    kept: tuple[str, ...] = ()
    """globs that systemd-tmpfiles keeps"""
    done: list[tuple[str, object]] = field(default_factory=list)
    refuse: dict[str, Outcome] = field(default_factory=dict)
    """what a tool answers for an item, by its name; done when not given"""

    # one object is every port: the names of their methods do not clash, but for `usage`
    @property
    def files(self) -> "World":
        return self

    packages = log_rotation = containers = files

    @property
    def journal(self) -> "JournalPort":
        return JournalPort(self)

    def read(self, what: str) -> None:
        self.asked.append(what)
        if what in self.broken:
            raise ProbeError(f"{what}: permission denied")

    # ── probes ────────────────────────────────────────────────────────────────────────────────────────────────────

    def mounts(self) -> list[Mount]:
        self.read("mounts")
        root = Mount(
            mount_id=1, device="8:1", root="/", point="/", options=("rw",), fstype=self.fstype, source="/dev/x"
        )
        return [root, *self.other_mounts]

    def usage(self, point: str) -> Usage:
        self.read("usage")
        if point != "/":
            raise ProbeError(f"{point} is no mount point")
        return usage(self.used, self.total, self.inodes_used, self.inodes_total, self.read_only)

    def mount_of(self, path: str) -> str:
        self.read("mount_of")
        points = [mount.point for mount in self.mounts() if PurePosixPath(path).is_relative_to(mount.point)]
        return max(points, key=len)

    def root(self, path: str) -> Root:
        self.read(path)
        if path not in self.directories:
            raise ProbeError(f"{path}: no such directory")
        return Root(path=path, device=self.directories[path], inode=hash(path) % 2**32)

    def walk(self, walk: Walk) -> Iterator[FileStat]:
        self.read(f"walk {walk.root.path}")
        for number, file in enumerate(self.files_here):
            path = PurePosixPath(file.path)
            if not path.is_relative_to(walk.root.path):
                continue
            walk.met += 1
            relative = path.relative_to(walk.root.path)
            stat = self.stat(number, file, str(relative))
            time = stat.mtime_ns if walk.by_mtime else stat.newest_ns
            if file.age < timedelta(0):
                walk.skipped["clock"] = 1
                return
            if walk.names and not any(fnmatchcase(path.name, name) for name in walk.names):
                continue
            if any(fnmatchcase(part, pattern) for part in relative.parts for pattern in walk.exclude):
                continue
            if (stat.device, stat.inode) in walk.skip:
                walk.skipped["in use"] = walk.skipped.get("in use", 0) + 1
            elif time < walk.older_than.timestamp() * 1e9:
                yield stat

    def stat(self, number: int, file: File, relative: str) -> FileStat:
        mtime = int((NOW - file.age).timestamp() * 1e9)
        newest = int((NOW - (file.age if file.touched is None else file.touched)).timestamp() * 1e9)
        return FileStat(
            path=relative, device=file.device, inode=number + 100, mtime_ns=mtime, newest_ns=newest,
            size=file.allocated, allocated=file.allocated, links=file.links, uid=0,
        )  # fmt: skip

    def kept_by_tmpfiles(self) -> tuple[str, ...]:
        self.read("kept_by_tmpfiles")
        return self.kept

    def in_use(self) -> frozenset[tuple[int, int]]:
        self.read("in_use")
        return frozenset(
            (file.device, number + 100) for number, file in enumerate(self.files_here) if file.path in self.open_files
        )

    def deleted_open(self) -> list[DeletedOpen]:
        self.read("deleted_open")
        return self.held_open

    def largest(self, point: str, count: int) -> list[LargeFile]:
        self.read("largest")
        ranked = sorted(self.files_here, key=lambda file: -file.allocated)
        return [LargeFile(path=f.path, allocated=f.allocated, modified=NOW - f.age) for f in ranked[:count]]

    def caches(self) -> list[PackageCache]:
        self.read("caches")
        return self.caches_here

    def rotation(self) -> LogRotation:
        self.read("rotation")
        return self.logs_here

    def engine(self) -> Engine | None:
        self.read("engine")
        return self.engine_here

    # ── tools ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def do(self, what: str, item: object, name: str, size: int = 0) -> ItemResult:
        outcome = self.refuse.get(name, Outcome.DONE)
        if outcome is not Outcome.DONE:
            return ItemResult(name=name, outcome=outcome, reason="as the test wants it")
        self.done.append((what, item))
        return ItemResult(name=name, outcome=Outcome.DONE, freed={"bytes": size, "inodes": 1})

    def remove(self, root: Root, items: Sequence[FileItem]) -> list[ItemResult]:
        return [self.do("remove", f"{root.path}/{item.path}", item.path, item.allocated) for item in items]

    def compress(self, root: Root, items: Sequence[FileItem]) -> list[ItemResult]:
        return [self.do("compress", f"{root.path}/{item.path}", item.path, item.allocated // 2) for item in items]

    def decompress(self, root: Root, items: Sequence[FileItem]) -> list[ItemResult]:
        return [self.do("decompress", f"{root.path}/{item.path}", item.path) for item in items]

    def clean(self, manager: str, mode: str, directory: str) -> ItemResult:
        return self.do("clean", (manager, mode, directory), directory, MIB)

    def rotate(self, configuration: str) -> ItemResult:
        return self.do("rotate", configuration, configuration)

    def remove_image(self, engine: str, image_id: str, tags: Sequence[str]) -> ItemResult:
        return self.do("remove_image", (engine, image_id, tuple(tags)), image_id, MIB)

    # ── the remedy on this machine ────────────────────────────────────────────────────────────────────────────────

    def case(self, target: str = "bytes:/", seconds_to_full: float | None = None, **settings: object) -> Case:
        event = None
        if seconds_to_full is not None:
            event = DiskPressure(
                target=target, level=Level.EMERGENCY, observed_at=NOW, mount="/", resource=Resource.BYTES,
                seconds_to_full=seconds_to_full,
            )  # fmt: skip
        settings = {"minimum_available": 0, **settings}  # without the absolute floor, so that the percentages speak
        return Case(host="here", target=target, settings=DiskMonitoring(**settings), now=NOW, event=event)

    def survey(self, case: Case | None = None) -> Found:
        case = case or self.case()
        return REMEDY.survey(case, REMEDY.observe(case, self), self)

    def plan(self, case: Case | None = None):
        case = case or self.case()
        seen: Seen = REMEDY.observe(case, self)
        return REMEDY.plan(case, seen, REMEDY.survey(case, seen, self))


@dataclass
class JournalPort:
    world: World

    def usage(self) -> JournalUsage | None:
        self.world.read("journal")
        return self.world.journal_here

    def vacuum(self, directory: str, size: int, keep_since: datetime) -> ItemResult:
        return self.world.do("vacuum", (directory, size, keep_since), directory, MIB)


def usage(used, total=1000 * MIB, inodes_used=1_000, inodes_total=10_000, read_only=False) -> Usage:
    return Usage(
        point="/", device=DEVICE, total=total, used=used, available=total - used, root_available=total - used,
        inodes_total=inodes_total, inodes_used=inodes_used, inodes_available=inodes_total - inodes_used,
        read_only=read_only,
    )  # fmt: skip


def cache(allocated=50 * MIB, **changes) -> PackageCache:
    facts = {"manager": "apt", "directory": "/var/cache/apt/archives", "device": DEVICE, "files": 12}
    return PackageCache(**{**facts, "allocated": allocated, **changes})


def journal_file(days_old: float, allocated=8 * MIB, archived=True, span: float = 1) -> JournalFile:
    return JournalFile(
        path=f"/var/log/journal/m/system@{days_old}.journal", inode=1, allocated=allocated, archived=archived,
        head=NOW - timedelta(days=days_old + span), tail=NOW - timedelta(days=days_old),
    )  # fmt: skip


def journal(*files: JournalFile, boot_days_ago: float = 0, device=DEVICE) -> JournalUsage:
    return JournalUsage(
        directory="/var/log/journal/m", device=device, files=files, boot=NOW - timedelta(days=boot_days_ago)
    )


def due_log(path="/var/log/app/app.log", due=True, compresses=True, **changes) -> RotatedLog:
    facts = {"configuration": "/etc/logrotate.d/app", "device": DEVICE, "inode": 7, "allocated": 10 * MIB}
    return RotatedLog(**{**facts, "path": path, "due": due, "compresses": compresses, **changes})


def image(number=1, tags=("app:1",), days_old=100.0, **changes) -> Image:
    facts = {
        "id": f"sha256:{number:064x}",
        "digests": ("app@sha256:1",) if tags else (),
        "created": NOW - timedelta(days=days_old),
        "last_tagged": NOW - timedelta(days=days_old) if tags else None,
        "unique": 10 * MIB,
    }
    return Image(**{**facts, "tags": tags, **changes})


def volume(name="data", size: int | None = 3 * MIB, used_by=()) -> Volume:
    return Volume(name=name, anonymous=False, created=None, size=size, used_by=used_by)


def engine(*images: Image, volumes=(), device=DEVICE) -> Engine:
    return Engine(
        name="docker", version="20.10", root="/var/lib/docker", device=device, images=images, volumes=volumes, layers=0
    )


def held(size: int, pid=42, unit="app.service", device=DEVICE, inode=1) -> DeletedOpen:
    return DeletedOpen(
        pid=pid, process="app", unit=unit, path="/var/log/app.log", device=device, inode=inode, allocated=size
    )


def titles(findings) -> list[str]:
    return [finding.title for finding in findings]


def rungs(plan) -> dict[str, list]:
    return {rung.name: list(rung.actions) for rung in plan.rungs}


def names(actions) -> list[str]:
    return [item for action in actions for item in action.items()]
