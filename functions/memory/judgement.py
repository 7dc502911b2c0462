"""How a service stands: what was read now, and what the collector tells of its growth. Pure."""

from datetime import datetime, timedelta
from typing import NamedTuple

from functions.core.remedy import Case
from functions.memory.facts import Seen, State
from schemas.facts.memory import Trend
from schemas.health import Level
from schemas.memory import MemoryTrend
from schemas.remediation import Gap
from schemas.settings.memory import MemoryMonitoring
from schemas.units import show_duration, show_size

UNIT = "bytes"

FALLEN = 0.9
"""Of the floor that was heard: what fell below has given something back. Less is what a sawtooth does by itself."""

LATEST = 3
"""Events of a steady service that may be missed before what was heard is too old."""

LEAST_FULL = 0.5
"""Of `limit_percent`: a service that stands lower is not near its limit, whatever was heard of it."""


def heard_of(case: Case[MemoryMonitoring]) -> tuple[MemoryTrend | None, str]:
    """What the collector said last of the target, or why there is nothing to go by: no single read tells growth."""
    heard, target = case.heard, case.target
    if not isinstance(heard, MemoryTrend) or heard.target != target:
        return None, f"nothing was heard of how {target} grows; does the collector memory.trend run?"
    age, limit = case.now - heard.observed_at, LATEST * max(case.settings.steady_every, case.settings.every)
    if age < -limit:
        return None, f"the last word on how {target} grows is of the future; is the clock right?"
    if age > limit:
        return None, f"the last word on how {target} grows is {show_duration(age)} old; does the collector still run?"
    if heard.level is Level.UNKNOWN:
        return None, heard.reason or f"the collector does not know how {target} grows"
    return heard, ""


def judged(case: Case[MemoryMonitoring], seen: Seen) -> Gap:
    """Bytes above the floor at which this run began to grow; closed for now, until the collector saw it stay so."""
    if seen.state is State.CHANGING:
        return _for_now(seen.reason)
    heard, problem = heard_of(case)
    if seen.state is not State.RUNNING:
        # Who stopped it in order has nothing left to contain, once the collector misses it too; but a restart that
        # failed must not look like a cure.
        missed = case.heard is not None and case.heard.level.rank <= Level.OK.rank
        return _closed(seen.reason) if missed and seen.state is State.STOPPED else Gap.unknown(UNIT, seen.reason)
    if heard is None:
        return Gap.unknown(UNIT, problem)
    if heard.instance != seen.instance:
        return _for_now("it was restarted since it was heard of; whether it grows again is watched")
    if heard.level is Level.OK:
        return _since_when(case, heard)
    if heard.strangled and not confirmed(heard) and case.settings.limits(case.target):
        return _for_now("its MemoryHigh strangles it, which is for memory.enforce_limit to mend")
    floor = heard.floor_now if heard.floor_now is not None else heard.held
    if floor is not None and seen.held <= FALLEN * floor and not _presses(case.settings, heard, seen):
        fall = show_size(floor - seen.held)
        return _for_now(f"it gave {fall} back, to {show_size(seen.held)}; whether it grows again is watched")
    reason = heard.reason or growth(heard)
    return Gap(amount=excess(heard, seen), unit=UNIT, reason=reason)


def _presses(settings: MemoryMonitoring, heard: MemoryTrend, seen: Seen) -> bool:
    """What it gave back buys too little time: the end is as near as when people were told, and a cooldown long."""
    seconds = _at_pace(heard, seen)
    return _full(settings, seen) or (seconds is not None and seconds < settings.alert_within.total_seconds())


def _since_when(case: Case[MemoryMonitoring], heard: MemoryTrend) -> Gap:
    """The collector is content: closed when it has been for long enough, with this run."""
    since = [moment for moment in (heard.series_since, heard.since) if moment is not None]
    known = heard.series_since is not None or heard.trend is Trend.STEADY
    left = max(since) + case.settings.verify_for - case.now if since else timedelta(0)
    if known and left <= timedelta(0):
        return _closed(heard.reason or "it does not grow")
    return _for_now(f"it does not grow now, which is watched for {show_duration(case.settings.verify_for)}")


