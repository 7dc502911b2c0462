"""Inside the virtual machine: run the tests, and tell how they ended. Called by its unit ansai-tests.service."""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

DISKS = {"zram0": 512, "zram1": 256}
"""Name → MiB of disks that are compressed memory: one to swap to, one with a file system."""
SCRATCH = "/srv"
"""where that is mounted; the rest of the files are in memory, and have no page cache apart from themselves"""
ARGUMENTS = "/opt/arguments.json"
"""pytest's, as the host wrote them"""
BEGUN = "ansai-kernel: tests begin"
ENDED = "ansai-kernel: tests ended with status"
_TOLD = 40  # lines of the kernel's log, when a test failed


def prepare_disks() -> None:
    for name, size in DISKS.items():
        Path(f"/sys/block/{name}/disksize").write_text(f"{size}M")
    swap, disk = (f"/dev/{name}" for name in DISKS)
    for argv in (["mkswap", swap], ["swapon", swap], ["mkfs.ext4", "-q", disk], ["mount", disk, SCRATCH]):
        subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)


def main() -> None:
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    print(f"{BEGUN} {uptime:.1f} s after the start of kernel {platform.release()}", flush=True)
    begin = time.monotonic()
    prepare_disks()
    pytest = [sys.executable, "-m", "pytest", *json.loads(Path(ARGUMENTS).read_text())]
    done = subprocess.run(pytest, env={**os.environ, "TMPDIR": SCRATCH}, check=False)
    if done.returncode:
        log = subprocess.run(["dmesg", "--notime"], capture_output=True, text=True, check=False).stdout
        print("── the kernel's log ──", *log.splitlines()[-_TOLD:], sep="\n", flush=True)
    print(f"{ENDED} {done.returncode} after {time.monotonic() - begin:.1f} s", flush=True)


if __name__ == "__main__":
    main()
