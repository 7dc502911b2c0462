"""A systemd of our own, beside whatever PID 1 is: the service manager of a small machine, whose services are real.

It has namespaces of its own for processes, mounts, host name, messages and control groups; the network is the
machine's, so that a bus on loopback is reached. /run, /tmp, /dev and /etc/systemd are fresh, what is written to /etc
and /var goes away with it, the rest of the root file system is read-only, but for our code, the Python environment and
the directories that are shared. Its units are the installed ones, of which none but the sockets of the journal and of
D-Bus start, and those that are written there. Several can run at once. Ended by the PID of its systemd, with all that
it started.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from infra.simulate import groups

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UNITS = "/run/systemd/system"
SYSTEMD = "/lib/systemd/systemd"
PROGRAMS = ("unshare", "nsenter", "setpriv")
_PATIENCE = 120  # seconds that a command inside may take; a unit's own stop takes 90 at most
_TOP = Path(__file__).parents[2]
_SCRIPT = Path(__file__).with_name("machine.sh")

Finished = subprocess.CompletedProcess[str]


def obstacle(name: str, controllers: Sequence[str] = ()) -> str:
    """Why no machine, or none with these *controllers*, can be started here, with what to do about it, as a clause.

    "" when one can, as far as is seen.
    """
    if os.geteuid() != 0:
        return "needs root, for namespaces and control groups; run it with sudo"
    if not Path(SYSTEMD).exists():
        return f"needs {SYSTEMD}; install it with: apt-get install systemd"
    for program in PROGRAMS:
        if shutil.which(program, path=PATH) is None:
            return f"needs {program}; install it with: apt-get install util-linux"
    why = groups.absence(name)
    if why:
        return f"needs /sys/fs/cgroup to be writable ({why}); in a container, run it with --privileged"
    handed_on = {each for tree in groups.hierarchies() for each in tree.names}
    missing = ", ".join(each for each in controllers if each not in handed_on)
    return f"needs control groups that count {missing}; see /sys/fs/cgroup/cgroup.subtree_control" if missing else ""


class OwnSystemd:
    """Launched, asked whether it is up, used and stopped. *directory* holds its log; *name* is that of its groups.

    The directories *shared* are the same, and writable, inside and outside.
    """

    def __init__(self, directory: Path, shared: Sequence[Path] = (), *, name: str) -> None:
        self.directory = directory
        self._shared = shared
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None
        self._groups: list[tuple[groups.Hierarchy, Path]] = []
        self.pid = 0
        """of its systemd, as it is outside"""

    def launch(self) -> None:
        """Start it; `state` then tells when it is up. Its processes end with the calling thread, however that ends.

        Raises OSError.
        """
        for hierarchy in groups.hierarchies():
            self._groups.append((hierarchy, groups.make(hierarchy, self._name)))
        lines = [f"{tree.type} {tree.options} {tree.point} {group}\n" for tree, group in self._groups]
        (self.directory / "cgroups").write_text("".join(lines))
        shared = {path.resolve(): None for path in (_TOP, Path(sys.prefix), *self._shared)}
        shared.pop(Path("/usr"), None)  # it is seen as it is, and its units must stay covered
        (self.directory / "shared").write_text("".join(f"{path}\n" for path in shared))
        namespaces = ["--fork", "--kill-child", "--pid", "--mount", "--uts", "--ipc"]
        with (self.directory / "unshare-log").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, "sh", _SCRIPT, "enter", self.directory],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                start_new_session=True,  # Ctrl-C at the terminal would be Ctrl-Alt-Del to it
                env={"PATH": PATH},
            )  # fmt: skip
        assert self._process.stdout is not None
        with self._process.stdout as said:
            self.pid = int(said.readline() or 0)

    def state(self) -> str:
        """`running`, `degraded` or, while it comes up, something else; "" when it has ended."""
        if self._process is None or self._process.poll() is not None:
            return ""
        return self.execute("systemctl", "is-system-running").stdout.strip() or "starting"

    def log(self) -> str:
        """What it said on its way up; only a systemd that didn't come up is worth a look at it."""
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
            groups.remove(group)
        self._groups = []

    def argv(self, *command: str | Path) -> list[str]:
        """Runs *command* inside, in /, with the caller's environment; it gets SIGTERM when this ends, however."""
        enter = ["nsenter", "-t", str(self.pid), "-p", "-m", "-u", "-i", "-C", "-r", "-w"]
        return [*enter, "--", "setpriv", "--pdeathsig", "TERM", *map(str, command)]

    def execute(self, *command: str | Path) -> Finished:
        """Run *command* inside to its end."""
        return subprocess.run(
            self.argv(*command), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE,
            check=False, env={**os.environ, "PATH": PATH, "SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"},
        )  # fmt: skip
