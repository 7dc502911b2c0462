"""Real faults that are made for show are healed, and nothing of them is left, however the command ends."""

import asyncio
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests import components
from tests.e2e.conftest import REPOSITORY, clean_environment
from tests.e2e.traces import groups_of, mounts, processes_that_name
from tests.waiting import until

NOBODY = 65534
PATIENCE = 120
"""Seconds for a whole scenario; the longest takes thirty."""
OWN_SYSTEMD = ("root", "mounts", "unshare", "nsenter", "setpriv", "cgroups", "systemd", "nats-server")


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A home below /tmp for a user who can't look into pytest's directories, and for what a simulation makes there."""
    directory = Path(tempfile.mkdtemp(prefix="ansai-home-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@pytest.fixture(params=["root", "nobody"])
def user(request: pytest.FixtureRequest, everybodys: Path) -> list[str]:
    """How to become the user that runs it."""
    components.need("root", "mounts", "unshare", "nats-server", "apt-get")
    return [] if request.param == "root" else ordinary(everybodys)


def ordinary(home: Path) -> list[str]:
    """How to become an ordinary user, whose *home* is his then."""
    os.chown(home, NOBODY, NOBODY)
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return [*in_sight(home, Path(sys.base_prefix), Path(sys.prefix), REPOSITORY), *become]


def in_sight(stage: Path, *needed: Path) -> list[str]:
    """How to see *needed* as an ordinary user, also where root's tests run below a directory that only root may enter.

    In a mount namespace of its own each such directory is covered by one that holds nothing but what is needed.
    """
    script = []
    for number, hidden in enumerate(sorted({hidden for path in needed if (hidden := closed_above(path))})):
        behind = stage / f"behind-{number}"
        script += [["mkdir", behind], ["mount", "--rbind", hidden, behind]]
        script += [["mount", "-t", "tmpfs", "-o", "mode=755", "none", hidden]]
        for path in needed:
            if path.is_relative_to(hidden):
                script += [["mkdir", "-p", path], ["mount", "--rbind", behind / path.relative_to(hidden), path]]
        script += [["umount", "--lazy", behind], ["rmdir", behind]]
    commands = "\n".join(shlex.join(map(str, command)) for command in script)
    return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{commands}\nexec "$@"', "sh"]


def closed_above(path: Path) -> Path | None:
    """The uppermost directory on the way to *path* that others may not enter."""
    return next((above for above in reversed(path.parents) if not above.stat().st_mode & 0o001), None)


class Simulation:
    """One that runs, or has run; all that it makes for itself lies in *home*."""

    def __init__(self, process: asyncio.subprocess.Process, home: Path) -> None:
        self.process = process
        self._home = home
        self._mounts = mounts()

    @property
    def said(self) -> str:
        return (self._home / "output").read_text(errors="replace")

    async def says(self, words: str) -> None:
        def said() -> bool:
            assert self.process.returncode is None or words in self.said, self.said
            return words in self.said

        await until(said, lambda: self.said)

    async def end(self) -> int:
        try:
            async with asyncio.timeout(PATIENCE):
                return await self.process.wait()
        finally:
            if self.process.returncode is None:
                self.process.kill()
                await self.process.wait()

    def left(self) -> list[object]:
        # Others may mount meanwhile; what a simulation mounts is named after it, or lies over /mnt.
        mounted = [
            each for each in mounts() - self._mounts
            if each == "/mnt" or str(self._home) in each or "ansai-simulate" in each
        ]  # fmt: skip
        directories = [path for path in self._home.iterdir() if path.name.startswith("ansai-")]
        return [*processes_that_name(str(self._home)), *mounted, *directories, *groups_of(self.process.pid)]


async def simulate(name: str, home: Path, user: Sequence[str] = ()) -> Simulation:
    with (home / "output").open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *user, sys.executable, "-m", "infra.cli.main", "simulate", "run", name, cwd=home,
            env=clean_environment(home) | {"TMPDIR": str(home), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL, stdout=file, stderr=file,
        )  # fmt: skip
    return Simulation(process, home)


# ── disk-full ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_full_disk_is_healed_for_root_and_for_an_ordinary_user(user: list[str], everybodys: Path):
    simulation = await simulate("disk-full", everybodys, user)

    assert await simulation.end() == 0, simulation.said

    assert "healed: what may go went, the rest is where it was" in simulation.said
    for part in ("opened", "planned", "acting", "acted", "healed", "shipped: dry_run"):
        assert part in simulation.said
    assert simulation.left() == []


async def test_a_full_disk_that_is_stopped_half_way_leaves_nothing_either(user: list[str], everybodys: Path):
    simulation = await simulate("disk-full", everybodys, user)
    await simulation.says("what happens")

    simulation.process.send_signal(signal.SIGTERM)

    assert await simulation.end() == 1
    assert "Traceback" not in simulation.said
    assert simulation.left() == []


async def test_nor_does_one_that_is_killed(user: list[str], everybodys: Path):
    simulation = await simulate("disk-full", everybodys, user)
    await simulation.says("what happens")

    simulation.process.kill()

    assert await simulation.end() == -signal.SIGKILL
    await until(lambda: not simulation.left(), simulation.left)


# ── memory-leak ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.needs(*OWN_SYSTEMD, "memory limit")
async def test_a_leaking_service_is_restarted_before_the_kernel_kills_it(everybodys: Path):
    simulation = await simulate("memory-leak", everybodys)

    assert await simulation.end() == 0, simulation.said

    assert simulation.said.startswith("The clock runs 120 × as fast.")
    story = ("samples are too few to tell a leak", "planned", "collect garbage", "Restart shop.service", "verified",
             "is healthy", "watched, whether it grows again: 15 of 15 min", "ineffective", "WHOLE.")  # fmt: skip
    places = [simulation.said.find(part) for part in story]
    assert -1 not in places, simulation.said
    assert places == sorted(places), simulation.said
    assert "shop.service is active, and the kernel killed 0 of its processes" in simulation.said
    assert simulation.left() == []


@pytest.mark.needs(*OWN_SYSTEMD, "memory limit")
async def test_a_leak_that_is_interrupted_leaves_nothing(everybodys: Path):
    simulation = await simulate("memory-leak", everybodys)
    await simulation.says("too few to tell a leak")
    assert groups_of(simulation.process.pid)

    simulation.process.send_signal(signal.SIGINT)

    assert await simulation.end() == 1
    assert "Traceback" not in simulation.said
    assert simulation.left() == []


# ── service-crash ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.needs(*OWN_SYSTEMD)
async def test_a_service_that_crashed_runs_again_and_one_that_was_stopped_does_not(everybodys: Path):
    simulation = await simulate("service-crash", everybodys)

    assert await simulation.end() == 0, simulation.said

    story = ("kill --signal=SEGV shop.service", "stop payroll.service", "ended by SIGSEGV", "/run/shop.pid: done",
             "it is active", "unit:shop.service is healthy", "WHOLE.",
             "shop.service is active, payroll.service is inactive")  # fmt: skip
    places = [simulation.said.find(part) for part in story]
    assert -1 not in places, simulation.said
    assert places == sorted(places), simulation.said
    assert "Start payroll.service" not in simulation.said
    assert simulation.left() == []


@pytest.mark.needs(*OWN_SYSTEMD)
async def test_a_command_that_is_killed_leaves_no_systemd_and_no_control_group(everybodys: Path):
    simulation = await simulate("service-crash", everybodys)
    await simulation.says("shop.service runs")
    assert groups_of(simulation.process.pid)

    simulation.process.kill()

    assert await simulation.end() == -signal.SIGKILL
    await until(lambda: not simulation.left(), simulation.left)


@pytest.mark.parametrize("name", ["memory-leak", "service-crash"])
async def test_who_may_not_start_a_systemd_is_told_so_in_one_line(name: str, everybodys: Path):
    components.need("root", "mounts", "unshare", "setpriv")
    simulation = await simulate(name, everybodys, ordinary(everybodys))

    assert await simulation.end() == 1

    assert simulation.said == ("ansai: this scenario needs root, for namespaces and control groups; run it with sudo\n")
    assert simulation.left() == []
