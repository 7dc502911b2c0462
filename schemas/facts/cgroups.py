"""Memory as the kernel accounts it: of the host, and of control groups, version 1 or 2."""

from pydantic import Field

from schemas.facts.files import Fact
from schemas.text import PathText

STRANGLED = 40.0
"""Percent of the last minute in which all tasks of a group waited for memory: what slows it then does more harm than
good."""

PRESSING = 0.98
"""Of its high: what is reclaimed when that is exceeded leaves a group this near below it."""


class Pressure(Fact):
    """Pressure stall information: the share of time in which tasks waited for memory, in percent."""

    some10: float = 0.0
    some60: float = 0.0
    full10: float = 0.0
    full60: float = 0.0


class ControlGroupMemory(Fact):
    """One control group with all below it; bytes. None: this kernel does not tell."""

    path: PathText
    """below the root of the hierarchy, `/system.slice/app.service`"""
    version: int
    """1 or 2"""
    usage: int
    """memory.current or memory.usage_in_bytes: page cache included"""
    working_set: int
    """usage without the inactive file cache, which goes for the asking; no less than anonymous memory"""
    anonymous: int
    file: int = 0
    """page cache without shared memory"""
    shared: int = 0
    """shmem: files in tmpfs count here"""
    swap: int = 0
    swap_limit: int | None = None
    """the smallest on the path to the root; none in version 1, where only the sum with memory has one"""
    unreclaimable: int = 0
    """kernel slab that no pressure frees"""
    limit: int | None = None
    """the smallest maximum on the path to the root"""
    limit_at: PathText = ""
    """whose that is; empty when it is set above all that can be seen from here"""
    maximum: int | None = None
    """this group's own"""
    high: int | None = None
    """this group's own; version 2 only"""
    high_events: int | None = None
    """how often it was throttled for its own `high`"""
    out_of_memory_kills: int | None = None
    """in it and below; version 1 forgets those of groups that are gone"""
    failures: int | None = None
    """how often its own maximum was met (memory.events.local max, memory.failcnt with memory.memsw.failcnt)"""
    pressure: Pressure | None = None
    processes: tuple[int, ...] = ()
    """process ids in it and below"""

    @property
    def held(self) -> int:
        """What a leak makes grow, whatever the page cache does: anonymous, shared, swapped, and kernel memory."""
        return self.anonymous + self.shared + self.swap + self.unreclaimable

    def strangled(self, ease: float = 1.0) -> bool:
        """Whether its own high keeps it from doing anything but wait for memory; with *ease*, nearly."""
        if self.high is None or self.pressure is None or self.usage < self.high * PRESSING / ease:
            return False
        return self.pressure.full60 > STRANGLED / ease


class HostMemory(Fact):
    """/proc/meminfo, /proc/pressure/memory and /proc/vmstat; bytes."""

    total: int
    available: int
    swap_total: int = 0
    swap_free: int = 0
    anonymous: int = 0
    shared: int = 0
    unreclaimable: int = 0
    """SUnreclaim: kernel memory, with no service to blame"""
    pressure: Pressure | None = None
    """None: the kernel has no pressure stall information"""
    out_of_memory_kills: int | None = Field(None, description="Since boot.")
