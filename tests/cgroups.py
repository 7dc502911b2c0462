"""Real control groups of a test's own: a memory limit that the kernel enforces, in v1 or v2, whichever is here.

In v1 they are made below the group that the tests run in, so that its limits go on to hold; in v2, where a group with
processes may not hand controllers on, below the root. What a killed run left is removed by the next one.
"""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NAME = "ansai-test"
_GONE = 20  # seconds until the kernel has let go of the last process
_UNLIMITED = 1 << 62  # v1 says "no limit" with nearly this many bytes, rounded to pages
_numbers = itertools.count()


@dataclass(frozen=True)
class Hierarchy:
    """A mounted tree of control groups."""

    point: Path
    type: str
    """cgroup or cgroup2"""
    names: frozenset[str]
    """what it counts and limits: controllers, or `name=…` of one without"""
    parent: Path
    """the directory in which tests make theirs"""

    @property
    def options(self) -> str:
        """For another mount of it."""
        if self.type == "cgroup2":
            return "rw"
        return ",".join([*(["none"] if any("=" in name for name in self.names) else []), *sorted(self.names)])


def hierarchies(proc: Path = Path("/proc/self"), top: Path = Path("/sys/fs/cgroup")) -> list[Hierarchy]:
    """All that are mounted at *top*, from `mountinfo` (proc(5)) and `cgroup` (cgroups(7)) of the process *proc*."""
    groups = _groups(proc)
    found = []
    for line in (proc / "mountinfo").read_text().splitlines():
        place, _, filesystem = line.partition(" - ")
        root, point = place.split()[3:5]
        kind, _, options = filesystem.split()
        if not Path(point).is_relative_to(top):
            continue
        if kind == "cgroup2":
            found.append(Hierarchy(Path(point), kind, _handed_on(Path(point)), Path(point)))
        elif kind == "cgroup":
            names = frozenset(options.split(",")) & groups.keys()
            group = groups[min(names)]
            below = Path(group).relative_to(root) if Path(group).is_relative_to(root) else ""
            found.append(Hierarchy(Path(point), kind, names, Path(point) / below))
    return found


def _groups(proc: Path) -> dict[str, str]:
    """The group of a process, by the name of a v1 controller or hierarchy."""
    lines = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
    return {name: group for _, names, group in lines for name in names.split(",") if name}


def _handed_on(point: Path) -> frozenset[str]:
    try:
        return frozenset((point / "cgroup.subtree_control").read_text().split())
    except OSError:
        return frozenset()


def make(hierarchy: Hierarchy) -> Path:
    """A new, empty group."""
    _remove_abandoned(hierarchy.parent)
    directory = hierarchy.parent / f"{_NAME}-{os.getpid()}-{next(_numbers)}"
    directory.mkdir()
    for name in ("cpuset.cpus", "cpuset.mems"):  # in v1 empty, and then no process may enter
        if hierarchy.type == "cgroup" and (directory / name).exists():
            (directory / name).write_text((hierarchy.parent / name).read_text())
    return directory


