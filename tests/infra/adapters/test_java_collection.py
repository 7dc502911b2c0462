"""Asking a Java machine for a collection: who is refused, and as whom jcmd is run.

No Java machine is needed. Refusals are tried on real processes that are none; for the rest a copy of another
library by the name of libjvm.so is mapped by a process, and a stand-in for jcmd on a search path of the test's own
writes down its arguments and its user. It says what jcmd of OpenJDK 17 says, with which the same was seen by hand.
"""

import os
import pwd
import shutil
import tempfile
from pathlib import Path

import pytest

from functions.core.ports import ToolError
from infra.adapters.commands import Commands
from infra.adapters.process_signals import ProcessSignals
from infra.adapters.processes import Processes
from schemas.remediation import Outcome
from tests.infra.adapters.children import IDLE, children

MACHINE = (
    "import ctypes, os, signal, sys\nctypes.CDLL(sys.argv[1])\n"
    "signal.signal(signal.SIGQUIT, lambda *_: print('asked', flush=True))\n"
    "os.setgroups([]) if os.geteuid() == 0 else None\n"
    "sys.argv[2:] and (os.setgid(int(sys.argv[3])), os.setuid(int(sys.argv[2])))\n"
    "print('ready', flush=True)\nwhile 1: signal.pause()"
)


@pytest.fixture
def start():
    with children() as start:
        yield start


@pytest.fixture
def directory():
    """Where users without rights may look; the test's own directory is closed to them."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def library(directory):
    """A shared library that bears the name of a Java machine's."""
    mapped = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    return shutil.copy(next(path for path in mapped if "/libm" in path and ".so" in path), directory / "libjvm.so")


@pytest.fixture
def jcmd(directory):
    """jcmd(answer, status): a stand-in; returns the tools that find it, and the file it writes to."""

    def make(answer: str = "Command executed successfully", status: int | str = 0):
        log, program = directory / "log", directory / "jcmd"
        log.touch()
        log.chmod(0o666)
        asked = f"echo \"$*\" as $(id -u) $(id -g) $(id -G) > '{log}'"
        program.write_text(f"#!/bin/sh\n{asked}\necho '{answer}'\nexit {status}\n")
        program.chmod(0o755)
        return ProcessSignals(Commands(ToolError, {"PATH": f"{directory}:/usr/bin:/bin"})), log

    return make


def identity(child):
    found = Processes().identity(child.pid)
    assert found is not None
    return found


def test_a_process_that_is_no_java_machine_is_refused_and_lives(start, jcmd):
    tools, log = jcmd()
    child = start(IDLE)

    result = tools.collect_java(identity(child), 10)

    assert (result.outcome, result.reason) == (
        Outcome.REFUSED, "it is no Java machine: it has no libjvm.so mapped",
    )  # fmt: skip
    assert log.read_text() == ""
    assert child.poll() is None


def test_a_java_machine_that_does_not_expect_the_signal_is_refused(start, jcmd, library):
    tools, log = jcmd()
    child = start(MACHINE.replace("SIGQUIT", "SIGUSR2"), library)

    result = tools.collect_java(identity(child), 10)

    assert result.outcome is Outcome.REFUSED
    assert result.reason.startswith("it has no handler for SIGQUIT")
    assert log.read_text() == ""


def test_without_jcmd_it_is_refused(start, library, tmp_path):
    tools = ProcessSignals(Commands(ToolError, {"PATH": str(tmp_path)}))

    result = tools.collect_java(identity(start(MACHINE, library)), 10)

    assert (result.outcome, result.reason) == (
        Outcome.REFUSED, "jcmd is not installed; install the JDK of its version",
    )  # fmt: skip


def test_jcmd_is_asked_with_the_pid_and_nothing_more(start, jcmd, library):
    tools, log = jcmd()
    child = start(MACHINE, library)

    result = tools.collect_java(identity(child), 30)

    assert (result.outcome, result.reason) == (Outcome.DONE, "Command executed successfully")
    assert log.read_text().startswith(f"{child.pid} GC.run as {os.geteuid()} ")


@pytest.mark.needs("root")
def test_jcmd_runs_as_the_user_and_group_of_the_process(start, jcmd, library):
    tools, log = jcmd()
    nobody = pwd.getpwnam("nobody")
    child = start(MACHINE, library, str(nobody.pw_uid), str(nobody.pw_gid))

    result = tools.collect_java(identity(child), 30)

    assert result.outcome is Outcome.DONE, result.reason
    assert log.read_text() == f"{child.pid} GC.run as {nobody.pw_uid} {nobody.pw_gid} {nobody.pw_gid}\n"


def test_a_machine_that_was_told_to_refuse_is_not_done(start, jcmd, library):
    tools, _ = jcmd("Explicit GC is disabled, no GC has been performed.")

    result = tools.collect_java(identity(start(MACHINE, library)), 30)

    assert result.outcome is Outcome.REFUSED
    assert "Explicit GC is disabled" in result.reason


def test_a_jcmd_that_fails_is_a_failure(start, jcmd, library):
    tools, _ = jcmd("com.sun.tools.attach.AttachNotSupportedException: no\n\tat jdk.attach/sun.Provider(P.java:1)", 1)

    result = tools.collect_java(identity(start(MACHINE, library)), 30)

    assert result.outcome is Outcome.FAILED
    assert result.reason == ("jcmd GC.run ended with status 1: com.sun.tools.attach.AttachNotSupportedException: no")


def test_a_jcmd_that_takes_too_long_is_an_error(start, jcmd, library):
    tools, _ = jcmd(status="$(sleep 1000)")

    with pytest.raises(ToolError, match=r"jcmd \d+ GC.run did not end within 0.5 s and was killed"):
        tools.collect_java(identity(start(MACHINE, library)), 0.5)
