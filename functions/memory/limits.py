"""How a service is held to its limits, and which of those of the settings are missing. Pure."""

import math
import mmap
from typing import NamedTuple

from functions.core.remedy import Case
from functions.core.shown import Shown
from functions.memory.facts import State
from schemas.facts.cgroups import STRANGLED
from schemas.facts.containers import Container
from schemas.facts.files import Fact
from schemas.facts.units import Unit
from schemas.health import Level
from schemas.memory import MemoryTrend
from schemas.remediation import Finding, Gap
from schemas.settings.memory import MemoryMonitoring
from schemas.text import PathText, Text, show_path
from schemas.units import show_size

UNIT = "limits"

MARGIN = 1.25
"""A limit is set to no less than this × the working set: below, the kernel would reclaim, then kill, at once."""

FLOOR_MARGIN = 1.1
"""… and to no less than this × the highest floor that the collector saw of this run."""

HEADROOM = 1.25
"""× MemoryHigh is the MemoryMax that goes with it, where the settings give none: what is slowed and can't be
reclaimed is neither killed nor of use, as long as nothing but MemoryHigh holds it."""

RELIEF = 0.1
"""Of MemoryHigh: so much free swap, or cache, must be there for the kernel to reclaim to."""

NEAR = 0.9
"""Of MemoryHigh: from here on it is watched whether it strangles."""


class LimitsSeen(Fact):
    """One service as it is now, with the limits that the kernel holds it to; bytes."""

    state: State
    reason: Text = ""
    """why it does not run, and what a person could do"""
    instance: str = ""
    """which run; empty when none is"""
    version: int = 2
    """of control groups"""
    usage: int = 0
    working_set: int = 0
    high: int | None = None
    maximum: int | None = None
    """its own; another one above may be smaller"""
    limit: int | None = None
    """the smallest maximum on the path to the root"""
    limit_at: PathText = ""
    high_events: int | None = None
    """how often it was slowed"""
    full60: float = 0.0
    """percent of the last minute in which all of its tasks waited for memory"""
    pressed: bool = False
    """its high keeps it from doing anything but that"""
    swap_free: int = 0
    """of the host"""

    @property
    def reclaimable(self) -> int:
        return max(0, self.usage - self.working_set)

    def shown(self) -> Shown:
        if self.state is not State.RUNNING:
            return Shown(figures=self.state.value, reason=True)
        if not self.maximum:
            return Shown(figures=f"{show_size(self.working_set)}, no limit of its own", reason=True)
        figures = f"{show_size(self.working_set)} of {show_size(self.maximum)}"
        return Shown(percent=100 * self.working_set / self.maximum, figures=figures, reason=True)


class LimitsFound(Fact):
    """Who holds the service to limits, the limits that were set there, and what speaks against others."""

    instance: str = ""
    """of the moment when this was read"""
    unit: Unit | None = None
    container: Container | None = None
    group: PathText = ""
    """the control group of matching processes"""
    manager: Text = ""
    """who manages that group; empty when nobody does"""
    strangers: int = 0
    """processes in that group that are not of the service"""
    ours: bool = False
    """we are one of its processes"""
    findings: tuple[Finding, ...] = ()
    """what could not be looked at"""


class Missing(NamedTuple):
    """What is to be set, in bytes; none for what stays as it is."""

    high: int | None = None
    maximum: int | None = None

    @property
    def amount(self) -> int:
        return sum(size is not None for size in self)


def missing(case: Case[MemoryMonitoring], seen: LimitsSeen) -> Missing:
    """The limits of the settings that the kernel does not hold the service to, without a high that can't be set now.

    A smaller limit than that of the settings holds it to theirs as well: nothing is ever raised.
    """
    wanted = case.settings.of(case.target)
    if wanted.high is None or _holds(wanted.high, seen.high) or no_high(case, seen):
        maximum = None if wanted.maximum is None or _holds(wanted.maximum, seen.maximum) else wanted.maximum
        return Missing(None, maximum)
    maximum = companion(wanted.high) if wanted.maximum is None else wanted.maximum
    return Missing(wanted.high, None if _holds(maximum, seen.maximum) else maximum)


def _holds(wanted: int, held: int | None) -> bool:
    """The kernel rounds a limit down to whole pages."""
    return held is not None and held <= wanted


def companion(high: int) -> int:
    """The maximum that goes with *high* where the settings give none."""
    return math.floor(high * HEADROOM)


def least(case: Case[MemoryMonitoring], seen: LimitsSeen) -> int:
    """Bytes below which a limit would make the kernel kill at once, or soon."""
    return max(math.ceil(seen.working_set * MARGIN), math.ceil(_floor(case, seen) * FLOOR_MARGIN))