def remove(directory: Path) -> None:
    """The group and all below it, which have no processes, or dying ones. Raises TimeoutError when they stay."""
    deadline = time.monotonic() + _GONE
    while directory.exists():
        for top, _, _ in os.walk(directory, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(top)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{directory} can't be removed: it has {[*_processes(directory)]}")
        time.sleep(0.005)


def _remove_abandoned(parent: Path) -> None:
    for directory in parent.glob(f"{_NAME}-*"):
        match = re.fullmatch(rf"{_NAME}-(\d+)-\d+", directory.name)
        if match and not Path("/proc", match[1]).exists():
            for top, _, _ in os.walk(directory, topdown=False):
                with contextlib.suppress(OSError):  # it has processes of somebody
                    os.rmdir(top)


def _processes(directory: Path) -> Iterator[int]:
    for file in directory.rglob("cgroup.procs"):
        with contextlib.suppress(OSError):  # removed meanwhile
            yield from map(int, file.read_text().split())


class MemoryCgroup:
    """A group whose memory is counted and may be limited. Amounts are bytes."""

    def __init__(self, directory: Path, version: int) -> None:
        self.directory = directory
        self.version = version

    def limit(self, size: int | None) -> None:
        """At most *size* of memory, and no swap; None lifts it."""
        value = "max" if size is None else str(size)
        if self.version == 2:
            self._write("memory.max", value)
            if (self.directory / "memory.swap.max").exists():  # not without swap accounting
                self._write("memory.swap.max", "max" if size is None else "0")
            return
        both, memory = "memory.memsw.limit_in_bytes", "memory.limit_in_bytes"
        files = [name for name in (both, memory) if (self.directory / name).exists()]
        value = "-1" if size is None else value
        raising = size is None or size > self.limit_in_force()
        for name in files if raising else reversed(files):  # memory with swap may never be less than memory
            self._write(name, value)

    def limit_in_force(self) -> float:
        text = self._read("memory.max" if self.version == 2 else "memory.limit_in_bytes").strip()
        return float("inf") if text == "max" or int(text) >= _UNLIMITED else int(text)

    def add(self, pid: int) -> None:
        self._write("cgroup.procs", str(pid))

    def start(self, *argv: str | Path, **options: Any) -> "subprocess.Popen[bytes]":
        """A program that is inside from its first page on, and when this returns; *options* as of `Popen`."""
        enter = ["sh", "-c", 'echo 0 >"$0" && exec "$@"', str(self.directory / "cgroup.procs")]
        process: subprocess.Popen[bytes] = subprocess.Popen([*enter, *argv], stdin=subprocess.DEVNULL, **options)
        while process.pid not in self.pids and process.poll() is None:
            time.sleep(0.001)
        return process

    @property
    def pids(self) -> list[int]:
        return [*_processes(self.directory)]

    @property
    def usage(self) -> int:
        """All of it, page cache too; in v1 not exact to some dozens of pages."""
        return int(self._read("memory.current" if self.version == 2 else "memory.usage_in_bytes"))

    @property
    def anonymous(self) -> int:
        return self._statistics["anon" if self.version == 2 else "total_rss"]

    @property
    def shared(self) -> int:
        return self._statistics["shmem" if self.version == 2 else "total_shmem"]

    @property
    def cache(self) -> int:
        """Pages of files, without shared memory, which both versions count among them."""
        return self._statistics["file" if self.version == 2 else "total_cache"] - self.shared

    @property
    def oom_kills(self) -> int:
        return _numbers_in(self._read("memory.events" if self.version == 2 else "memory.oom_control"))["oom_kill"]

    @property
    def _statistics(self) -> dict[str, int]:
        return _numbers_in(self._read("memory.stat"))

    def end(self) -> None:
        """Kill what is inside, and remove it."""
        deadline = time.monotonic() + _GONE
        while self.pids and time.monotonic() < deadline:
            for pid in self.pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        remove(self.directory)

    def _read(self, name: str) -> str:
        return (self.directory / name).read_text()

    def _write(self, name: str, value: str) -> None:
        (self.directory / name).write_text(value)


def _numbers_in(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in text.splitlines())}


def memory_hierarchy() -> Hierarchy:
    """The one that counts memory. Raises OSError when none does, or none for groups of ours."""
    for hierarchy in hierarchies():
        if "memory" in hierarchy.names:
            return hierarchy
    raise OSError("no mounted cgroup hierarchy hands memory on")


@contextmanager
def memory_cgroup(limit: int | None = None) -> Iterator[MemoryCgroup]:
    """A group of *limit* bytes; at the end, what is still inside is killed and the group removed."""
    hierarchy = memory_hierarchy()
    group = MemoryCgroup(make(hierarchy), 2 if hierarchy.type == "cgroup2" else 1)
    try:
        if limit is not None:
            group.limit(limit)
        yield group
    finally:
        group.end()


def absence() -> str:
    """Why tests can't make groups here, "" when they can: tried, with ones that nobody is in."""
    try:
        for hierarchy in hierarchies():
            remove(make(hierarchy))
    except OSError as error:
        return str(error)
    return "" if hierarchies() else "no cgroup hierarchy is mounted"


def limit_absence() -> str:
    """Why this machine gives tests no memory limit, "" when it does."""
    try:
        with memory_cgroup(1 << 30):
            return ""
    except OSError as error:
        return str(error)
