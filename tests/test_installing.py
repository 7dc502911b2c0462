"""The installer around apt: when it may, and that services' policy is afterwards what it was."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.components import Component
from tests.installing import FORBID, no_services

TOP = Path(__file__).parents[1]

KILLED = """
import os, signal, sys
from pathlib import Path
from tests.installing import no_services
with no_services(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""

RUN = """
import sys
from pathlib import Path
from tests import installing
from tests.components import Component
installing.POLICY = Path(sys.argv[1])
sys.exit(installing.install([Component("moonlight", "night", lambda: "gone", ("moon", "sky"))]))
"""

APT = """#!/bin/sh
echo "$@" >>"$RECORD"
cp -p "$POLICY" "$RECORD.policy"
trap 'echo interrupted >>"$RECORD"; exit 100' INT
case "$*" in *install*) if [ -n "${SLOW:-}" ]; then touch "$RECORD.waits"; while :; do sleep 0.05; done; fi ;; esac
"""


class World:
    """A folder with a policy file, and an apt-get that records what it was asked and which policy held."""

    def __init__(self, folder: Path) -> None:
        self.policy = folder / "policy-rc.d"
        self.record = folder / "record"
        self._environment = {
            **{name: value for name, value in os.environ.items() if name not in ("CI", "ANSAI_TEST_INSTALL")},
            "PATH": f"{folder}:{os.environ['PATH']}", "RECORD": str(self.record), "POLICY": str(self.policy),
        }  # fmt: skip
        (folder / "apt-get").write_text(APT)
        (folder / "apt-get").chmod(0o755)

    def start(self, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", RUN, self.policy], cwd=TOP, env=self._environment | environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def install(self, **environment: str) -> tuple[int, str]:
        process = self.start(**environment)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said

    def start_and_wait_in_apt(self) -> subprocess.Popen[str]:
        process = self.start(CI="true", SLOW="yes")
        deadline = time.monotonic() + 60
        while not self.record.with_suffix(".waits").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return process

    @property
    def asked(self) -> list[str]:
        return self.record.read_text().splitlines() if self.record.exists() else []


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def looks(path: Path) -> tuple[object, ...]:
    """What an administrator could tell apart."""
    status = path.lstat()
    return status.st_ino, status.st_mode, status.st_uid, status.st_mtime_ns, path.read_bytes()


@pytest.mark.needs("root")
@pytest.mark.parametrize("consent", [{"CI": "true"}, {"ANSAI_TEST_INSTALL": "1"}])
def test_packages_are_installed_while_no_service_may_start(world: World, consent: dict[str, str]):
    assert world.install(**consent)[0] == 0

    assert [line.split()[6:] for line in world.asked] == [
        ["update"],
        ["install", "--yes", "--no-install-recommends", "moon", "sky"],
    ]
    policy = world.record.with_suffix(".policy")
    assert subprocess.run([policy], check=False).returncode == 101
    assert not world.policy.exists()


@pytest.mark.needs("root")
def test_without_consent_and_without_a_terminal_nothing_is_installed(world: World):
    code, said = world.install()

    assert code == 0
    assert world.asked == []
    assert "ANSAI_TEST_INSTALL=1 installs them, or: apt-get install moon sky" in said


@pytest.mark.needs("root")
@pytest.mark.parametrize(("answer", "installs"), [(b"y\n", True), (b"yes\n", True), (b"\n", False), (b"n\n", False)])
def test_at_a_terminal_it_asks(world: World, answer: bytes, installs: bool):
    ours, theirs = os.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, world.policy], cwd=TOP, env=world._environment,
            stdin=theirs, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        os.write(ours, answer)
        assert process.wait(timeout=60) == 0
    finally:
        os.close(ours)
        os.close(theirs)

    assert bool(world.asked) is installs


@pytest.mark.needs("root")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_ends_apt_and_leaves_the_policy_as_it_was(world: World, number: signal.Signals):
    world.policy.write_text("#!/bin/sh\nexit 0\n")
    world.policy.chmod(0o750)
    before = looks(world.policy)
    process = world.start_and_wait_in_apt()

    process.send_signal(number)
    process.communicate(timeout=60)

    assert process.returncode == 130
    assert world.asked[-1] == "interrupted"
    assert looks(world.policy) == before


@pytest.mark.parametrize("existed", [True, False])
def test_the_next_run_puts_back_what_a_killed_one_left(world: World, existed: bool, tmp_path: Path):
    if existed:
        world.policy.write_text("#!/bin/sh\nexit 0\n")
        before = looks(world.policy)
    killed = subprocess.run([sys.executable, "-c", KILLED, world.policy], cwd=TOP, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert world.policy.read_text() == FORBID

    with no_services(world.policy):
        assert world.policy.read_text() == FORBID

    assert looks(world.policy) == before if existed else not world.policy.exists()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith("-for-ansai-tests")]


def test_a_link_stays_a_link(world: World, tmp_path: Path):
    world.policy.symlink_to(tmp_path / "elsewhere")

    with no_services(world.policy):
        assert world.policy.read_text() == FORBID

    assert world.policy.readlink() == tmp_path / "elsewhere"
    assert not (tmp_path / "elsewhere").exists()


def test_nothing_is_asked_when_apt_can_bring_nothing():
    from tests.installing import install

    assert install([Component("moonlight", "night", lambda: "gone", otherwise="wait")]) == 0