def _closed(reason: str) -> Gap:
    return Gap(amount=0, unit=UNIT, reason=reason)


def _for_now(reason: str) -> Gap:
    return Gap(amount=0, unit=UNIT, reason=reason, provisional=True)


def excess(heard: MemoryTrend, seen: Seen) -> int:
    """Bytes that it holds above its floor at the beginning; at least 1, for growth is a gap however small."""
    begin = heard.floor_start if heard.floor_start is not None else seen.held
    return max(1, seen.held - begin)


def confirmed(heard: MemoryTrend) -> bool:
    return heard.trend.leaks


def growth(heard: MemoryTrend) -> str:
    """For people, how fast."""
    if heard.per_hour is None:
        return f"it is {heard.trend}"
    speed = f"{show_size(heard.per_hour)} an hour"
    if heard.per_hour_low is None or heard.per_hour_high is None:
        return f"it grows by {speed}"
    return f"it grows by {speed} ({show_size(heard.per_hour_low)} to {show_size(heard.per_hour_high)})"


class Outlook(NamedTuple):
    """What comes if nothing is done."""

    seconds: float | None
    """until the kernel kills; none when nothing foretells it"""
    pressed: bool
    """it stands at act_percent of its limit"""
    near: bool
    """so near that a restart is better than to wait"""

    def due(self, now: datetime, lead: timedelta) -> datetime | None:
        """When the restart must be begun, window or not: *lead* before the end; None while that is not near."""
        if not self.near:
            return None
        left = 0.0 if self.pressed or self.seconds is None else self.seconds - lead.total_seconds()
        return now + timedelta(seconds=max(0.0, left))

    def grace(self, wanted: timedelta) -> timedelta:
        """Between the alert and the first action: half of the time that is left at most, and none when pressed."""
        if self.pressed:
            return timedelta(0)
        return wanted if self.seconds is None else min(wanted, timedelta(seconds=min(self.seconds, DAY) / 2))


DAY = 86_400.0
"""Seconds: no grace is longer, and a year of them would still be one."""

FAR = 100 * 365 * DAY
"""Seconds: whatever comes later does not come."""


def outlook_of(settings: MemoryMonitoring, heard: MemoryTrend, seen: Seen, now: datetime) -> Outlook:
    """The sooner of what was heard and of what the figures of now give with the slope that was heard."""
    ends = []
    if heard.seconds_to_limit is not None:
        ends.append(heard.seconds_to_limit - max(0.0, (now - heard.observed_at).total_seconds()))
    at_pace = _at_pace(heard, seen)
    if at_pace is not None:
        ends.append(at_pace)
    seconds = max(0.0, min(*ends, FAR)) if ends else None
    pressed = _full(settings, seen)
    soon = seconds is not None and seconds < settings.alert_within.total_seconds()
    near = pressed or (soon and _half_full(settings, seen))
    return Outlook(seconds, pressed, near)


def _at_pace(heard: MemoryTrend, seen: Seen) -> float | None:
    """Seconds from what is left now to the limit."""
    if seen.limit is None or heard.per_hour is None or heard.per_hour <= 0:
        return None
    return (seen.limit - seen.working_set) / heard.per_hour * 3600


def _half_full(settings: MemoryMonitoring, seen: Seen) -> bool:
    """What is read now bears out what was heard: an event alone, however it came, restarts nothing."""
    return seen.limit is not None and seen.working_set >= seen.limit * LEAST_FULL * settings.limit_percent / 100


def _full(settings: MemoryMonitoring, seen: Seen) -> bool:
    return seen.limit is not None and seen.working_set >= seen.limit * settings.act_percent / 100
