"""Walks below one directory: streaming, by descriptors, on one mount, with a bounded number of open descriptors."""

import errno
import heapq
import os
import stat as modes
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from infra.adapters.files import descriptors
from infra.adapters.files.globs import Globs
from infra.adapters.files.locks import device_name, locked_inodes
from infra.adapters.files.mountinfo import read_mounts
from schemas.facts.files import FileStat, LargeFile
from schemas.probes import ProbeError, Walk
from schemas.text import show_path

DEEPEST = 128
"""Levels of directories a walk goes down; each holds two descriptors, and a process may have but 1,024."""

AHEAD = 3_600
"""Seconds by which a file's time may lie in the future; beyond, the clock or the times can't be trusted."""

LOCKS_FRESH = 2.0
"""Seconds for which the list of locks is believed on a long walk."""

_TYPE = 0o170000
_new = tuple.__new__
"""Of a named tuple's own `__new__` only this matters, and it costs a third; a walk makes hundreds of thousands."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


class Level:
    """One directory that is being read."""

    __slots__ = ("entries", "fd", "prefix")

    def __init__(self, fd: int, prefix: str) -> None:
        self.fd = fd
        self.prefix = prefix
        """path relative to the root, with a slash at its end; empty for the root"""
        self.entries = os.scandir(fd)

    def close(self) -> None:
        self.entries.close()
        os.close(self.fd)


class Descent:
    """The directories between a root and where the walk is, and the rules for going further down."""

    def __init__(self, root: int, skipped: dict[str, int], deepest: int) -> None:
        self._device = os.fstat(root).st_dev
        self._skipped = skipped
        self._deepest = deepest
        self.levels: list[Level] = []
        self._push(os.dup(root), "")

    def _push(self, fd: int, prefix: str) -> None:
        try:
            self.levels.append(Level(fd, prefix))
        except BaseException:
            os.close(fd)
            raise

    def count(self, reason: str) -> None:
        self._skipped[reason] = self._skipped.get(reason, 0) + 1

    def enter(self, name: str, refused: Callable[[os.stat_result], str]) -> None:
        """Go down into *name*; a directory that can't or may not be entered is counted."""
        above = self.levels[-1]
        if len(self.levels) >= self._deepest:
            self.count("too deep")
            return
        try:
            fd = descriptors.open_below(above.fd, name, descriptors.DIRECTORY)
        except OSError as error:
            self.trouble(error)
            return
        stat = os.fstat(fd)
        # A btrfs subvolume is no mount, but a filesystem of its own to find -xdev as well.
        reason = "another mount" if stat.st_dev != self._device else refused(stat)
        if reason:
            os.close(fd)
            self.count(reason)
            return
        try:
            self._push(fd, f"{above.prefix}{name}/")
        except OSError as error:
            self.trouble(error)

    def trouble(self, error: OSError) -> None:
        """Count what one directory or file answered; raises ProbeError when the walk itself can't go on."""
        if error.errno in _EXHAUSTED:
            raise ProbeError(f"walk: {error.strerror}; raise the limit (ulimit -n) and try again") from error
        self.count(descriptors.describe(error))

    def leave(self) -> None:
        self.levels.pop().close()

    def close(self) -> None:
        while self.levels:
            self.leave()


