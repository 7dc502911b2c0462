"""What a command may leave on this machine."""

import os
from pathlib import Path

from infra.simulate.keeper import NAME
from tests import cgroups


def processes_that_name(text: str) -> list[str]:
    """Command lines and environments of all processes of this machine but this one."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            said = (directory / "cmdline").read_bytes() + (directory / "environ").read_bytes()
        except OSError:  # it has ended, or is not ours to look into
            continue
        if text.encode() in said and directory.name != str(os.getpid()):
            found.append(said.replace(b"\0", b" ").decode(errors="replace")[:200])
    return found


def mounts() -> set[str]:
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def groups_of(pid: int) -> list[Path]:
    """Control groups that a simulation of this process has made."""
    return [group for tree in cgroups.hierarchies() for group in tree.parent.glob(f"{NAME}-{pid}-*")]
