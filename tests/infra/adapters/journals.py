"""Real journals without a journald: made by systemd-journal-remote, on a small tmpfs, where it archives early."""

import os
import random
import shutil
import subprocess
import time
from pathlib import Path

MACHINE = "1" * 32
BOOT = "3" * 32
DAY = 86_400
ENTRIES_A_FILE = 1025
"""On a tmpfs of 48 MB the hash table of a file is full after so many."""

_MAKE = """
mount -t tmpfs -o size=48m none "$1" && mkdir "$1/out" &&
/lib/systemd/systemd-journal-remote -o "$1/out/system.journal" - && cp "$1"/out/* "$2"
"""
_TAIL_REALTIME = 192  # offset in the header of a journal file: little-endian microseconds


def build(directory: Path, days: int) -> Path:
    """One archived file a day for *days* days, and an active one with today's entries; names hold the heads."""
    mount, out = directory / "mount", directory / "journal"
    mount.mkdir()
    out.mkdir()
    count = days * ENTRIES_A_FILE + 100
    begin = time.time() - count * DAY / ENTRIES_A_FILE
    generator = random.Random(1)
    entries = "\n".join(
        f"__REALTIME_TIMESTAMP={int((begin + number * DAY / ENTRIES_A_FILE) * 1e6)}\n"
        f"__MONOTONIC_TIMESTAMP={number * 1_000_000}\n_BOOT_ID={BOOT}\n_MACHINE_ID={MACHINE}\nPRIORITY=6\n"
        f"MESSAGE={generator.randbytes(200).hex()}\n"
        for number in range(count)
    )
    subprocess.run(
        ["unshare", "--mount", "sh", "-ec", _MAKE, "sh", str(mount), str(out)],
        input=entries + "\n", text=True, check=True, capture_output=True,
    )  # fmt: skip
    return out


def copy(source: Path, target: Path) -> Path:
    """A journal to change, its files as old as their last entries."""
    shutil.copytree(source, target)
    for path in target.iterdir():
        with path.open("rb") as file:
            file.seek(_TAIL_REALTIME)
            tail = int.from_bytes(file.read(8), "little") * 1000
        os.utime(path, ns=(tail, tail))
    return target


def messages(directory: Path) -> int:
    """How many entries journalctl reads there."""
    output = subprocess.run(
        ["journalctl", "-D", str(directory), "-o", "cat", "--no-pager", "-q"], check=True, capture_output=True
    ).stdout
    return len(output.splitlines())
