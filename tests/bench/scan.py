"""Scanning for clean-up, side by side: find, a bare descriptor walk in Python, and ours with all guards.

    python -m tests.bench.scan [--files 500000] [--rounds 5] [--directory /dev/shm]

Each run is a process of its own, so that its peak memory is its own; the three take turns, medians are compared.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

PER_DIRECTORY = 200
OLD_DAYS = 30
BEFORE_DAYS = 7
"""Half of the files are OLD_DAYS old by mtime; those older than BEFORE_DAYS are looked for."""

TARGETS = {"find": 3.0, "bare": 2.0}


def build(top: str, files: int) -> None:
    """Directories of PER_DIRECTORY files, ten directories side by side on each of their own level."""
    old = time.time() - OLD_DAYS * 86400
    for number in range(0, files, PER_DIRECTORY):
        directory = f"{top}/user-{number // PER_DIRECTORY // 10}/session-{number // PER_DIRECTORY % 10}"
        os.makedirs(directory)
        fd = os.open(directory, os.O_RDONLY)
        for index in range(min(PER_DIRECTORY, files - number)):
            name = f"upload-{index:06d}.tmp"
            os.mknod(name, 0o100600, dir_fd=fd)
            if index % 2:
                os.utime(name, (old, old), dir_fd=fd)
        os.close(fd)


def bare(top: str, before_ns: int) -> Iterator[tuple[str, int]]:
    """What is left without any guard: descriptors, no links, regular files, mtime and one link."""
    levels = [(os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW), "")]
    while levels:
        fd, prefix = levels.pop()
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                    levels.append((os.open(entry.name, flags, dir_fd=fd), f"{prefix}{entry.name}/"))
                    continue
                stat = entry.stat(follow_symlinks=False)
                if stat.st_mtime_ns < before_ns and stat.st_nlink == 1:
                    yield prefix + entry.name, stat.st_blocks
        os.close(fd)


def run_bare(top: str) -> int:
    before = time.time_ns() - BEFORE_DAYS * 86400 * 10**9
    return sum(1 for _ in bare(top, before))


def run_ours(top: str) -> int:
    from functions.disk.candidates import temp_walk
    from infra.adapters.files.machine import MachineFiles

    probe = MachineFiles()
    before = datetime.now(UTC) - timedelta(days=BEFORE_DAYS)
    walk = temp_walk(probe.root(top), before, (), frozenset((7, number) for number in range(1_000)))
    walk.by_mtime = True  # as for find and bare: the files were just made, so all other times are of today
    return sum(1 for _ in probe.walk(walk))


def run_find(top: str) -> int:
    tests = ["-xdev", "-type", "f", "-links", "1", "-mtime", f"+{BEFORE_DAYS}", "-printf", "%p %b\\n"]
    found = subprocess.run(["find", top, *tests], stdout=subprocess.PIPE, check=True)
    return found.stdout.count(b"\n")


RUNS = {"find": run_find, "bare": run_bare, "ours": run_ours}


def measured(name: str, top: str) -> dict[str, float]:
    """One run in a fresh process: seconds without its start, files found, and how far its memory grew."""
    argv = [sys.executable, "-m", "tests.bench.scan", "--one", name, "--directory", top]
    return json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout)


def one(name: str, top: str) -> None:
    if name == "ours":
        import functions.disk.candidates  # noqa: F401 - imports are no part of the scan
        import infra.adapters.files.machine  # noqa: F401
    whose = resource.RUSAGE_CHILDREN if name == "find" else resource.RUSAGE_SELF
    before = resource.getrusage(whose).ru_maxrss
    began = time.perf_counter()
    found = RUNS[name](top)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(whose).ru_maxrss
    print(json.dumps({"seconds": seconds, "found": found, "peak": peak, "grown": peak - before}))


def compare(files: int, rounds: int, directory: str) -> bool:
    top = tempfile.mkdtemp(prefix="scan-", dir=directory)
    try:
        build(top, files)
        for name in RUNS:
            measured(name, top)  # once to warm up
        runs = {name: [] for name in RUNS}
        for _ in range(rounds):
            for name in RUNS:
                runs[name].append(measured(name, top))
    finally:
        shutil.rmtree(top)
    medians = {name: statistics.median(run["seconds"] for run in of) for name, of in runs.items()}
    print(f"{files} files, {rounds} alternating runs, {directory}")
    for name, of in runs.items():
        peak, grown = max(run["peak"] for run in of), max(run["grown"] for run in of)
        print(
            f"  {name:5} {medians[name]:7.3f} s  {medians[name] / files * 1e6:5.2f} µs/file  "
            f"peak {peak / 1024:6.1f} MiB (grown {grown / 1024:5.1f})  found {of[0]['found']}"
        )
    good = len({run["found"] for of in runs.values() for run in of}) == 1
    if not good:
        print("  the three did not find the same files")
    for name, limit in TARGETS.items():
        ratio = medians["ours"] / medians[name]
        good &= ratio <= limit
        print(f"  ours / {name}: {ratio:.2f} (at most {limit})")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", default="/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir())
    parser.add_argument("--one", choices=list(RUNS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one, arguments.directory)
        return 0
    return 0 if compare(arguments.files, arguments.rounds, arguments.directory) else 1


if __name__ == "__main__":
    sys.exit(main())
