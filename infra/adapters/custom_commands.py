"""Commands of the operator's own: run with nothing but what was declared, and told by the end of what they said."""

import os
import pwd
import subprocess
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import NamedTuple

from functions.core.ports import ToolError
from infra.adapters.commands import Commands, Completed, Identity
from schemas.facts.commands import Checked, Command
from schemas.probes import ProbeError
from schemas.remediation import ItemResult, Outcome
from schemas.text import plain

TOLD = 600
"""Characters of each output that are told, the last ones: there an error is named."""

UNHEALTHY = 1
"""The exit status of a check that found its target unhealthy; 0 is healthy, any other is no answer."""

CALLER = "infra.adapters.python_call"

Runs = MutableMapping[tuple[str, str], datetime]
"""(function, target) → when its latest command ended. The tools write it, the probes read it."""


class CustomChecks:
    """Implements `schemas.probes.CommandProbe`."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def healthy(self, command: Command) -> bool:
        commands = Commands(ProbeError, _environment(command))
        process, argv = _start(commands, command, "")
        completed = commands.finish(process, argv, command.timeout)
        if completed.status not in {0, UNHEALTHY}:
            raise ProbeError(
                f"the check {plain(command.shown())} ended with {completed.ending}, which is no answer"
                f" (0 is healthy, 1 unhealthy): {said(completed)}"
            )
        return completed.status == 0

    def check(self, command: Command) -> Checked | None:
        commands = Commands(ProbeError, _environment(command))
        if commands.find(command.argv[0]) is None:
            return None
        completed = commands.run(command.argv, timeout=command.timeout, accept=())
        return Checked(passed=completed.status == 0, said=_last_lines(completed) or completed.ending)

    def ran_at(self, function: str, target: str) -> datetime | None:
        return self._runs.get((function, target))


class CustomCommands:
    """Implements `functions.core.ports.CommandTools`."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def run(self, function: str, target: str, command: Command) -> ItemResult:
        commands = Commands(ToolError, _environment(command))
        try:
            process, argv = _start(commands, command, target)
        except ToolError as error:
            return ItemResult(name=target, outcome=Outcome.REFUSED, reason=f"nothing was run: {error}")
        try:
            completed = commands.finish(process, argv, command.timeout)
        except ToolError as error:
            return ItemResult(name=target, outcome=Outcome.FAILED, reason=str(error))
        finally:
            self._runs[function, target] = datetime.now(UTC)
        outcome = Outcome.FAILED if completed.status else Outcome.DONE
        reason = f"{command.shown()} ended with {completed.ending}: {said(completed)}"
        return ItemResult(name=target, outcome=outcome, reason=reason)


def said(completed: Completed) -> str:
    """The end of both outputs, for people. Pure."""
    streams = (("errors", completed.stderr), ("output", completed.stdout))
    told = [f"{name}: {_end(text)}" for name, text in streams if text.strip()]
    cut = " (the output was larger than is kept)" if completed.truncated else ""
    return f"{'; '.join(told) or 'silent'}{cut}"


def _last_lines(completed: Completed) -> str:
    """Two of them: many a check ends with a line that only says that it failed, after the one that says why."""
    lines = [line.strip() for line in (completed.stderr.strip() or completed.stdout).splitlines() if line.strip()]
    return _end("; ".join(lines[-2:]))


def _end(text: str) -> str:
    text = plain(text.strip()[-TOLD:])
    return text if len(text) <= TOLD else f"…{text[-TOLD:]}"


class Invocation(NamedTuple):
    argv: tuple[str, ...]
    stdin: str


def _invocation(command: Command, target: str) -> Invocation:
    """A callable is run by an interpreter of its own, which finds what ours finds, but nothing in the directory."""
    if not command.call:
        return Invocation(command.argv, command.stdin)
    return Invocation((sys.executable, "-P", "-s", "-m", CALLER, command.call, target), command.stdin)


def _environment(command: Command) -> dict[str, str]:
    environment = {"LC_ALL": "C.UTF-8"}
    if command.call and "PYTHONPATH" in os.environ:
        environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return environment


def _start(commands: Commands, command: Command, target: str) -> tuple["subprocess.Popen[bytes]", tuple[str, ...]]:
    """Raises `commands.error`: then nothing was begun."""
    argv, stdin = _invocation(command, target)
    if trouble := trouble_with(command):
        raise commands.error(f"{trouble.seen}; {trouble.fix}")
    descriptor = os.memfd_create("event", os.MFD_CLOEXEC)  # the child reads it at its own pace, so no pipe can block us
    try:
        os.write(descriptor, stdin.encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
        process = commands.start(
            argv, stdin=descriptor, directory=command.directory, identity=identity_of(command.user)
        )
    finally:
        os.close(descriptor)
    return process, argv


class Trouble(NamedTuple):
    seen: str
    fix: str
    """what to do about it"""


def trouble_with(command: Command) -> Trouble | None:
    """Why it can't be started here, by this user; None when nothing speaks against it."""
    program = plain(command.argv[0] if command.argv else sys.executable)
    if not os.path.isfile(program) or not os.access(program, os.X_OK):
        return Trouble(
            f"{program} is no program that can be run", f"see that it is there and executable: ls -l {program}"
        )
    if not os.path.isdir(command.directory):
        return Trouble(f"{plain(command.directory)} is no directory", "correct directory in custom_actions")
    return _trouble_with_user(command.user) if command.user is not None else None


def _trouble_with_user(user: str) -> Trouble | None:
    try:
        wanted = pwd.getpwnam(user).pw_uid
    except KeyError:
        return Trouble(f"there is no user {plain(user)} on this host", f"adduser --system {plain(user)}")
    if wanted != os.geteuid() and os.geteuid() != 0:
        return Trouble(f"to run as the user {user} needs root, and this is user {os.geteuid()}", "run ansai as root")
    return None


def identity_of(user: str | None) -> Identity | None:
    """Whose rights to take; None to keep ours. The user must exist."""
    if user is None:
        return None
    entry = pwd.getpwnam(user)
    if entry.pw_uid == os.geteuid():
        return None
    return Identity(entry.pw_uid, entry.pw_gid, os.getgrouplist(user, entry.pw_gid))
