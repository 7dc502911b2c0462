"""A Python beside the systemd of a test, in its namespaces, in which calls are made as they are made on a host."""

import pickle
import subprocess
import sys
import threading
from typing import Any

from tests.systemd import Machine

_END = 60  # seconds

_ANSWERS = """
import pickle, sys

while True:
    try:
        request = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    try:
        answer = called(*request)
    except Exception as error:
        answer = error
    pickle.dump(answer, sys.stdout.buffer)
    sys.stdout.buffer.flush()
"""


class Beside:
    """One process for any number of calls, one at a time, from any thread."""

    def __init__(self, machine: Machine, program: str) -> None:
        """*program* is Python that defines `called`, which gets what `call` is given."""
        argv = machine.argv(sys.executable, "-c", program + _ANSWERS)
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._one_at_a_time = threading.Lock()

    def call(self, *request: object) -> Any:
        """The answer; what is raised there is raised here."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._one_at_a_time:
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()
            answer = pickle.load(self._process.stdout)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(_END) == 0
