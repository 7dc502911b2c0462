"""A private place for a fault: mounts, processes and services that nobody else sees and that end with it."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from functions.core.ports import ToolError
from infra.simulate.keeper import NAME
from infra.simulate.machine import OwnSystemd, obstacle

STOP = 10.0
"""Seconds between asking the scenario to end and ending it."""
START = 60.0
"""Seconds until a systemd of our own must be up; it takes one or two."""


async def run_apart(module: str) -> bool:
    """Run `python -m module DIRECTORY` in mount and process namespaces of its own; whether it exited with 0.

    As an ordinary user in a user namespace, too. The directory and everything mounted or started in there is gone
    afterwards. Raises ToolError where namespaces can't be made.
    """
    for program in ("setpriv", "unshare"):
        if shutil.which(program) is None:
            raise ToolError(f"{program} is not on the PATH; install it with: apt-get install util-linux")
    as_user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    async with kept_directory() as directory:
        return await _run(
            "setpriv", "--pdeathsig", "KILL", "unshare", *as_user, "--mount", "--propagation", "private", "--pid",
            "--fork", "--mount-proc", "--kill-child", sys.executable, "-m", module, str(directory),
        )  # fmt: skip


def require_systemd(*controllers: str) -> None:
    """Raises ToolError where none of our own, with these *controllers*, can be started."""
    why_not = obstacle(NAME, controllers)
    if why_not:
        raise ToolError(f"this scenario {why_not}")


async def run_beside_systemd(module: str) -> bool:
    """Run `python -m module DIRECTORY` beside a systemd of its own; whether it exited with 0.

    The directory, that systemd and everything it started are gone afterwards. Raises ToolError when it does not start.
    """
    async with kept_directory() as directory:
        state = directory / "state"
        state.mkdir()
        systemd = OwnSystemd(directory, (state,), name=NAME)
        try:
            await _start(systemd)
            return await _run(*systemd.argv(sys.executable, "-m", module, state))
        finally:
            systemd.stop()


async def _start(systemd: OwnSystemd) -> None:
    """Raises ToolError."""
    try:
        systemd.launch()
    except OSError as error:
        raise ToolError(f"a systemd of its own can't be started: {error}") from error
    deadline = time.monotonic() + START
    while (state := systemd.state()) not in {"running", "degraded"}:
        if not state or time.monotonic() > deadline:
            said = (systemd.log().strip().splitlines() or ["it said nothing"])[-1]
            raise ToolError(f"a systemd of its own does not come up here: {said}; see: ansai doctor")
        await asyncio.sleep(0.05)


async def _run(*argv: str) -> bool:
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for us, who then end it
    )
    try:
        return await process.wait() == 0
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """What it started goes with it."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


@asynccontextmanager
async def kept_directory() -> AsyncIterator[Path]:
    """A directory that is gone afterwards, with all control groups of this process that are called `NAME`."""
    keeper = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "infra.simulate.keeper", str(os.getpid()), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is not for it
    )  # fmt: skip
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    try:
        line = await keeper.stdout.readline()
        if not line:
            raise ToolError("no temporary directory can be made; see above, and set TMPDIR to one that has room")
        yield Path(os.fsdecode(line.rstrip(b"\n")))
    finally:
        keeper.stdin.close()
        await keeper.wait()
