"""The command line as a user meets it: in a process of its own, or in this one where only the answer matters."""

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bus.jetstream import connect
from schemas.settings.bus import BusSettings
from tests.servers import nats_server

REPOSITORY = Path(__file__).parents[3]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def clean_environment(tmp_path):
    """No setting of the machine that runs the tests; state and settings below the test's own directory."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSAI_", "XDG_", "COLUMNS"))}
    return kept | {
        "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state"), "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "error", "NO_COLOR": "1",
    }  # fmt: skip


@pytest.fixture
def ansai(tmp_path, clean_environment):
    """Run the command line to its end."""

    def run(*arguments: str, timeout: float = 60, **environment: str) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "infra.cli.main", *arguments], cwd=tmp_path, env=clean_environment | environment,
            capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
async def server(tmp_path):
    """The URL of a real nats-server."""
    async with nats_server(tmp_path / "nats") as url:
        yield url


@pytest.fixture
async def bus(server):
    connected = await connect(BusSettings(url=server), name="the test")
    yield connected
    await connected.close()


@pytest.fixture
def ansai_beside(ansai):
    """Run the command line in a thread, so that the test's own loop goes on."""

    async def run(*arguments: str, **environment: str) -> Result:
        return await asyncio.to_thread(ansai, *arguments, **environment)

    return run


@pytest.fixture
async def started(tmp_path, clean_environment):
    """Start the command line and leave it running; what still runs is ended with the test."""
    processes: list[asyncio.subprocess.Process] = []

    async def start(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "infra.cli.main", *arguments, cwd=tmp_path, env=clean_environment | environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()