def _floor(case: Case[MemoryMonitoring], seen: LimitsSeen) -> int:
    """The highest floor that was heard of this run; another one says nothing about it."""
    heard = _heard(case, seen)
    return max(heard.floor_start or 0, heard.floor_now or 0) if heard is not None else 0


def _heard(case: Case[MemoryMonitoring], seen: LimitsSeen) -> MemoryTrend | None:
    heard = case.heard
    if not isinstance(heard, MemoryTrend) or (heard.target, heard.instance) != (case.target, seen.instance):
        return None
    return heard


def no_high(case: Case[MemoryMonitoring], seen: LimitsSeen) -> str:
    """Why its MemoryHigh can't be set, or not now; empty when it can, or when none is configured."""
    wanted = case.settings.of(case.target)
    high, need = wanted.high, least(case, seen)
    if high is None:
        return ""
    if case.target.startswith("container:"):
        return "container engines have no such limit"
    if seen.version == 1:
        return "control groups of version 1 have none"
    if seen.limit is not None and seen.limit <= high:
        return f"the limit of {_above(seen)}, {show_size(seen.limit)}, is reached before it"
    if high < need:
        return f"{show_size(seen.working_set)} are in use, and it must be at least {show_size(need)}"
    if seen.full60 > STRANGLED:
        return f"all of its tasks waited for memory in {seen.full60:.0f} % of the last minute"
    if max(seen.swap_free, seen.reclaimable) < high * RELIEF:
        return (
            f"{show_size(seen.swap_free)} of free swap and {show_size(seen.reclaimable)} of cache are too little to"
            " reclaim to, so that what is slowed would be slowed for ever"
        )
    return ""


def throttles(case: Case[MemoryMonitoring], seen: LimitsSeen) -> bool:
    """Whether the MemoryHigh that is in force is the one of the settings, and so ours to lift."""
    high = case.settings.of(case.target).high
    if high is None or seen.high is None or case.target.startswith("container:"):
        return False
    return seen.high == high // mmap.PAGESIZE * mmap.PAGESIZE


def strangled(case: Case[MemoryMonitoring], seen: LimitsSeen) -> bool:
    """Whether our MemoryHigh keeps the service from doing anything but wait for memory."""
    return seen.pressed and throttles(case, seen)


def limits_gap(case: Case[MemoryMonitoring], seen: LimitsSeen) -> Gap:
    """How many limits are missing, and one more for a MemoryHigh that strangles."""
    if not case.settings.limits(case.target):
        return Gap(amount=0, unit=UNIT, reason=seen.reason)
    if seen.state is State.CHANGING:
        return Gap(amount=0, unit=UNIT, reason=seen.reason, provisional=True)
    if seen.state is State.FAILED:
        return Gap.unknown(UNIT, seen.reason)
    if seen.state is State.STOPPED:
        return Gap(amount=0, unit=UNIT, reason=seen.reason)
    need, strangles = missing(case, seen), strangled(case, seen)
    amount = need.amount + strangles
    reasons = [*_reasons(need, seen), *([strangling(seen)] if strangles else [])]
    if amount:
        return Gap(amount=amount, unit=UNIT, reason="; ".join(reasons))
    watched = throttles(case, seen) and (_grows(case, seen) or seen.usage >= (seen.high or 0) * NEAR)
    reason = "its limits are in force"
    if watched:
        reason += f", and it is watched whether a MemoryHigh of {_size(seen.high)} strangles it"
    return Gap(amount=0, unit=UNIT, reason=reason, provisional=watched)


def _grows(case: Case[MemoryMonitoring], seen: LimitsSeen) -> bool:
    heard = _heard(case, seen)
    return heard is not None and heard.level.rank >= Level.WARNING.rank


def _reasons(need: Missing, seen: LimitsSeen) -> list[str]:
    pairs = (("MemoryHigh", need.high, seen.high), ("MemoryMax", need.maximum, seen.maximum))
    return [
        f"{name} {show_size(size)} is not in force, it is {_size(held)}"
        for name, size, held in pairs
        if size is not None
    ]


def strangling(seen: LimitsSeen) -> str:
    return (
        f"MemoryHigh {_size(seen.high)} strangles it: it uses {show_size(seen.usage)}, and all of its tasks waited for"
        f" memory in {seen.full60:.0f} % of the last minute"
    )


def _size(size: int | None) -> str:
    return "none" if size is None else show_size(size)


def _above(seen: LimitsSeen) -> str:
    return show_path(seen.limit_at) or "a group above it"


def smaller_above(maximum: int | None, seen: LimitsSeen) -> str:
    """Whose limit is met before a *maximum* that is missing; empty when none is."""
    return _above(seen) if maximum is not None and seen.limit is not None and seen.limit < maximum else ""
