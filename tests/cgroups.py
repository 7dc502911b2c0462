"""Real control groups of a test's own: a memory limit that the kernel enforces, in v1 or v2, whichever is here.

What a killed run left is removed by the next one.
"""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from infra.simulate import groups
from infra.simulate.groups import Hierarchy, hierarchies, remove

__all__ = [
    "NAME", "Hierarchy", "MemoryCgroup", "absence", "hierarchies", "limit_absence", "make", "memory_cgroup",
    "memory_hierarchy", "remove",
]  # fmt: skip

NAME = "ansai-test"
_UNLIMITED = 1 << 62  # v1 says "no limit" with nearly this many bytes, rounded to pages


def make(hierarchy: Hierarchy) -> Path:
    """A new, empty group."""
    return groups.make(hierarchy, NAME)


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
        return [*groups.processes(self.directory)]

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
        groups.end(self.directory)

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
    """Why tests can't make groups here, "" when they can."""
    return groups.absence(NAME)


def limit_absence() -> str:
    """Why this machine gives tests no memory limit, "" when it does."""
    try:
        with memory_cgroup(1 << 30):
            return ""
    except OSError as error:
        return str(error)
