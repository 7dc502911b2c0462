"""The files of one process in /proc, by a descriptor: what is read is of this process, or of none."""

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from schemas.command_lines import shown
from schemas.facts.processes import ProcessIdentity

PROC = "/proc"

LARGEST = 2**16
"""Bytes of a command line that are read: any user may have one of megabytes."""


class Stat(NamedTuple):
    """Of /proc/<pid>/stat (proc(5))."""

    state: str
    parent: int
    threads: int
    started: int
    """clock ticks after boot"""

    @property
    def ended(self) -> bool:
        """It only waits for its parent to ask how it ended. A program may go on after its first thread did."""
        return self.state in "ZX" and self.threads <= 1


class ProcessFiles:
    """Methods raise OSError when the process ended: ProcessLookupError, or FileNotFoundError."""

    def __init__(self, pid: int, fd: int) -> None:
        self.pid = pid
        self.fd = fd

    def read(self, name: str, most: int = -1) -> bytes:
        """Its first *most* bytes, or all."""
        with self._opened(name) as file:
            return file.read(most)

    def lines(self, name: str) -> Iterator[bytes]:
        """One after the other: of what a process maps there may be many megabytes."""
        with self._opened(name) as file:
            yield from file

    def _opened(self, name: str) -> BinaryIO:
        return open(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd), "rb")

    def stat(self) -> Stat:
        """The name of a program, in brackets, may hold brackets and spaces of its own."""
        fields = self.read("stat").rpartition(b")")[2].split()
        return Stat(fields[0].decode(), int(fields[1]), int(fields[17]), int(fields[19]))

    def identity(self) -> ProcessIdentity:
        """Raises ProcessLookupError for one that ended and was not waited for yet."""
        stat = self.stat()
        if stat.ended:
            raise ProcessLookupError
        return ProcessIdentity(pid=self.pid, started=stat.started, command=shown(self.arguments()))

    def arguments(self) -> list[str]:
        """Its name in brackets for a process of the kernel, which has none."""
        told = self.read("cmdline", LARGEST).rstrip(b"\0")
        return [os.fsdecode(each) for each in told.split(b"\0")] if told else [f"[{self.name()}]"]

    def name(self) -> str:
        """Of the program, cut to 15 bytes by the kernel."""
        return os.fsdecode(self.read("comm").rstrip(b"\n"))

    def status(self) -> dict[str, str]:
        lines = (os.fsdecode(line).partition(":") for line in self.read("status").splitlines())
        return {name: value.strip() for name, _, value in lines}

    def user(self) -> int:
        """Effective user id."""
        return int(self.status()["Uid"].split()[1])

    def handles(self, number: signal.Signals) -> bool:
        return bool(int(self.status()["SigCgt"], 16) >> (number - 1) & 1)

    def control_groups(self) -> list[str]:
        """Its paths in all hierarchies."""
        return [os.fsdecode(line).split(":", 2)[-1] for line in self.read("cgroup").splitlines()]

    def maps_library(self, name: str) -> bool:
        path = re.compile(rb"/%s(?: \(deleted\))?$" % re.escape(name.encode()))
        return any(path.search(line) for line in self.lines("maps"))


@contextlib.contextmanager
def process_files(pid: int) -> Iterator[ProcessFiles]:
    """Raises FileNotFoundError when there is no such process."""
    fd = os.open(f"{PROC}/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield ProcessFiles(pid, fd)
    finally:
        os.close(fd)


def own_line() -> frozenset[int]:
    """Ourselves, our parent, and so on up to the first process that is seen from here."""
    line: list[int] = []
    pid = os.getpid()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # /proc may hide those of others
        while pid > 0 and pid not in line:
            line.append(pid)
            with process_files(pid) as files:
                pid = files.stat().parent
    return frozenset(line)


def signal_named(name: str) -> signal.Signals | None:
    """`SIGUSR1`; None when this system has no such signal."""
    return signal.Signals.__members__.get(name)
