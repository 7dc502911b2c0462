"""Processes, what they hold of the memory, and who listens on a port."""

from collections.abc import Collection
from hashlib import sha256

from schemas.facts.files import Fact
from schemas.text import PathText, Text


class ProcessIdentity(Fact):
    """One process and no later one with the same number."""

    pid: int
    started: int
    """clock ticks after boot: field 22 of /proc/<pid>/stat"""
    command: Text = ""
    """its arguments, shortened, without those that look like secrets"""


LONGEST_INSTANCE = 128
"""Characters; a longer name of a run is hashed."""


def instance_of(processes: Collection[ProcessIdentity]) -> str:
    """One run of the service that *processes* make up: `pid@started` of the oldest, of all that are as old.

    The others come and go, as the workers of a pool do. Empty for none. Pure.
    """
    oldest = min((process.started for process in processes), default=0)
    pids = sorted(process.pid for process in processes if process.started == oldest)
    name = ",".join(f"{pid}@{oldest}" for pid in pids)
    return name if len(name) <= LONGEST_INSTANCE else sha256(name.encode()).hexdigest()


class ProcessMemory(Fact):
    identity: ProcessIdentity
    user: int
    """effective user id"""
    memory: int
    """bytes: anonymous PSS and swapped PSS where those can be read, else resident set without shared pages"""
    exact: bool = True
    """from smaps_rollup; else from statm"""
    cgroup: PathText = ""
    """path below the hierarchy that carries memory"""
    threads: int = 0
    descriptors: int | None = None
    """open ones; none when that can't be read"""


class MemoryMapping(Fact):
    """One region of a process, grouped by what backs it."""

    pid: int
    name: PathText
    """a file's path, `[heap]`, `[stack]`, `[anon]`, …"""
    memory: int
    """bytes, PSS with swapped PSS"""


class Listener(Fact):
    """A socket that waits for connections, and the processes that hold it."""

    protocol: str
    """tcp or unix"""
    address: PathText
    """`127.0.0.1:80`, `[::]:80`, or the path of a unix socket"""
    port: int | None = None
    holders: tuple[ProcessIdentity, ...] = ()
    cgroups: tuple[PathText, ...] = ()
    """of the holders, in their order"""
