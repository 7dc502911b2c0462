"""A real systemd of a test's own, where PID 1 is something else; see `infra.simulate.machine`."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from infra.simulate.machine import UNITS, Finished, OwnSystemd
from tests import cgroups, components

_READY = 60  # seconds
_WRITTEN = (UNITS, "/run/systemd/system.control", "/run/systemd/transient", "/etc/systemd/system")
"""Where units, drop-ins and masks come to be (systemd.unit(5))."""
_STAYING = {"systemd-journald.service", "dbus.service"}
"""Started when they are first spoken to; a test must not find them gone or in their start limit."""


class Machine(OwnSystemd):
    """A running systemd, and what tests do with it."""

    def __init__(self, directory: Path, shared: Sequence[Path] = ()) -> None:
        super().__init__(directory, shared, name=cgroups.NAME)
        self._at_start: set[str] = set()
        self._files_at_start: set[Path] = set()

    def start(self) -> None:
        """Return when it is up."""
        self.launch()
        deadline = time.monotonic() + _READY
        while (state := self.state()) != "running":
            assert state, f"it ended: {self.log()}"
            assert state != "degraded", self.run("systemctl", "list-units", "--failed", check=False).stdout
            assert time.monotonic() < deadline, f"{state} after {_READY} s: {self.log()}"
            time.sleep(0.02)
        self._at_start, self._files_at_start = self._loaded(), self._written()

    # ── programs inside ───────────────────────────────────────────────────────────────────────────────────────────

    def run(self, *command: str | Path, check: bool = True) -> Finished:
        done = self.execute(*command)
        assert not check or done.returncode == 0, f"{command}: {done.returncode}: {done.stdout}{done.stderr}"
        return done

    async def systemctl(self, *arguments: str, check: bool = True) -> Finished:
        """Raises AssertionError when it fails and *check* is set."""
        return await asyncio.to_thread(self.run, "systemctl", *arguments, check=check)

    async def show(self, unit: str, *properties: str) -> dict[str, str]:
        """`systemctl show`, of some properties or all."""
        done = await self.systemctl("show", unit, *(f"--property={name}" for name in properties))
        return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)

    # ── files and units ───────────────────────────────────────────────────────────────────────────────────────────

    def path(self, inside: str) -> Path:
        """The file that is *inside* there, as it is reached from here."""
        return Path(f"/proc/{self.pid}/root{inside}")

    def cgroup(self, controller: str, group: str = "/") -> Path:
        """The directory, as it is here, of the *group* in `ControlGroup`. Raises KeyError when nothing controls it."""
        for hierarchy, directory in self._groups:
            if controller in hierarchy.names:
                return directory / group.lstrip("/")
        raise KeyError(controller)

    async def unit(self, name: str, text: str) -> None:
        """Write a unit, or, with a name like `x.service.d/y.conf`, a drop-in, and make systemd read it."""
        file = self.path(f"{UNITS}/{name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        await self.systemctl("daemon-reload")

    def clear(self) -> None:
        """Nothing is left of a test but what the journal tells: its units are ended, its settings taken back."""
        started = sorted(self._loaded() - self._at_start - _STAYING)
        if started:
            self.run("systemctl", "kill", "--signal=SIGKILL", *started, check=False)  # some have no processes
            self.run("systemctl", "stop", *started, check=False)  # some are gone by then
        for path in sorted(self._written() - self._files_at_start, reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        self.run("systemctl", "daemon-reload")
        self.run("systemctl", "reset-failed")

    def _loaded(self) -> set[str]:
        done = self.run("systemctl", "list-units", "--all", "--full", "--plain", "--no-legend")
        return {line.split()[0] for line in done.stdout.splitlines()}

    def _written(self) -> set[Path]:
        return {path for place in _WRITTEN for path in self.path(place).rglob("*")}


@contextmanager
def systemd(*shared: Path) -> Iterator[Machine]:
    """A machine that is up; the directories *shared* are the same, and writable, inside and outside.

    Its processes end with the thread that starts it, so start it in the main one.
    """
    components.need("root", "mounts", "unshare", "nsenter", "setpriv", "cgroups", "systemd")
    directory = Path(tempfile.mkdtemp(prefix="ansai-systemd-"))
    machine = Machine(directory, shared)
    try:
        machine.start()
        yield machine
    finally:
        machine.stop()
        shutil.rmtree(directory)
