"""Signals to processes by descriptors of theirs, other ways to have them collect garbage, and what dead ones left."""

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from functions.core.ports import ToolError
from infra.adapters import java_collection, loopback, stale_files
from infra.adapters.commands import Commands
from infra.adapters.process_files import ProcessFiles, own_line, process_files, signal_named
from schemas.facts.processes import ProcessIdentity
from schemas.remediation import ItemResult, Outcome
from schemas.text import plain

KILLED = 10.0
"""Seconds after SIGKILL in which a process is gone, unless it hangs in the kernel."""


class Held(NamedTuple):
    """A process that can't become another one while it is held."""

    fd: int
    """of pidfd_open(2)"""
    files: ProcessFiles


class _Changed(Exception):
    """The process is not the one that was meant any more."""


class ProcessSignals:
    """Implements `functions.core.ports.ProcessTools`."""

    def __init__(self, commands: Commands | None = None) -> None:
        """*commands* finds jcmd, with the usual search path when left out."""
        self._commands = commands if commands is not None else Commands(ToolError)

    def signal(self, process: ProcessIdentity, name: str) -> ItemResult:
        number = signal_named(name)
        if number is None:
            raise ToolError(f"send {plain(name)} to process {process.pid}: this system has no such signal")

        def send(held: Held) -> ItemResult:
            if not held.files.handles(number):
                reason = f"it has no handler for {name}, and most signals end a process that has none"
                return _told(process, Outcome.REFUSED, reason)
            signal.pidfd_send_signal(held.fd, number)
            return _told(process, Outcome.DONE)

        return _with(process, f"send {name} to", send)

    def end(self, process: ProcessIdentity, grace: float) -> ItemResult:
        """Refused for the first process, ourselves and our parents. Failed when it outlives even SIGKILL."""
        if process.pid in own_line() | {1}:
            return _told(process, Outcome.REFUSED, "it is the first process, or one that we run in")

        def end(held: Held) -> ItemResult:
            signal.pidfd_send_signal(held.fd, signal.SIGTERM)
            if _ended(held.fd, grace):
                return _told(process, Outcome.DONE, "it ended on SIGTERM")
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(held.fd, signal.SIGKILL)
            if _ended(held.fd, KILLED):
                return _told(process, Outcome.DONE, f"it did not end within {grace:g} s of SIGTERM and was killed")
            return _told(process, Outcome.FAILED, "it hangs in the kernel, even after SIGKILL; look at its disks")

        return _with(process, "end", end)

    def collect_java(self, process: ProcessIdentity, timeout: float) -> ItemResult:
        def collect(held: Held) -> ItemResult:
            outcome, reason = java_collection.collect(held.files, self._commands, timeout)
            return _told(process, outcome, reason)

        return _with(process, "have jcmd collect garbage of", collect)

    def ask(self, url: str, method: str, timeout: float) -> ItemResult:
        return loopback.ask(url, method, timeout)

    def remove_stale(self, path: str, held_by: Sequence[str]) -> ItemResult:
        return stale_files.remove_stale(path, held_by)


def _with(process: ProcessIdentity, what: str, act: Callable[[Held], ItemResult]) -> ItemResult:
    """Raises ToolError when the kernel does not let us."""
    try:
        with _held(process) as held:
            return act(held)
    except (_Changed, FileNotFoundError, ProcessLookupError) as error:
        return _told(process, Outcome.SKIPPED, str(error) if isinstance(error, _Changed) else "it ended meanwhile")
    except OSError as error:
        raise ToolError(
            f"{what} process {process.pid}: {error.strerror}; run as root or as its user, on Linux 5.3 or later"
        ) from error


@contextlib.contextmanager
def _held(process: ProcessIdentity) -> Iterator[Held]:
    """Raises _Changed when the number is another process's, OSError when it ended or can't be opened."""
    fd = os.pidfd_open(process.pid)
    try:
        with process_files(process.pid) as files:
            stat = files.stat()
            if stat.started != process.started:
                raise _Changed("it ended, and another process has its number")
            if stat.ended:
                raise ProcessLookupError
            yield Held(fd, files)
    finally:
        os.close(fd)


def _ended(fd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _told(process: ProcessIdentity, outcome: Outcome, reason: str = "") -> ItemResult:
    return ItemResult(name=f"process {process.pid}", outcome=outcome, reason=reason)
