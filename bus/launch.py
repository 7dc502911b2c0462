"""Run a command that ends when its parent does: `python -I -S launch.py PARENT_PID COMMAND...`.

The request to be told of the parent's death survives exec, so the command needs no knowledge of it. Done by the child
itself, because code between fork and exec of a process with threads can deadlock.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent = int(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) != 0:
        sys.exit(f"can't tie the process to its parent: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died before we asked
        sys.exit("the parent is gone")
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - an argv list, no shell


if __name__ == "__main__":
    main()
