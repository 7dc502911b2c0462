"""A program whose memory grows in a known way, for tests of what watches and heals it. It prints nothing.

    python tests/programs/leaking.py --rate BYTES --shape SHAPE [--seed N] [--limit BYTES] [--leak BYTES]
                                     [--period SECONDS] [--collectable SHARE] [--directory DIRECTORY]

All memory is written to, so that it counts. A rate is bytes a second; growth comes in steps that vary by half of it
around that rate, the same for the same seed. A shape says what is held after t seconds:

    linear      rate × t, up to the limit: a leak
    sawtooth    rate × t, up to the limit, dropped every period: a healthy program that collects its garbage
    warmup      limit × (1 − e^(−rate × t / limit)): caches that fill; it starts with the rate
    plateau     as linear, in small objects, of which one in 512 stays at the limit: the memory that an allocator keeps
    shmem       as linear, in shared memory
    pagecache   as linear, in pages of a file in DIRECTORY, which has no name and goes with the program

--leak adds a leak of so many bytes a second below a shape, without a limit. --collectable makes the program drop this
share of what its shape holds on SIGUSR1, as a collection would; without it SIGUSR1 ends the program, as it ends most.
"""

import argparse
import math
import mmap
import os
import random
import signal
import sys
import tempfile
import time
from types import FrameType
from typing import Protocol

_STEP = 0.02  # seconds between two looks at the clock
_SLICE = 1 << 20  # bytes written at once
_OBJECT = 512  # bytes of a small object; what is larger, Python's allocator hands on
_KEPT = 512  # one of so many small objects stays: more than one in each MiB, in which that allocator asks for memory

SHAPES = ("linear", "sawtooth", "warmup", "plateau", "shmem", "pagecache")


class Store(Protocol):
    """Memory of one kind."""

    def hold(self, size: int) -> None:
        """From now on *size* bytes, more or less than before."""


class Anonymous:
    def __init__(self) -> None:
        self._size = mmap.PAGESIZE  # less can't be mapped
        self._memory = mmap.mmap(-1, self._size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def hold(self, size: int) -> None:
        wanted = max(1, math.ceil(size / mmap.PAGESIZE)) * mmap.PAGESIZE
        if wanted == self._size:
            return
        self._memory.resize(wanted)
        for start in range(self._size, wanted, _SLICE):
            end = min(start + _SLICE, wanted)
            self._memory[start:end] = b"\1" * (end - start)
        self._size = wanted


class Pages:
    """Pages of a file: of one in memory they are shared memory, of one on a disk they are page cache."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = 0

    def hold(self, size: int) -> None:
        if size < self._size:
            os.ftruncate(self._descriptor, size)
            self._size = size
        while self._size < size:
            self._size += os.pwrite(self._descriptor, b"\1" * min(_SLICE, size - self._size), self._size)


class SmallObjects:
    """Of what is let go a few stay, one in each piece that the allocator got, so that it gives nothing back."""

    def __init__(self) -> None:
        self._objects: list[bytes] = []
        self._size = 0

    def hold(self, size: int) -> None:
        if size < self._size:
            self._objects = self._objects[::_KEPT]
            self._size = size
        more = (size - self._size) // _OBJECT
        self._objects += [bytes(_OBJECT - sys.getsizeof(b"")) for _ in range(more)]
        self._size += more * _OBJECT


def grown(shape: str, holds: float, more: float, limit: float) -> float:
    """What *shape*, which *holds* so many bytes, holds after a time in which its rate alone would add *more*."""
    if shape == "warmup":
        return limit - (limit - holds) * math.exp(-more / limit)
    return min(holds + more, limit)


class Program:
    """What is held is the shape's, and the leak."""

    def __init__(self, arguments: argparse.Namespace, store: Store) -> None:
        self._arguments = arguments
        self._store = store
        self._leaked = Anonymous()
        self._random = random.Random(arguments.seed)
        self._age = 0.0
        self._ended = False
        self.collection_wanted = False
        """set by the signal, and done at the next step: a step that is under way holds what it said"""
        self.holds = 0.0
        self.leaked = 0.0

    def step(self, seconds: float) -> None:
        arguments, part = self._arguments, seconds * self._random.uniform(0.5, 1.5)
        if self.collection_wanted:
            self.collection_wanted = False
            self.holds *= 1 - arguments.collectable
        self._age += seconds
        if arguments.shape == "sawtooth" and self._age >= arguments.period:
            self._age = self.holds = 0.0
        if not self._ended:
            self.holds = grown(arguments.shape, self.holds, arguments.rate * part, arguments.limit)
        self._store.hold(int(self.holds))
        if arguments.shape == "plateau" and self.holds >= arguments.limit:
            self._ended, self.holds = True, 0.0
        if arguments.leak:
            self.leaked += arguments.leak * part
            self._leaked.hold(int(self.leaked))

    def collect(self, _number: int, _frame: FrameType | None) -> None:
        self.collection_wanted = True


def store_of(arguments: argparse.Namespace) -> Store:
    if arguments.shape == "shmem":
        return Pages(os.memfd_create("leaking"))
    if arguments.shape == "pagecache":
        with tempfile.TemporaryFile(dir=arguments.directory) as file:
            return Pages(os.dup(file.fileno()))
    return SmallObjects() if arguments.shape == "plateau" else Anonymous()


def read(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=math.inf)
    parser.add_argument("--leak", type=float, default=0)
    parser.add_argument("--period", type=float, default=10)
    parser.add_argument("--collectable", type=float)
    parser.add_argument("--directory")
    found = parser.parse_args(arguments)
    if found.shape in ("warmup", "plateau", "pagecache") and found.limit == math.inf:
        parser.error(f"--shape {found.shape} needs --limit")
    if found.shape == "pagecache" and found.directory is None:
        parser.error("--shape pagecache needs --directory, on a disk")
    return found


def main() -> None:
    arguments = read()
    program = Program(arguments, store_of(arguments))
    if arguments.collectable is not None:
        signal.signal(signal.SIGUSR1, program.collect)
    last = time.monotonic()
    while True:
        time.sleep(_STEP)
        now = time.monotonic()
        program.step(now - last)
        last = now


if __name__ == "__main__":
    main()
