"""A private place for a fault: mounts and processes that nobody else sees and that end with it."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile

from functions.core.ports import ToolError

STOP = 10.0
"""Seconds between asking the scenario to end and ending it."""


async def run_apart(module: str) -> bool:
    """Run `python -m module DIRECTORY` in mount and process namespaces of its own; whether it exited with 0.

    As an ordinary user in a user namespace, too. The directory and everything mounted or started in there is gone
    afterwards. Raises ToolError where namespaces can't be made.
    """
    unshare = shutil.which("unshare")
    if unshare is None:
        raise ToolError("unshare is not on the PATH; install it with: apt-get install util-linux")
    as_user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    directory = tempfile.mkdtemp(prefix="ansai-simulate-")
    try:
        process = await asyncio.create_subprocess_exec(
            unshare, *as_user, "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc", "--kill-child",
            sys.executable, "-m", module, directory,
        )  # fmt: skip
        try:
            return await process.wait() == 0
        finally:
            await _end(process)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _end(process: asyncio.subprocess.Process) -> None:
    """`--kill-child` takes everything in the namespace with it."""
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
