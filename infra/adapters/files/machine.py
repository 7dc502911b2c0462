"""The machine's filesystems and files as a probe: everything here only reads."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from infra.adapters.files import descriptors, thin_pools, tmpfiles, walking
from infra.adapters.files.mountinfo import holder, mounts_at, read_mounts, remote
from infra.adapters.files.open_files import OpenFiles
from infra.adapters.files.roots import Roots
from infra.adapters.files.space import DEADLINE, Space
from schemas.facts.files import DeletedOpen, FileStat, LargeFile, Mount, Root, Usage
from schemas.probes import ProbeError, Walk
from schemas.text import show_path


class MachineFiles:
    """Implements `schemas.probes.FileProbe`.

    *own* are the pack's own directories (state, logs), which are never cleaned. *prober* is what is run, with the
    mount point as its last argument, to ask a filesystem that may hang; *deadline* are its seconds.
    """

    def __init__(
        self, proc: str = "/proc", sys: str = "/sys", own: Iterable[str] = (), deadline: float = DEADLINE,
        prober: Sequence[str] | None = None, now_ns: Callable[[], int] = time.time_ns,
    ) -> None:  # fmt: skip
        self._proc = proc
        self._sys = sys
        self._now_ns = now_ns
        self._roots = Roots(own)
        self._space = Space(proc, deadline, prober)
        self._open = OpenFiles(proc, sys)

    def mounts(self) -> list[Mount]:
        return read_mounts(self._proc)

    def usage(self, point: str) -> Usage:
        return self._space.usage(point)

    def thin_pool(self, device: str) -> str | None:
        return thin_pools.thin_pool(self._sys, device)

    def mount_of(self, path: str) -> str:
        """Links in *path* are followed: the question is where its content lies. A remote mount is not touched."""
        if not path.startswith("/"):
            raise ProbeError(f"find the mount of '{show_path(path)}': it is no absolute path")
        mounts = self.mounts()
        named = holder(mounts, os.path.normpath(path))
        if named is not None and remote(named.fstype):
            return named.point
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            raise ProbeError(f"find the mount of {show_path(path)}: {error.strerror}") from error
        try:
            number = descriptors.mount_id(fd)
        except OSError as error:
            raise ProbeError(f"find the mount of {show_path(path)}: {error.strerror}; is /proc mounted?") from error
        finally:
            os.close(fd)
        for mount in mounts:
            if mount.mount_id == number:
                return mount.point
        raise ProbeError(f"find the mount of {show_path(path)}: mountinfo does not list it")

    def kept_by_tmpfiles(self) -> tuple[str, ...]:
        return tmpfiles.kept()

    def root(self, path: str) -> Root:
        return self._roots.find(path)

    def walk(self, walk: Walk) -> Iterator[FileStat]:
        """See the port. Reasons counted in `walk.skipped`: another mount, changed, clock, hard link, in use, locked,
        own state, permission denied, too deep, or what the kernel answered.

        `clock` ends the walk: a time lies more than an hour in the future, so no age can be trusted. Directories are
        read one level at a time down to `walking.DEEPEST`; two descriptors a level are open meanwhile.
        """
        with self._roots.open(walk.root) as fd:
            found = walking.FileWalk(walk, fd, self._proc, self._roots.own_inodes(), self._now_ns())
            yield from found.files()

    def in_use(self) -> frozenset[tuple[int, int]]:
        return self._open.in_use()

    def deleted_open(self) -> list[DeletedOpen]:
        return self._open.deleted_open()

    def largest(self, point: str, count: int) -> list[LargeFile]:
        mounts = mounts_at(self._proc, point)
        if not mounts or remote(mounts[-1].fstype):
            why = "nothing is mounted there now" if not mounts else "it is remote, and a walk might never end"
            raise ProbeError(f"look for the largest files on {show_path(point)}: {why}")
        try:
            fd = descriptors.open_directory(point)
        except OSError as error:
            raise ProbeError(f"open {show_path(point)}: {error.strerror}") from error
        try:
            return walking.largest(fd, point, count)
        finally:
            os.close(fd)
