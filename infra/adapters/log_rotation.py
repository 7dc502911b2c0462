"""What logrotate owns and finds due, and letting it rotate that."""

import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from functions.core.ports import ToolError
from infra.adapters.commands import Commands
from infra.adapters.rotation_report import LOCKED, Report, family, parse
from infra.adapters.rotation_settings import patterns_in, settings_for_includes, without_includes
from schemas.facts.logs import LogRotation, RotatedLog
from schemas.probes import ProbeError
from schemas.remediation import ItemResult, Outcome
from schemas.text import plain, show_path

CONFIGURATION = "/etc/logrotate.conf"

STATE = "/var/lib/logrotate/status"
"""Where the state is when logrotate does not tell; it does since 3.8.8."""

ASK = 60.0
"""Seconds for a look; it reads configuration, one state file and the status of each log."""

ROTATE = 1800.0
"""Seconds for a rotation, which may compress many gigabytes and wait for scripts that reload services."""


class LogRotationReader:
    """What logrotate is configured for; reads only.

    *state* is asked of logrotate when not given; *processes* is where /proc is.
    """

    def __init__(
        self,
        configuration: str = CONFIGURATION,
        state: str | None = None,
        environment: Mapping[str, str] | None = None,
        processes: str = "/proc",
    ) -> None:
        self._logrotate = Logrotate(Commands(ProbeError, dict(environment or {})), configuration, state, processes)

    def rotation(self) -> LogRotation:
        """Empty where there is no logrotate. Raises ProbeError when it can't be asked."""
        return self._logrotate.rotation()


class LogRotator:
    """Lets logrotate rotate what it owns. The parameters are those of `LogRotationReader`."""

    def __init__(
        self,
        configuration: str = CONFIGURATION,
        state: str | None = None,
        environment: Mapping[str, str] | None = None,
        processes: str = "/proc",
    ) -> None:
        self._logrotate = Logrotate(Commands(ToolError, dict(environment or {})), configuration, state, processes)

    def rotate(self, configuration: str) -> ItemResult:
        """Run logrotate for one of its configuration files, with the settings of the main file and the real state.

        Deferred while another logrotate runs, skipped when nothing is due any more. A log counts as rotated when it is
        another file, shorter, or gone, not by the exit status. Freed is what the logs with all their generations took
        before, less what they take after. Raises ToolError when none was rotated, or when the file is none of
        logrotate's.
        """
        logrotate = self._logrotate
        if configuration not in logrotate.files():
            where = show_path(logrotate.configuration)
            raise ToolError(f"rotate the logs of {show_path(configuration)}: {where} does not include it")
        report = logrotate.look(configuration)
        due = {log.path: seen for log in report.logs if log.due and (seen := _status(log.path)) is not None}
        if not due:
            return ItemResult(name=configuration, outcome=Outcome.SKIPPED, reason="nothing is due any more")
        if logrotate.locked():
            return ItemResult(name=configuration, outcome=Outcome.DEFERRED, reason="another logrotate runs")
        before = _allocated(report)
        status, last_error = logrotate.run(configuration)
        if LOCKED in last_error:
            return ItemResult(name=configuration, outcome=Outcome.DEFERRED, reason="another logrotate runs")
        stayed = [path for path, seen in due.items() if not _rotated(seen, _status(path))]
        why = last_error or f"no error was told (status {status})"
        if len(stayed) == len(due):
            raise ToolError(f"logrotate {show_path(configuration)} rotated none of {len(due)} logs that are due: {why}")
        freed = {"bytes": max(0, before - _allocated(report))}
        if stayed:
            reason = f"{len(stayed)} of {len(due)} logs were not rotated, {show_path(stayed[0])} for one: {why}"
            return ItemResult(name=configuration, outcome=Outcome.PARTIAL, freed=freed, reason=reason)
        return ItemResult(name=configuration, outcome=Outcome.DONE, freed=freed, reason=last_error)


