"""A service that leaks, for `ansai simulate run memory-leak`.

    python leaking.py BASE BYTES FILE

It holds BASE bytes, and BYTES more with each second: what serving leaves behind. SIGUSR1 makes it drop its garbage, of
which there is little. A run that finds FILE leaks no more: what made the first one leak is gone with it.
"""

import mmap
import signal
import sys
import time
from pathlib import Path

STEP = 0.1
"""Seconds."""
GARBAGE = 12
"""One in so many pieces is garbage."""


def piece(size: int) -> mmap.mmap:
    """Memory of its own, which the kernel gets back when it is dropped; written to, so that it counts."""
    held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held.write(b"\1" * size)
    return held


def main(base: int, rate: int, file: Path) -> None:
    kept, garbage = [piece(base)], [piece(mmap.PAGESIZE)]
    signal.signal(signal.SIGUSR1, lambda *_: garbage.clear())
    leaks = not file.exists()
    file.touch()
    began, number = time.monotonic(), 0
    while True:
        time.sleep(STEP)
        while leaks and number < (time.monotonic() - began) / STEP:
            number += 1
            (kept if number % GARBAGE else garbage).append(piece(int(rate * STEP)))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
