"""Cleans up after a scenario, however that ended: a process of its own, which outlives even a killed command.

    python -m infra.simulate.keeper PID

It makes a directory, prints its path, and waits for its input to end, which it does with the process PID at the latest.
Then it ends what is left in that process's control groups, and removes these and the directory.
"""

import os
import shutil
import sys
import tempfile

from infra.simulate import groups

NAME = "ansai-simulate"
"""What a scenario makes on this machine is called so."""
SHOW_CURSOR = "\033[?25h"
"""DECTCEM, ECMA-48 private mode 25; a display that was killed leaves it hidden."""


def main(pid: int) -> None:
    directory = tempfile.mkdtemp(prefix=f"{NAME}-")
    try:
        os.write(sys.stdout.fileno(), os.fsencode(directory) + b"\n")
        while os.read(sys.stdin.fileno(), 1):
            pass
        for group in groups.made_by(pid, NAME):
            groups.end(group)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if os.isatty(sys.stderr.fileno()):
        os.write(sys.stderr.fileno(), SHOW_CURSOR.encode())


if __name__ == "__main__":
    main(int(sys.argv[1]))
