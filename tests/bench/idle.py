"""What a function costs while nothing happens: time until it is ready, memory, and share of a core.

    python -m tests.bench.idle [--rounds 5] [--seconds 60]

Real processes on a real nats-server, with this machine's filesystems as targets and the shipped configuration.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.servers import running_server

TOGETHER = ("disk.free_space", "disk.pressure")
MOST_READY, MOST_RESIDENT, MOST_CORE = 0.7, 50.0, 0.5
"""Seconds, MiB, percent."""
SETTLE = 5.0
"""Seconds after the start that are not counted: the first look at everything."""


async def start(url: str, state: str, names: Sequence[str]) -> tuple[asyncio.subprocess.Process, float]:
    """The process, and how many seconds it took until it said that it runs."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "infra.cli.main", "run", *names, "--bus", url,
        stderr=asyncio.subprocess.PIPE, env={**environment, "XDG_STATE_HOME": state},
    )  # fmt: skip
    assert process.stderr is not None
    async with asyncio.timeout(30):
        async for line in process.stderr:
            if b"running on" in line:
                return process, time.perf_counter() - began
    raise SystemExit("it ended before it was ready")


def resident(pid: int) -> float:
    """MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def used(pid: int) -> float:
    """Seconds of processor time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def stop(process: asyncio.subprocess.Process) -> None:
    process.terminate()
    assert process.stderr is not None
    await process.stderr.read()
    await process.wait()


async def bench(rounds: int, seconds: float) -> int:
    with tempfile.TemporaryDirectory() as directory:
        async with running_server(Path(directory, "nats")) as server:
            ready = []
            for number in range(rounds + 1):
                process, took = await start(server.url, directory, TOGETHER[:1])
                await stop(process)
                if number:  # the first round compiles
                    ready.append(took)
            process, _ = await start(server.url, directory, TOGETHER)
            await asyncio.sleep(SETTLE)
            before, began = used(process.pid), time.perf_counter()
            await asyncio.sleep(seconds)
            share = 100 * (used(process.pid) - before) / (time.perf_counter() - began)
            memory = resident(process.pid)
            await stop(process)
    figures = (
        ("ansai run ready, s", statistics.median(ready), MOST_READY),
        ("collector and function resident, MiB", memory, MOST_RESIDENT),
        (f"share of a core over {seconds:.0f} s, %", share, MOST_CORE),
    )
    missed = False
    for what, seen, most in figures:
        missed |= seen > most
        print(f"{what:<40}{seen:>8.2f}   target ≤ {most:g}   {'MISSED' if seen > most else 'held'}")
    return int(missed)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args(argv)
    return asyncio.run(bench(options.rounds, options.seconds))


if __name__ == "__main__":
    sys.exit(main())
