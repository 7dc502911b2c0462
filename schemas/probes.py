"""What can be read. Collectors and functions hold these ports and no others; `infra.adapters` implements them.

Every method blocks; whoever calls one runs it in a thread with a deadline. Nothing here changes the
machine, not even an access time where that can be avoided.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from schemas.facts.cgroups import ControlGroupMemory, HostMemory
from schemas.facts.commands import Checked, Command
from schemas.facts.containers import Container, Engine
from schemas.facts.files import DeletedOpen, FileStat, LargeFile, Mount, Root, Usage
from schemas.facts.journal import JournalUsage
from schemas.facts.logs import LogRotation
from schemas.facts.packages import PackageCache
from schemas.facts.processes import Listener, MemoryMapping, ProcessIdentity, ProcessMemory
from schemas.facts.units import Unit


class ProbeError(Exception):
    """A read that did not give an answer: the truth is unknown. The text says what was read and what was seen."""


class Absent(ProbeError):
    """What would be asked does not exist on this machine, which is no trouble: it has no such targets."""


@dataclass
class Walk:
    """What one walk looks for, and, while it is iterated, what it passed by and why.

    Memory does not grow with the number of files met.
    """

    root: Root
    older_than: datetime
    """only files whose newest time lies before this"""
    names: tuple[str, ...] = ()
    """globs of base names to yield; none means every name"""
    exclude: tuple[str, ...] = ()
    """globs of base names that are passed by, directories with all below them"""
    by_mtime: bool = False
    """the age counts from mtime alone (rotated logs), not from the newest of the three times (temporary files)"""
    skip: Collection[tuple[int, int]] = ()
    """(device, inode) of files in use"""
    met: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    """reason → how many files or directories, e.g. `in use`, `hard link`, `another mount`, `permission denied`;
    `clock` when times lie in the future, so that no age can be believed and the walk was given up"""


class FileProbe(Protocol):
    def mounts(self) -> list[Mount]:
        """Every mount of this namespace, in the kernel's order."""
        ...

    def usage(self, point: str) -> Usage:
        """Raises ProbeError when the mount is gone, hangs, or is none."""
        ...

    def thin_pool(self, device: str) -> str | None:
        """Name of the thin pool that the device *major:minor* is cut from, None when there is none.

        A pool can be full while statvfs of its volumes looks fine.
        """
        ...

    def mount_of(self, path: str) -> str:
        """The mount point that holds *path*. Raises ProbeError when the path does not exist."""
        ...

    def kept_by_tmpfiles(self) -> tuple[str, ...]:
        """Globs of absolute paths that systemd-tmpfiles was told to leave alone. Raises ProbeError."""
        ...

    def root(self, path: str) -> Root:
        """Open *path* without following a link in any component.

        Raises ProbeError when it is missing, no directory, a link, or on the list of directories that
        are never cleaned as a whole (`/`, `/home`, `/etc`, …).
        """
        ...

    def walk(self, walk: Walk) -> Iterator[FileStat]:
        """Regular files below the root that match, by descriptors only: no link is followed, no mount crossed.

        A name that vanishes or changes under the walk is passed by and counted in `walk.skipped`.
        """
        ...

    def in_use(self) -> frozenset[tuple[int, int]]:
        """(device, inode) of everything that some process holds open, maps, runs or stands in.

        Raises ProbeError when other processes can't be inspected.
        """
        ...

    def deleted_open(self) -> list[DeletedOpen]:
        """Deleted files that are still open, each (device, inode) once, largest first."""
        ...

    def largest(self, point: str, count: int) -> list[LargeFile]:
        """The *count* largest files of one filesystem."""
        ...


class PackageProbe(Protocol):
    def caches(self) -> list[PackageCache]: ...


class JournalProbe(Protocol):
    def usage(self) -> JournalUsage | None:
        """None on a machine without a journal on disk."""
        ...


class LogRotationProbe(Protocol):
    def rotation(self) -> LogRotation: ...


class ContainerProbe(Protocol):
    def engine(self) -> Engine | None:
        """None where no engine answers."""
        ...

    def running(self) -> list[Container]:
        """Every container that runs; none where no engine answers."""
        ...

    def container(self, name: str) -> Container | None:
        """None when none of that name runs."""
        ...


class CommandProbe(Protocol):
    def healthy(self, command: Command) -> bool:
        """Run an operator's own check, which must change nothing: status 0 is healthy, 1 is not.

        Raises ProbeError for any other end: it could not be started, took too long, or ended otherwise.
        """
        ...

    def check(self, command: Command) -> Checked | None:
        """Run a check of a configuration, which must change nothing: any status but 0 means that it did not pass.

        A program without a path is looked for where the system's are. None where there is no such program; raises
        ProbeError when it could not be started or did not end in time.
        """
        ...

    def ran_at(self, function: str, target: str) -> datetime | None:
        """When the latest command of *function* for *target* ended, as far as this process knows."""
        ...


class UnitProbe(Protocol):
    """systemd. Every method raises ProbeError where it does not answer, and Absent where it does not run."""

    def services(self, globs: Collection[str]) -> list[Unit]:
        """Service units that systemd has loaded and that match one of *globs*."""
        ...

    def unit(self, name: str) -> Unit | None:
        """None when systemd knows no unit of that name."""
        ...


class MemoryProbe(Protocol):
    def host(self) -> HostMemory: ...

    def control_group(self, path: str) -> ControlGroupMemory:
        """*path* below the hierarchy that carries memory, as systemd's ControlGroup or /proc/<pid>/cgroup say it.

        Raises ProbeError when it is gone.
        """
        ...

    def processes(self, path: str) -> tuple[int, ...]:
        """Process ids in a group and below, in any hierarchy that has it: memory need not be counted there.

        Raises ProbeError when it is gone.
        """
        ...

    def control_group_of(self, pid: int) -> str:
        """Path of the group of a process in the hierarchy that carries memory. Raises ProbeError."""
        ...


class ProcessProbe(Protocol):
    def memory(self, pids: Collection[int]) -> list[ProcessMemory]:
        """Of those that still run; who can't be read is left out. Walks page tables: at most once a minute each."""
        ...

    def matching(self, command: str, user: str | None = None) -> list[ProcessIdentity]:
        """Processes whose arguments, joined by spaces, match the regular expression; never ourselves."""
        ...

    def identity(self, pid: int) -> ProcessIdentity | None:
        """None when there is no such process any more."""
        ...

    def mappings(self, pid: int, count: int) -> list[MemoryMapping]:
        """The *count* largest, grouped by name. Raises ProbeError."""
        ...

    def listeners(self, ports: Collection[int]) -> list[Listener]:
        """Who listens on these TCP ports."""
        ...

    def handles(self, pid: int, signal: str) -> bool:
        """Whether it has a handler for the signal (SigCgt). Raises ProbeError."""
        ...

    def named(self, names: Collection[str]) -> dict[str, ProcessIdentity]:
        """Name of a program (comm) → a process of that name, for those that run."""
        ...


class Probes(Protocol):
    """All read-only ports. A port that isn't used is never built, its client never imported."""

    @property
    def files(self) -> FileProbe: ...
    @property
    def packages(self) -> PackageProbe: ...
    @property
    def journal(self) -> JournalProbe: ...
    @property
    def log_rotation(self) -> LogRotationProbe: ...
    @property
    def containers(self) -> ContainerProbe: ...
    @property
    def commands(self) -> CommandProbe: ...
    @property
    def units(self) -> UnitProbe: ...
    @property
    def memory(self) -> MemoryProbe: ...
    @property
    def processes(self) -> ProcessProbe: ...
