"""Asking a Java machine for a full garbage collection."""

import os
import signal

from infra.adapters.commands import Commands, Identity
from infra.adapters.process_files import ProcessFiles
from schemas.remediation import Outcome
from schemas.text import plain

LIBRARY = "libjvm.so"


def collect(files: ProcessFiles, commands: Commands, timeout: float) -> tuple[Outcome, str]:
    """`jcmd <pid> GC.run`, and why it was not done.

    jcmd wakes the machine up by SIGQUIT, which ends a process that does not expect it: so only one that has the
    library of a Java machine mapped, and a handler for the signal (there is none with -Xrs). Nothing pins the number
    for jcmd; it is run right after the checks. Raises OSError when the process ended, ToolError when jcmd
    can't be started or takes too long.
    """
    if not files.maps_library(LIBRARY):
        return Outcome.REFUSED, f"it is no Java machine: it has no {LIBRARY} mapped"
    if not files.handles(signal.SIGQUIT):
        return Outcome.REFUSED, "it has no handler for SIGQUIT, by which jcmd asks (see -Xrs), and would be ended by it"
    if commands.find("jcmd") is None:
        return Outcome.REFUSED, "jcmd is not installed; install the JDK of its version"
    identity = identity_of(files)
    if identity is not None and os.geteuid() != 0:
        return Outcome.REFUSED, f"jcmd has to run as its user {identity.user}, which needs root; this is {os.geteuid()}"
    argv = ("jcmd", str(files.pid), "GC.run")
    completed = commands.finish(commands.start(argv, identity=identity), argv, timeout)
    said = _said(f"{completed.stdout}\n{completed.stderr}")
    if completed.status != 0:
        return Outcome.FAILED, f"jcmd GC.run ended with {completed.ending}: {said or 'silent'}"
    if "disabled" in said.lower():
        return Outcome.REFUSED, f"it refuses to collect garbage when asked: {said}"
    return Outcome.DONE, said


def _said(output: str) -> str:
    """In one line, without the places in the code from which jcmd gave up."""
    lines = (line.strip() for line in output.splitlines())
    return plain(" ".join(line for line in lines if line and not line.startswith("at ")))


def identity_of(files: ProcessFiles) -> Identity | None:
    """The process's own rights; None when they are ours: a Java machine answers nobody but its user and group."""
    status = files.status()
    user, group = int(status["Uid"].split()[1]), int(status["Gid"].split()[1])
    if (user, group) == (os.geteuid(), os.getegid()):
        return None
    return Identity(user, group, [int(each) for each in status.get("Groups", "").split()])
