"""The service manager that these tests use is the machine's own: PID 1, with control groups of version 2."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.adapters.cgroups import ControlGroups
from schemas.facts.cgroups import ControlGroupMemory
from tests import cgroups
from tests.kernel.guest import SWAP
from tests.kernel.inside.services import LEAKING
from tests.systemd import Machine


class OwnMachine(Machine):
    """The one that we run in."""

    def start(self) -> None:
        self.pid = 1
        self._groups = [(hierarchy, hierarchy.point) for hierarchy in cgroups.hierarchies()]
        self._at_start, self._files_at_start = self._loaded(), self._written()


@pytest.fixture(scope="session")
def systemd_machine() -> OwnMachine:
    machine = OwnMachine(Path("/"))
    machine.start()
    return machine


@pytest.fixture
def memory(machine: Machine) -> Callable[[str], ControlGroupMemory]:
    """What the adapter reads of a unit's control group."""
    return lambda unit: ControlGroups().control_group(f"/system.slice/{unit}")


@pytest.fixture
def swap() -> Iterator[None]:
    """Ask for it before what is swapped: it is taken away when that has gone."""
    subprocess.run(["swapon", SWAP], check=True)
    yield
    if SWAP in Path("/proc/swaps").read_text():  # to systemd it is a unit that began in the test, and ends with it
        subprocess.run(["swapoff", SWAP], check=True)


@pytest.fixture
def leak(memory_cgroup: cgroups.MemoryCgroup) -> Iterator[Callable[..., None]]:
    """leak(limit): the leaking program in the test's group."""
    started: list[subprocess.Popen[bytes]] = []

    def start(limit: int) -> None:
        options = (f"--rate={64 << 20}", "--shape=linear", f"--limit={limit}")
        started.append(memory_cgroup.start(sys.executable, LEAKING, *options))

    yield start
    for process in started:
        process.kill()
        process.wait()
