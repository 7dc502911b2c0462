"""A virtual machine under software emulation, which needs no rights and no /dev/kvm; and tells all on its console."""

import re
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tests.kernel.guest import BEGUN, ENDED
from tests.kernel.root_file_system import TARGET

PROGRAM = "qemu-system-x86_64"
_MEMORY = 1536  # MiB; half of it at most for the root file system
_PARAMETERS = (
    "console=ttyS0", "quiet", "loglevel=1", "panic=-1", "mitigations=off", "rdinit=/usr/lib/systemd/systemd",
    f"systemd.unit={TARGET}", "systemd.show_status=no", "systemd.unified_cgroup_hierarchy=1",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What became of it; seconds."""

    status: int | None
    """pytest's; None: the machine ended, or was ended, before the tests did"""
    booted: float | None
    """until the tests began; None: they did not"""
    tested: float | None
    whole: float


def run(kernel: Path, image: Path, console: Path, patience: float, output: TextIO) -> Run:
    """What the tests print goes to *output*, all of it to the file *console*. Ended after *patience* seconds."""
    argv = [
        "nice", "-n", "19", "setpriv", "--pdeathsig", "KILL", PROGRAM,
        "-machine", "q35,accel=tcg", "-cpu", "max", "-m", str(_MEMORY), "-nodefaults", "-no-user-config", "-no-reboot",
        "-display", "none", "-monitor", "none", "-serial", "stdio",
        "-kernel", str(kernel), "-initrd", str(image), "-append", " ".join(_PARAMETERS),
    ]  # fmt: skip
    begin = time.monotonic()
    booted: float | None = None
    ended: re.Match[str] | None = None
    with console.open("w") as log:
        machine = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace",
        )  # fmt: skip
        deadline = threading.Timer(patience, machine.kill)
        deadline.start()
        try:
            assert machine.stdout is not None
            for line in machine.stdout:  # without the carriage returns of a terminal
                log.write(line)
                if BEGUN in line:
                    booted = time.monotonic() - begin
                ended = ended or re.search(rf"{ENDED} (\d+) after ([\d.]+) s", line)
                if booted is not None:
                    output.write(line)
                    output.flush()
        finally:
            deadline.cancel()
            machine.kill()
            machine.wait()
    return Run(
        status=int(ended[1]) if ended else None, booted=booted, tested=float(ended[2]) if ended else None,
        whole=time.monotonic() - begin,
    )  # fmt: skip
