"""Processes, what they hold of the memory, and who listens on a port."""

from pydantic import AwareDatetime

from schemas.facts.files import Fact
from schemas.text import PathText, Text


class ProcessIdentity(Fact):
    """One process and no later one with the same number."""

    pid: int
    started: int
    """clock ticks after boot: field 22 of /proc/<pid>/stat"""
    command: Text = ""
    """its arguments, shortened, without those that look like secrets"""


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


class ProcessGrowth(Fact):
    identity: ProcessIdentity
    memory: int
    """bytes"""
    grown: int
    """bytes, since it was looked at first"""
    since: AwareDatetime


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
