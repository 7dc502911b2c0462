"""Files that may be cleaned, found on a walk: only the best of them are kept, so memory is bounded."""

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime

from functions.disk.facts import FilesBelow
from functions.disk.logs import DATABASE_LOGS, NEVER_LOGS, ROTATED_NAMES, any_of, owned, rotated, untouchable
from schemas.facts.files import FileItem, FileStat, Root
from schemas.probes import Walk

TEMP_EXCLUDE = (
    "systemd-private-*", "snap-private-tmp", "snap.*", ".X11-unix", ".ICE-unix", ".XIM-unix", ".font-unix",
    ".Test-unix", ".X*-lock", "lost+found", "aquota.*", "*.pid", "*.sock", "*.lock", "tmux-*", "screen", "screens",
    "uscreens", "S-*", "ssh-*", "gpg-*", "dbus-*", "pulse-*", "flatpak-*", ".flatpak*", ".mount_*", "krb5cc*",
)  # fmt: skip
"""Globs of base names below a temporary directory that belong to a session or a service, however old they look."""

SMALLEST_TO_COMPRESS = 4096
"""Bytes on disk: what takes one block can't take less."""


@dataclass
class Keep:
    """Of all files offered, the *most* oldest ones, or the largest; the rest is counted."""

    most: int
    largest: bool = False
    by_mtime: bool = False
    kept: list[tuple[int, int, int, FileStat]] = field(default_factory=list)
    """a heap of (worth, number, root, file) whose first entry is the one to give up first"""
    offered: int = 0
    left_out: int = 0
    left_out_bytes: int = 0

    def offer(self, root: int, stat: FileStat) -> None:
        """Keep *stat*, found below the root number *root*, or give up another for it."""
        worth = stat.allocated if self.largest else -self.age_ns(stat)
        self.offered += 1
        entry = (worth, self.offered, root, stat)
        if len(self.kept) < self.most:
            heapq.heappush(self.kept, entry)
            return
        _, _, _, given_up = heapq.heappushpop(self.kept, entry)
        self.left_out += 1
        self.left_out_bytes += given_up.allocated

    def forget(self, root: int) -> None:
        """Give up everything found below the root number *root*."""
        self.kept = [entry for entry in self.kept if entry[2] != root]
        heapq.heapify(self.kept)

    def age_ns(self, stat: FileStat) -> int:
        return stat.mtime_ns if self.by_mtime else stat.newest_ns

    def below(self, roots: list[Root]) -> tuple[FilesBelow, ...]:
        """What was kept, below each root the oldest first."""
        found: dict[int, list[FileStat]] = {}
        for _, _, root, stat in self.kept:
            found.setdefault(root, []).append(stat)
        for stats in found.values():
            stats.sort(key=lambda stat: (self.age_ns(stat), stat.path))
        return tuple(
            FilesBelow(root=roots[root], files=tuple(FileItem.of(stat) for stat in stats))
            for root, stats in sorted(found.items())
        )


@dataclass(frozen=True)
class LogRules:
    """Which rotated logs are candidates: nobody's, closed, old enough. One of the two moments is given at least."""

    compress_before: datetime | None
    """last written before this: to compress"""
    delete_before: datetime | None
    """last written before this: to delete"""
    owns: Callable[[str], bool]
    """whether logrotate owns an absolute path"""
    exclude: tuple[str, ...] = ()

    @property
    def before(self) -> datetime:
        """A log written later is no candidate for anything."""
        return max(moment for moment in (self.compress_before, self.delete_before) if moment is not None)

    def walk(self, root: Root, in_use: frozenset[tuple[int, int]]) -> Walk:
        return Walk(
            root=root, older_than=self.before, names=ROTATED_NAMES, exclude=NEVER_LOGS + self.exclude,
            by_mtime=True, skip=in_use,
        )  # fmt: skip


@dataclass
class LogSorter:
    """Sorts the files met on the walks below the log directories."""

    rules: LogRules
    compress: Keep
    delete: Keep
    owned: int = 0
    owned_bytes: int = 0

    def __post_init__(self) -> None:
        self._never = any_of(NEVER_LOGS + self.rules.exclude)

    def sort(self, number: int, root: Root, stats: Iterable[FileStat]) -> None:
        compress_ns, delete_ns = _ns(self.rules.compress_before), _ns(self.rules.delete_before)
        base = root.path.rstrip("/")
        for stat in stats:
            name = rotated(stat.path.rpartition("/")[2])
            path = f"{base}/{stat.path}"
            if name is None or stat.links != 1 or not stat.allocated:
                continue
            if untouchable(f"{base.rpartition('/')[2]}/{stat.path}", self._never) or self._never(path):
                continue
            if stat.mtime_ns >= max(compress_ns, delete_ns):
                continue
            if owned(path, self.rules.owns):
                self.owned += 1
                self.owned_bytes += stat.allocated
            elif stat.mtime_ns < delete_ns:
                self.delete.offer(number, stat)
            elif not name.compressed and stat.mtime_ns < compress_ns and stat.allocated > SMALLEST_TO_COMPRESS:
                self.compress.offer(number, stat)


def temp_walk(root: Root, before: datetime, exclude: tuple[str, ...], in_use: frozenset[tuple[int, int]]) -> Walk:
    """Temporary files nobody used since *before*; what looks like a database's log is no temporary file."""
    return Walk(root=root, older_than=before, exclude=TEMP_EXCLUDE + DATABASE_LOGS + exclude, skip=in_use)


def temp_files(walk: Walk, stats: Iterable[FileStat], *, empty_too: bool) -> Iterator[FileStat]:
    """Of the files met, those that are surely old, surely single, and free something.

    The walk has excluded base names already; a glob with a slash is one for whole paths, and seen to here.
    """
    before = _ns(walk.older_than)
    paths = [glob for glob in walk.exclude if "/" in glob]
    excluded = any_of(paths) if paths else None
    base = walk.root.path.rstrip("/")
    for stat in stats:
        fits = stat.newest_ns < before and stat.links == 1 and (stat.allocated or empty_too)
        if fits and (excluded is None or not excluded(f"{base}/{stat.path}")):
            yield stat


def _ns(moment: datetime | None) -> int:
    return int(moment.timestamp()) * 1_000_000_000 if moment is not None else 0
