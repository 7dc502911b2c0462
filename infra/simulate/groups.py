"""Control groups of our own: trees of them that a service manager gets as if they were the machine's, v1 or v2.

In v1 they are made below the group that we run in, so that its limits go on to hold; in v2, where a group with
processes may not hand controllers on, below the root.
"""

import contextlib
import itertools
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_GONE = 20  # seconds until the kernel has let go of the last process
_numbers = itertools.count()


@dataclass(frozen=True)
class Hierarchy:
    """A mounted tree of control groups."""

    point: Path
    type: str
    """cgroup or cgroup2"""
    names: frozenset[str]
    """what it counts and limits: controllers, or `name=…` of one without"""
    parent: Path
    """the directory in which ours are made"""

    @property
    def options(self) -> str:
        """For another mount of it."""
        if self.type == "cgroup2":
            return "rw"
        return ",".join([*(["none"] if any("=" in name for name in self.names) else []), *sorted(self.names)])


def hierarchies(proc: Path = Path("/proc/self"), top: Path = Path("/sys/fs/cgroup")) -> list[Hierarchy]:
    """All that are mounted at *top*, from `mountinfo` (proc(5)) and `cgroup` (cgroups(7)) of the process *proc*."""
    groups = _groups(proc)
    found = []
    for line in (proc / "mountinfo").read_text().splitlines():
        place, _, filesystem = line.partition(" - ")
        root, point = place.split()[3:5]
        kind, _, options = filesystem.split()
        if not Path(point).is_relative_to(top):
            continue
        if kind == "cgroup2":
            found.append(Hierarchy(Path(point), kind, _handed_on(Path(point)), Path(point)))
        elif kind == "cgroup":
            names = frozenset(options.split(",")) & groups.keys()
            group = groups[min(names)]
            below = Path(group).relative_to(root) if Path(group).is_relative_to(root) else ""
            found.append(Hierarchy(Path(point), kind, names, Path(point) / below))
    return found


def _groups(proc: Path) -> dict[str, str]:
    """The group of a process, by the name of a v1 controller or hierarchy."""
    lines = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
    return {name: group for _, names, group in lines for name in names.split(",") if name}


def _handed_on(point: Path) -> frozenset[str]:
    try:
        return frozenset((point / "cgroup.subtree_control").read_text().split())
    except OSError:
        return frozenset()


def make(hierarchy: Hierarchy, name: str) -> Path:
    """A new, empty group, called *name*, our PID and a number. Those of processes that are gone are removed."""
    _remove_abandoned(hierarchy.parent, name)
    directory = hierarchy.parent / f"{name}-{os.getpid()}-{next(_numbers)}"
    directory.mkdir()
    for file in ("cpuset.cpus", "cpuset.mems"):  # in v1 empty, and then no process may enter
        if hierarchy.type == "cgroup" and (directory / file).exists():
            (directory / file).write_text((hierarchy.parent / file).read_text())
    return directory


def made_by(pid: int, name: str) -> list[Path]:
    """All groups called *name* that the process *pid* has made and not removed."""
    return [directory for tree in hierarchies() for directory in tree.parent.glob(f"{name}-{pid}-*")]


def remove(directory: Path) -> None:
    """The group and all below it, which have no processes, or dying ones. Raises TimeoutError when they stay."""
    deadline = time.monotonic() + _GONE
    while directory.exists():
        _remove_empty(directory)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{directory} can't be removed: it has {[*processes(directory)]}")
        time.sleep(0.005)


def end(directory: Path) -> None:
    """Kill what is inside, and remove it. Raises TimeoutError when it stays."""
    deadline = time.monotonic() + _GONE
    while (inside := [*processes(directory)]) and time.monotonic() < deadline:
        for pid in inside:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    remove(directory)


def _remove_empty(directory: Path) -> None:
    for top, _, _ in os.walk(directory, topdown=False):
        with contextlib.suppress(OSError):  # it has processes of somebody
            os.rmdir(top)


def _remove_abandoned(parent: Path, name: str) -> None:
    for directory in parent.glob(f"{name}-*"):
        match = re.fullmatch(rf"{re.escape(name)}-(\d+)-\d+", directory.name)
        if match and not Path("/proc", match[1]).exists():
            _remove_empty(directory)


def processes(directory: Path) -> Iterator[int]:
    """Those in the group, and below it."""
    for file in directory.rglob("cgroup.procs"):
        with contextlib.suppress(OSError):  # removed meanwhile
            yield from map(int, file.read_text().split())


def absence(name: str) -> str:
    """Why groups can't be made here, "" when they can: tried, with ones that nobody is in."""
    try:
        for hierarchy in hierarchies():
            remove(make(hierarchy, name))
    except OSError as error:
        return str(error)
    return "" if hierarchies() else "no cgroup hierarchy is mounted"
