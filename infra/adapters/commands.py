"""Running other people's tools: an argument list, a deadline, a scrubbed environment, capped output.

Never through a shell. Each command gets a session of its own, so that at the deadline all its children end with it.
"""

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, NamedTuple

from functions.core.ports import ToolError
from schemas.probes import ProbeError
from schemas.text import plain

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where commands are looked for. Not the caller's PATH: an agent that runs as root must not pick up a user's binary."""

CAPTURED = 16 * 2**20
"""Bytes kept of each output stream; `logrotate -d` on a host with thousands of logs writes a few MB."""

GRACE = 3.0
"""Seconds between SIGTERM and SIGKILL once the deadline has passed."""

LINGER = 0.5
"""Seconds that output is still read after the command ended, while a daemon it started keeps the pipe open."""

PACKAGES = {
    "apt-config": "apt", "apt-get": "apt", "journalctl": "systemd", "systemctl": "systemd",
}  # fmt: skip
"""command → the package that brings it, where that is named otherwise"""


@dataclass(frozen=True)
class Completed:
    """What a command said. Bytes that are no UTF-8 are kept as `os.fsdecode` keeps them, for they may be file names."""

    status: int
    stdout: str
    stderr: str
    truncated: bool
    """output beyond `CAPTURED` was read and dropped"""

    @property
    def ending(self) -> str:
        """How it ended: `status 3`, `signal SIGKILL`."""
        return _status(self.status)

    @property
    def last_error(self) -> str:
        """The last line of the errors that says something, or of the output when there were none; safe to show."""
        lines = [line.strip() for line in (self.stderr.strip() or self.stdout.strip()).splitlines() if line.strip()]
        return plain(lines[-1]) if lines else ""


class Identity(NamedTuple):
    """Whose rights a command has, when they are not ours."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Commands:
    """Runs commands and turns trouble into one line: ProbeError for whoever reads, ToolError for whoever changes."""

    error: type[ProbeError] | type[ToolError]
    environment: Mapping[str, str] = field(default_factory=dict)
    """added to LC_ALL and PATH; nothing else is handed on"""

    @property
    def path(self) -> str:
        return self.environment.get("PATH", SEARCH_PATH)

    def find(self, name: str) -> str | None:
        """The binary's absolute path, None when it is not installed."""
        return shutil.which(name, path=self.path)

    def having(self, **environment: str) -> "Commands":
        """The same, with more in the environment."""
        return Commands(self.error, {**self.environment, **environment})

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        accept: Sequence[int] = (0,),
        pass_fds: Sequence[int] = (),
    ) -> Completed:
        """Run *argv* to its end, at most *timeout* seconds.

        Raises `self.error` when the command is missing, does not end in time, or ends with a status that is not
        in *accept*; an empty *accept* takes every status.
        """
        completed = self.finish(self.start(argv, pass_fds=pass_fds), argv, timeout)
        if accept and completed.status not in accept:
            said = completed.last_error or "silent"
            raise self.error(f"{_shown(argv)} ended with {completed.ending}: {said}")
        return completed

    def start(
        self, argv: Sequence[str], *, stdin: int = subprocess.DEVNULL, directory: str = "/",
        identity: Identity | None = None, pass_fds: Sequence[int] = (),
    ) -> "subprocess.Popen[bytes]":  # fmt: skip
        """Start *argv* in a session of its own; `finish` must follow. Raises `self.error`: then nothing was begun."""
        binary = self.find(argv[0])
        if binary is None:
            package = PACKAGES.get(argv[0], argv[0])
            raise self.error(f"{argv[0]} is not installed; install the package {package}")
        try:
            return subprocess.Popen(
                [binary, *argv[1:]],
                stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env={"LC_ALL": "C", "PATH": self.path, **self.environment},
                cwd=directory, start_new_session=True, pass_fds=pass_fds,
                user=identity.user if identity is not None else None,
                group=identity.group if identity is not None else None,
                extra_groups=identity.extra_groups if identity is not None else None,
            )  # fmt: skip
        except OSError as problem:
            raise self.error(f"{_shown(argv)} could not be started: {problem.strerror}") from problem

    def finish(self, process: "subprocess.Popen[bytes]", argv: Sequence[str], timeout: float) -> Completed:
        """Wait for its end, at most *timeout* seconds. Raises `self.error` when it had to be killed."""
        deadline = time.monotonic() + timeout
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            with process.stdout, process.stderr:
                kept = _read(process, (process.stdout, process.stderr), deadline)
        except subprocess.TimeoutExpired as problem:
            raise self.error(f"{_shown(argv)} did not end within {timeout:g} s and was killed") from problem
        stdout, stderr = (os.fsdecode(bytes(output[:CAPTURED])) for output in kept)
        return Completed(process.returncode, stdout, stderr, any(len(output) > CAPTURED for output in kept))


def _read(
    process: "subprocess.Popen[bytes]", streams: tuple[IO[bytes], IO[bytes]], deadline: float
) -> tuple[bytearray, bytearray]:
    """Both outputs up to their cap. Whatever happens, nothing of the command goes on running after a failure."""
    kept = (bytearray(), bytearray())
    ended: float | None = None
    try:
        with selectors.DefaultSelector() as selector:
            for stream, output in zip(streams, kept, strict=True):
                selector.register(stream, selectors.EVENT_READ, output)
            while selector.get_map():
                now = time.monotonic()
                if now >= deadline:
                    raise subprocess.TimeoutExpired(process.args, deadline)
                if ended is None and process.poll() is not None:
                    ended = now
                if ended is not None and now - ended > LINGER:
                    break
                for key, _ in selector.select(min(0.1, deadline - now)):
                    chunk = os.read(key.fd, 65536)
                    if not chunk:
                        selector.unregister(key.fileobj)
                    elif len(key.data) <= CAPTURED:
                        key.data.extend(chunk)
        process.wait(max(0.0, deadline - time.monotonic()))
    except BaseException:
        _end_group(process)
        raise
    return kept


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM, then SIGKILL, for the command and all its children. Its session's id is its pid until it is reaped."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):  # one that hangs in the kernel outlives even this
        process.wait(GRACE)


def _shown(argv: Sequence[str]) -> str:
    return plain(" ".join(argv))


def _status(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