class Logrotate:
    """logrotate as both use it. Trouble is raised as the error of *commands*."""

    def __init__(self, commands: Commands, configuration: str, state: str | None, processes: str) -> None:
        self.configuration = configuration
        self._commands = commands
        self._state = state
        self._processes = processes

    def rotation(self) -> LogRotation:
        if self._commands.find("logrotate") is None or not os.path.lexists(self.configuration):
            return LogRotation()
        everything = self._debug([self.configuration])
        patterns, problems = list(everything.owned), list(everything.unread)
        for path in everything.skipped:
            try:
                patterns += [one for pattern in patterns_in(_text(path)) for one in family(pattern)]
            except OSError as error:
                problems.append(f"logrotate leaves out {show_path(path)}, and reading it fails: {error.strerror}")
        logs: dict[str, RotatedLog] = {}
        for file in self._used(everything):
            for log in self._logs(file):
                logs.setdefault(log.path, log)
        return LogRotation(
            patterns=tuple(patterns), logs=tuple(logs.values()), locked=self.locked(),
            problem=plain("; ".join(problems)),
        )  # fmt: skip

    def files(self) -> list[str]:
        """The configuration files that logrotate uses: the main one, and what it includes."""
        return self._used(self._debug([self.configuration]))

    def look(self, configuration: str) -> Report:
        """What running one configuration file would do."""
        with self._arguments(configuration) as (arguments, descriptors):
            return self._debug(arguments, descriptors)

    def run(self, configuration: str) -> tuple[int, str]:
        """Run one configuration file; returns the exit status and the last error that was told."""
        with self._arguments(configuration) as (arguments, descriptors):
            argv = ["logrotate", "-v", "-s", self._state_path(), *arguments]
            completed = self._commands.run(argv, timeout=ROTATE, accept=(), pass_fds=descriptors)
        errors = [line for line in completed.stderr.splitlines() if line.startswith("error: ")]
        return completed.status, plain(errors[-1].removeprefix("error: ")) if errors else ""

    def locked(self) -> bool:
        """Whether another logrotate holds the state's lock, read from the kernel's list: nothing is locked for it."""
        try:
            seen = os.stat(self._state_path())
            with open(f"{self._processes}/locks", encoding="utf-8") as file:
                locks = file.read()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._commands.error(f"see who holds logrotate's lock: {error.strerror}") from error
        which = f"{os.major(seen.st_dev):02x}:{os.minor(seen.st_dev):02x}:{seen.st_ino}"
        return any("FLOCK" in line and which in line.split() for line in locks.splitlines())

    def _used(self, report: Report) -> list[str]:
        used = (path for path in report.read if path not in report.skipped and os.path.isabs(path))
        return list(dict.fromkeys((self.configuration, *used)))

    def _logs(self, configuration: str) -> Iterator[RotatedLog]:
        for log in self.look(configuration).logs:
            seen = _status(log.path)
            if seen is not None:
                yield RotatedLog(
                    path=log.path, configuration=configuration, due=log.due, device=seen.st_dev, inode=seen.st_ino,
                    allocated=seen.st_blocks * 512, compresses=log.compresses,
                )  # fmt: skip

    def _debug(self, arguments: Iterable[str], descriptors: tuple[int, ...] = ()) -> Report:
        """With a copy of the state in memory: the real one can't be written, nor can a copy fail on a full disk."""
        with _in_memory(self._state_contents()) as state:
            argv = ["logrotate", "-d", "-s", f"/proc/self/fd/{state}", *arguments]
            completed = self._commands.run(argv, timeout=ASK, accept=(), pass_fds=(state, *descriptors))
        if completed.truncated:
            raise self._commands.error(
                "logrotate -d said more than can be read; look for a pattern that matches too much"
            )
        return parse(completed.stderr + completed.stdout)

    @contextmanager
    def _arguments(self, configuration: str) -> Iterator[tuple[list[str], tuple[int, ...]]]:
        """What to give to logrotate, so that it handles one file with the settings that the main file makes for it."""
        try:
            main = _text(self.configuration)
        except OSError as error:
            raise self._commands.error(f"read {show_path(self.configuration)}: {error.strerror}") from error
        own = configuration == self.configuration
        text = without_includes(main) if own else settings_for_includes(main)
        with _in_memory(os.fsencode(text)) as settings:
            arguments = [f"/proc/self/fd/{settings}", *([] if own else [configuration])]
            yield arguments, (settings,)

    def _state_path(self) -> str:
        if self._state is None:
            said = self._commands.run(["logrotate", "--version"], timeout=ASK, accept=())
            match = re.search(r"state file path: +(/.+)", said.stderr + said.stdout)
            self._state = match[1].strip() if match else STATE
        return self._state

    def _state_contents(self) -> bytes:
        path = self._state_path()
        try:
            with open(path, "rb") as file:
                return file.read()
        except (FileNotFoundError, PermissionError):
            return b""  # nothing was rotated yet; or who may not read it may not rotate either, and finds less due
        except OSError as error:
            raise self._commands.error(f"read logrotate's state {show_path(path)}: {error.strerror}") from error


@contextmanager
def _in_memory(contents: bytes) -> Iterator[int]:
    """A descriptor of a file that is on no disk, with the permissions that logrotate wants to see."""
    descriptor = os.memfd_create("ansai-logrotate", os.MFD_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(contents)
        yield descriptor
    finally:
        os.close(descriptor)


def _text(path: str) -> str:
    with open(path, "rb") as file:
        return os.fsdecode(file.read())


def _status(path: str) -> os.stat_result | None:
    """Of a regular file; None when there is none, for links are not rotated."""
    try:
        seen = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return seen if stat.S_ISREG(seen.st_mode) else None


def _rotated(before: os.stat_result, after: os.stat_result | None) -> bool:
    return (
        after is None
        or (after.st_dev, after.st_ino) != (before.st_dev, before.st_ino)
        or after.st_size < before.st_size
    )


def _allocated(report: Report) -> int:
    """Bytes that all logs of a report take with all their generations, each file once."""
    taken: dict[tuple[int, int], int] = {}
    for block in report.blocks:
        for log in block.logs.values():
            for pattern in family(glob.escape(log.path), block.old_directory):
                for path in glob.glob(pattern):
                    seen = _status(path)
                    if seen is not None:
                        taken[seen.st_dev, seen.st_ino] = seen.st_blocks * 512
    return sum(taken.values())
