"""The unit: one `Collector` value says what is read, how it is judged, and what is remembered in between."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from schemas.health import Health
from schemas.probes import ProbeError, Probes


class Paced(Protocol):
    """A settings section that says how often its collectors look."""

    @property
    def every(self) -> timedelta:
        """Between the starts of two reads."""
        ...

    @property
    def steady_every(self) -> timedelta:
        """Between two events of a target whose level stays."""
        ...

    @property
    def read_timeout(self) -> timedelta:
        """A read that takes longer is told as unknown."""
        ...


class Memory(BaseModel):
    """What a collector knows from one read to the next, restarts included; a subclass has defaults for all."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


Section = TypeVar("Section", bound=Paced)
Reading = TypeVar("Reading")
Kept = TypeVar("Kept", bound=Memory)
Found = TypeVar("Found")


@dataclass(frozen=True)
class Aside(Generic[Section, Kept, Found]):
    """A dear read that must not hold up the cheap one: in a thread of its own, its answer is used when it comes."""

    due: Callable[[Section, Kept, datetime], bool]
    """pure"""
    read: Callable[[Section, Probes], Found]
    """blocks; raises ProbeError"""
    absorb: Callable[[Kept, Found | ProbeError, datetime], Kept]
    """pure; remembers the answer, or why there is none"""
    timeout: timedelta


@dataclass(frozen=True)
class Collector(Generic[Section, Reading, Kept]):
    """One signal of one domain. Only `read` and `aside.read` touch the machine."""

    name: str
    title: str
    section_name: str
    section: type[Section]
    health: type[Health]
    memory: type[Kept]
    read: Callable[[Section, Probes, Kept], Reading]
    """blocks; raises ProbeError when nothing can be said at all"""
    judge: Callable[[Section, Reading, Kept, datetime], tuple[list[Health], Kept]]
    """pure; an event for every target, the healthy ones too. `previous`, `since` and `dropped` are filled in later."""
    unknown: Callable[[Kept, str, str, datetime], Health]
    """pure; the event that says why a target is unknown now: (memory, target, reason, now)"""
    aside: Aside[Section, Kept, Any] | None = None

    @property
    def own_target(self) -> str:
        """Stands for the targets while none is known."""
        return f"collector:{self.name}"


AnyCollector = Collector[Any, Any, Any]
