"""Compressing one log, side by side: `gzip -6` alone, and ours with reading back, hashing and all checks.

python -m tests.bench.compress [--megabytes 200] [--rounds 3] [--directory /tmp]
"""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta

from infra.adapters.files.machine import MachineFiles
from infra.adapters.files.tools import MachineFileTools
from schemas.facts.files import FileItem
from schemas.probes import Walk
from schemas.remediation import Outcome

TARGET = 5.0
"""Times as fast as gzip -6 at least."""


def write_log(path: str, size: int) -> None:
    """An access log: mostly alike, with addresses, numbers and sizes that differ."""
    dice, written = random.Random(7), 0
    with open(path, "wb") as log:
        while written < size:
            lines = [
                f"10.{dice.randrange(256)}.{dice.randrange(256)}.{dice.randrange(256)} - - "
                f'[24/Nov/2026:10:{n // 60 % 60:02}:{n % 60:02} +0000] "GET /api/v1/items/{dice.randrange(10**6)}'
                f'?page={dice.randrange(50)} HTTP/1.1" {dice.choice((200, 200, 200, 304, 404))} '
                f'{dice.randrange(10**5)} "-" "Mozilla/5.0 (X11; Linux x86_64)"\n'
                for n in range(10_000)
            ]
            written += log.write("".join(lines).encode())


def run_gzip(top: str) -> float:
    began = time.perf_counter()
    subprocess.run(["gzip", "-6", "-k", f"{top}/log.1"], check=True)
    return time.perf_counter() - began


def run_ours(top: str) -> float:
    probe, tools = MachineFiles(), MachineFileTools()
    root = probe.root(top)
    walk = Walk(root=root, older_than=datetime.now(UTC) + timedelta(minutes=10), names=("log.1",))
    items = [FileItem.of(stat) for stat in probe.walk(walk)]
    began = time.perf_counter()
    (result,) = tools.compress(root, items)
    seconds = time.perf_counter() - began
    assert result.outcome is Outcome.DONE, result.reason
    return seconds


def compare(size: int, rounds: int, directory: str) -> bool:
    top = tempfile.mkdtemp(prefix="compress-", dir=directory)
    seconds: dict[str, list[float]] = {"gzip -6": [], "ours": []}
    packed: dict[str, int] = {}
    try:
        write_log(f"{top}/log", size)
        size = os.path.getsize(f"{top}/log")
        for _ in range(rounds):
            for name, run in (("gzip -6", run_gzip), ("ours", run_ours)):
                shutil.copyfile(f"{top}/log", f"{top}/log.1")
                os.sync()
                seconds[name].append(run(top))
                packed[name] = os.path.getsize(f"{top}/log.1.gz")
                for left in ("log.1", "log.1.gz"):
                    if os.path.exists(f"{top}/{left}"):
                        os.unlink(f"{top}/{left}")
    finally:
        shutil.rmtree(top)
    medians = {name: statistics.median(of) for name, of in seconds.items()}
    print(f"{size / 1e6:.0f} MB, {rounds} alternating runs, {directory}")
    for name, median in medians.items():
        print(f"  {name:8} {size / 1e6 / median:6.0f} MB/s, {packed[name] / size:.1%} left")
    ratio = medians["gzip -6"] / medians["ours"]
    print(f"  ours / gzip -6: {ratio:.1f} times as fast (at least {TARGET})")
    return ratio >= TARGET


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", default=tempfile.gettempdir())
    arguments = parser.parse_args()
    return 0 if compare(arguments.megabytes * 1_000_000, arguments.rounds, arguments.directory) else 1


if __name__ == "__main__":
    sys.exit(main())
