"""Inside the virtual machine: run the tests, and tell how they ended. Called by its unit ansai-tests.service."""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

SWAP, DISK = "/dev/zram0", "/dev/zram1"
"""compressed memory: to swap to, for the tests that switch it on, and with a file system"""
SIZES = {SWAP: "512M", DISK: "256M"}
SCRATCH = "/srv"
"""where that is mounted; the rest of the files are in memory, and have no page cache apart from themselves"""
ARGUMENTS = "/opt/arguments.json"
"""pytest's, as the host wrote them"""
BEGUN = "ansai-kernel: tests begin"
ENDED = "ansai-kernel: tests ended with status"
_TOLD = 40  # lines of the kernel's log, when a test failed


def prepare_disks() -> None:
    for device, size in SIZES.items():
        Path("/sys/block", Path(device).name, "disksize").write_text(size)
    for argv in (["mkswap", SWAP], ["mkfs.ext4", "-q", DISK], ["mount", DISK, SCRATCH]):
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
