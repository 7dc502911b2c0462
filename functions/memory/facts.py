"""What the functions see of one service, and what they find when they look closer."""

from enum import StrEnum

from functions.core.shown import Shown
from schemas.facts.containers import Container
from schemas.facts.files import Fact
from schemas.facts.processes import MemoryMapping, ProcessIdentity, ProcessMemory
from schemas.facts.units import Unit
from schemas.health import Level
from schemas.remediation import Finding
from schemas.text import PathText, Text, show_path
from schemas.units import show_size


class State(StrEnum):
    """Whether a service runs."""

    RUNNING = "running"
    CHANGING = "changing"
    """it starts or stops this moment"""
    STOPPED = "stopped"
    FAILED = "failed"


class Seen(Fact):
    """One service as it is now; bytes."""

    state: State
    reason: Text = ""
    """why it does not run, and what a person could do"""
    level: Level = Level.UNKNOWN
    """as the collector said last of this very run"""
    instance: str = ""
    """which run; empty when none is"""
    held: int = 0
    """what no pressure frees"""
    working_set: int = 0
    limit: int | None = None
    """at which the kernel kills"""
    limit_at: PathText = ""
    """whose limit it is; `host` where only the machine's memory limits"""
    processes: tuple[int, ...] = ()

    def shown(self) -> Shown:
        """Against the limit counts what is in use, though only what is held can leak."""
        if self.state is not State.RUNNING:
            return Shown(self.level, figures=self.state.value, reason=True)
        if not self.limit:
            return Shown(self.level, figures=f"{show_size(self.working_set)}, no limit", reason=True)
        figures = f"{show_size(self.working_set)} of {show_size(self.limit)} ({show_path(self.limit_at)})"
        return Shown(self.level, 100 * self.working_set / self.limit, figures, reason=True)


class Replica(Fact):
    """Another service of the same group."""

    target: Text
    problem: Text = ""
    """why it can't carry on alone; empty when it can"""


class Dependant(Fact):
    """A unit that would restart together with another."""

    name: Text
    aliases: tuple[Text, ...] = ()
    busy: Text = ""
    """what it does that must not be cut off; empty when nothing"""


class Found(Fact):
    """What stands for and against doing something about a service, and the evidence that a restart would destroy."""

    instance: str = ""
    """of the moment when this was read"""
    unit: Unit | None = None
    container: Container | None = None
    ours: bool = False
    """we are one of its processes"""
    main: ProcessIdentity | None = None
    """who is asked to collect garbage"""
    handles: bool = True
    """whether that process has a handler for the configured signal"""
    check: Text = ""
    """what the configuration check found wrong, or why it could not be made"""
    dependants: tuple[Dependant, ...] = ()
    """of the unit, and theirs, as far as they run"""
    replicas: tuple[Replica, ...] = ()
    count: int = 0
    """of its processes"""
    processes: tuple[ProcessMemory, ...] = ()
    """the largest"""
    mappings: tuple[MemoryMapping, ...] = ()
    """the largest of the largest process"""
    findings: tuple[Finding, ...] = ()
    """what could not be looked at"""
