"""Units of services that leak in a known way."""

import shlex
import sys
from pathlib import Path

MIB = 1 << 20
LEAKING = Path(__file__).parents[2] / "programs" / "leaking.py"


def service(command: str, more: str = "") -> str:
    """Without swap, so that a limit is met by what is held."""
    return f"[Service]\nExecStart={command}\nMemorySwapMax=0\n{more}"


def leaking(**options: object) -> str:
    """The command, 64 MiB a second unless *options* of the program say otherwise."""
    given = {"rate": 64 * MIB, "shape": "linear"} | options
    return shlex.join([sys.executable, str(LEAKING), *(f"--{name}={value}" for name, value in given.items())])


def waiting_for(file: Path, command: str) -> str:
    """The *command* once *file* is there, in a shell that stays when it ends, and afterwards."""
    script = f"until test -e {file}; do sleep 0.1; done; {command}; sleep 1000"
    return f"/bin/sh -c {shlex.quote(script)}"