class FileWalk:
    """One walk for files to clean. Iterate `files` once."""

    def __init__(
        self, walk: Walk, fd: int, proc: str, own: frozenset[tuple[int, int]], now_ns: int, deepest: int = DEEPEST
    ) -> None:
        self._walk = walk
        self._proc = proc
        self._own = own
        self._before = _nanoseconds(walk.older_than)
        self._future = now_ns + AHEAD * 1_000_000_000
        self._by_mtime = walk.by_mtime
        self._skip = walk.skip if isinstance(walk.skip, set | frozenset) else frozenset(walk.skip)
        self._names = Globs(walk.names).match if walk.names else None
        self._excluded = Globs(walk.exclude).match
        self._clock_wrong = False
        mounts = {mount.mount_id: mount for mount in read_mounts(proc)}
        mount = mounts.get(_mount_id(fd, proc))
        self._device = mount.device if mount is not None else device_name(walk.root.device)
        base = walk.root.path.rstrip("/")
        self._mounted = frozenset(
            other.point.removeprefix(f"{base}/") for other in mounts.values() if other.point.startswith(f"{base}/")
        )
        """what is mounted below, relative to the root: a single file can be a mount point too"""
        self._locked: frozenset[int] = frozenset()
        self._locked_at = float("-inf")
        self._descent = Descent(fd, walk.skipped, deepest)

    def files(self) -> Iterator[FileStat]:
        descent = self._descent
        try:
            reason = self._refused(os.fstat(descent.levels[0].fd))
            if reason:
                descent.count(reason)
                return
            while descent.levels and not self._clock_wrong:
                level = descent.levels[-1]
                below: list[str] = []
                yield from self._files(level, below)
                if below:
                    descent.enter(below[0], self._refused)
                else:
                    descent.leave()
            if self._clock_wrong:
                descent.count("clock")
        finally:
            descent.close()

    def _files(self, level: Level, below: list[str]) -> Iterator[FileStat]:
        """The matching files of one directory, up to its next subdirectory, which goes into *below*."""
        walk, names, excluded = self._walk, self._names, self._excluded
        try:
            for entry in level.entries:
                if entry.is_file(follow_symlinks=False):
                    walk.met += 1
                    if names is not None and not names(entry.name):
                        continue
                    found = self._candidate(level.prefix, entry)
                    if found is not None:
                        yield found
                    elif self._clock_wrong:
                        return
                elif entry.is_dir(follow_symlinks=False) and not excluded(entry.name):
                    below.append(entry.name)
                    return
        except OSError as error:
            self._descent.trouble(error)

    def _candidate(self, prefix: str, entry: os.DirEntry[str]) -> FileStat | None:
        """The cheap tests first: most files are too young, or have none of the rare traits at the end."""
        try:
            stat = entry.stat(follow_symlinks=False)
        except OSError as error:
            self._descent.trouble(error)
            return None
        mtime = newest = stat.st_mtime_ns
        ctime, atime = stat.st_ctime_ns, stat.st_atime_ns
        if ctime > newest:
            newest = ctime
        if atime > newest:
            newest = atime
        if (mtime if self._by_mtime else newest) >= self._before:
            self._clock_wrong = mtime > self._future or ctime > self._future
            return None
        name, inode = entry.name, stat.st_ino
        if (
            stat.st_nlink != 1 or inode in self._locked or self._mounted or (stat.st_dev, inode) in self._skip
            or stat.st_mode & _TYPE != modes.S_IFREG or self._excluded(name)
        ) and self._passed_by(prefix, name, stat):  # fmt: skip
            return None
        return _new(FileStat, (
            prefix + name, stat.st_dev, inode, mtime, newest, stat.st_size, stat.st_blocks * 512, stat.st_nlink,
            stat.st_uid,
        ))  # fmt: skip

    def _passed_by(self, prefix: str, name: str, stat: os.stat_result) -> bool:
        """Whether a file of the right age is none to clean; counted, unless its name was excluded beforehand."""
        if self._excluded(name):
            return True
        reason = ""
        if stat.st_mode & _TYPE != modes.S_IFREG:
            reason = "changed"
        elif stat.st_nlink != 1:
            reason = "hard link"
        elif (stat.st_dev, stat.st_ino) in self._skip:
            reason = "in use"
        elif stat.st_ino in self._locked:
            reason = "locked"
        elif prefix + name in self._mounted:
            reason = "another mount"
        if reason:
            self._descent.count(reason)
        return bool(reason)

    def _refused(self, stat: os.stat_result) -> str:
        """Why a directory is passed by with all below it. Also the moment at which locks are read anew."""
        now = time.monotonic()
        if now - self._locked_at > LOCKS_FRESH:
            self._locked = locked_inodes(self._proc, self._device)
            self._locked_at = now
        if (stat.st_dev, stat.st_ino) in self._own:
            return "own state"
        return "locked" if stat.st_ino in self._locked else ""


def largest(fd: int, point: str, count: int, deepest: int = DEEPEST) -> list[LargeFile]:
    """The *count* largest files on the mount that *fd* is the root of; a file with many names is told once."""
    descent = Descent(fd, {}, deepest)
    best: list[tuple[int, str, int, int]] = []
    base = point.rstrip("/")
    try:
        while descent.levels:
            level = descent.levels[-1]
            for entry in _entries(descent, level):
                if entry.is_dir(follow_symlinks=False):
                    descent.enter(entry.name, lambda _: "")
                    break
                stat = _stat(descent, entry)
                if stat is None or (len(best) >= count and stat.st_blocks * 512 <= best[0][0]):
                    continue
                if stat.st_nlink > 1 and any(inode == stat.st_ino for *_, inode in best):
                    continue
                path = f"{base}/{level.prefix}{entry.name}"
                heapq.heappush(best, (stat.st_blocks * 512, path, stat.st_mtime_ns, stat.st_ino))
                if len(best) > count:
                    heapq.heappop(best)
            else:
                descent.leave()
    finally:
        descent.close()
    return [
        LargeFile(path=path, allocated=allocated, modified=datetime.fromtimestamp(mtime // 1_000_000_000, UTC))
        for allocated, path, mtime, _ in sorted(best, reverse=True)
    ]


def _entries(descent: Descent, level: Level) -> Iterator[os.DirEntry[str]]:
    try:
        for entry in level.entries:  # noqa: UP028 - `yield from` would close them when the caller stops in between
            yield entry
    except OSError as error:
        descent.trouble(error)


def _stat(descent: Descent, entry: os.DirEntry[str]) -> os.stat_result | None:
    """None for what is no regular file, or is gone."""
    try:
        return entry.stat(follow_symlinks=False) if entry.is_file(follow_symlinks=False) else None
    except OSError as error:
        descent.trouble(error)
        return None


def _mount_id(fd: int, proc: str) -> int:
    for place in (proc, "/proc"):
        try:
            return descriptors.mount_id(fd, place)
        except OSError:
            continue
    raise ProbeError(f"read {show_path(proc)}/self/fdinfo: the mount of a directory can't be told; is /proc mounted?")


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1_000
