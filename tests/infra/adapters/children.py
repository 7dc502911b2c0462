"""Real processes of a test's own."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Start = Callable[..., "subprocess.Popen[bytes]"]


@contextmanager
def children() -> Iterator[Start]:
    """start(code, *arguments): a Python program that has printed a line; ended with the test.

    It gets no signal for the end of those it forks: they print nothing, and end with their parent's standard input.
    """
    started: list[subprocess.Popen[bytes]] = []

    def start(code: str, *arguments: str, python: str | Path = sys.executable, **options: Any) -> Any:
        argv = [python, "-c", code, *arguments]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
        started.append(process)
        assert process.stdout is not None
        process.told = process.stdout.readline().decode().strip()  # type: ignore[attr-defined]
        assert process.told, f"it ended: {process.wait(30)}"  # type: ignore[attr-defined]
        return process

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.communicate()


IDLE = "import signal, time; print('ready', flush=True)\nwhile 1: time.sleep(0.05)"
"""Waits for a signal, of which it handles none. A handler that is put before it runs within those milliseconds."""

TOUCHY = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True)\nwhile 1: signal.pause()"
)
"""Does not end on SIGTERM."""
