"""A real systemd of a test's own, where PID 1 is something else: the service manager of a small machine.

It has namespaces of its own for processes, mounts, host name, messages and control groups; the network is the
machine's, so that a bus on loopback is reached. /run, /tmp, /dev and /etc/systemd are fresh, what is written to /etc
and /var goes away with it, the rest of the root file system is read-only, but for the checkout, the Python environment
and the directories that a test shares. Its units are the installed ones, of which none but the sockets of the journal
and of D-Bus start, and those that tests write. Several can run at once. Ended by the PID of its systemd, with all that
it started.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests import cgroups, components

_READY = 60  # seconds
_PATIENCE = 120  # seconds that a command inside may take; a unit's own stop takes 90 at most
_TOP = Path(__file__).parents[1]
_SCRIPT = Path(__file__).parent / "programs" / "systemd_machine.sh"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_UNITS = "/run/systemd/system"
_WRITTEN = (_UNITS, "/run/systemd/system.control", "/run/systemd/transient", "/etc/systemd/system")
"""Where units, drop-ins and masks come to be (systemd.unit(5))."""
_STAYING = {"systemd-journald.service", "dbus.service"}
"""Started when they are first spoken to; a test must not find them gone or in their start limit."""

Finished = subprocess.CompletedProcess[str]


class Machine:
    """A running systemd, and what tests do with it."""

    def __init__(self, directory: Path, shared: Sequence[Path] = ()) -> None:
        self.directory = directory
        self._shared = shared
        self._process: subprocess.Popen[bytes] | None = None
        self._groups: list[tuple[cgroups.Hierarchy, Path]] = []
        self._at_start: set[str] = set()
        self._files_at_start: set[Path] = set()
        self.pid = 0
        """of its systemd, as it is outside"""

    # ── start and stop ────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        for hierarchy in cgroups.hierarchies():
            self._groups.append((hierarchy, cgroups.make(hierarchy)))
        lines = [f"{tree.type} {tree.options} {tree.point} {group}\n" for tree, group in self._groups]
        (self.directory / "cgroups").write_text("".join(lines))
        shared = dict.fromkeys(path.resolve() for path in (_TOP, Path(sys.prefix), *self._shared))
        (self.directory / "shared").write_text("".join(f"{path}\n" for path in shared))
        namespaces = ["--fork", "--kill-child", "--pid", "--mount", "--uts", "--ipc"]
        with (self.directory / "unshare-log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, "sh", _SCRIPT, "enter", self.directory],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                start_new_session=True,  # Ctrl-C at the tests would be Ctrl-Alt-Del to it
                env={"PATH": _PATH},
            )  # fmt: skip
        assert self._process.stdout is not None
        with self._process.stdout as said:
            self.pid = int(said.readline() or 0)
        self._wait_until_running()
        self._at_start, self._files_at_start = self._loaded(), self._written()

    def _wait_until_running(self) -> None:
        deadline = time.monotonic() + _READY
        while (state := self._state()) != "running":
            assert state != "degraded", self.run("systemctl", "list-units", "--failed", check=False).stdout
            assert time.monotonic() < deadline, f"{state} after {_READY} s: {self._log()}"
            time.sleep(0.02)

    def _state(self) -> str:
        assert self._process is not None
        assert self._process.poll() is None, f"ended with {self._process.returncode}: {self._log()}"
        return self.run("systemctl", "is-system-running", check=False).stdout.strip()

    def _log(self) -> str:
        logs = [path for path in (self.directory / "unshare-log", self.directory / "log") if path.exists()]
        return "".join(path.read_text(errors="replace")[-3000:] for path in logs)

    def stop(self) -> None:
        """At once, as when the power goes: the kernel ends all processes with it, and their mounts go with them."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:  # else its systemd is gone, and the number may be another's
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid or process.pid, signal.SIGKILL)
            process.wait()
        for _, group in self._groups:
            cgroups.remove(group)
        self._groups = []

    # ── programs inside ───────────────────────────────────────────────────────────────────────────────────────────

    def argv(self, *command: str | Path) -> list[str]:
        """Runs *command* inside, in /, with the caller's environment; it gets SIGTERM when this ends, however."""
        enter = ["nsenter", "-t", str(self.pid), "-p", "-m", "-u", "-i", "-C", "-r", "-w"]
        return [*enter, "--", "setpriv", "--pdeathsig", "TERM", *map(str, command)]

    def run(self, *command: str | Path, check: bool = True) -> Finished:
        done = subprocess.run(
            self.argv(*command), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE,
            check=False, env={**os.environ, "PATH": _PATH, "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"},
        )  # fmt: skip
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
        file = self.path(f"{_UNITS}/{name}")
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
