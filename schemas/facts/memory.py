"""How the memory of a service grows."""

from enum import StrEnum

from pydantic import AwareDatetime

from schemas.facts.files import Fact
from schemas.text import Text


class Trend(StrEnum):
    """Where a service's memory is going."""

    LEARNING = "learning"
    """too young a series to tell a leak from a warm-up or a day's wave"""
    STEADY = "steady"
    GROWING = "growing"
    """for days, without a sign of an end"""
    EXHAUSTING = "exhausting"
    """it reaches its limit within the lead time"""

    @property
    def leaks(self) -> bool:
        """Growth that one of the detectors calls a leak."""
        return self in {Trend.GROWING, Trend.EXHAUSTING}


class Detector(StrEnum):
    SLOW = "slow"
    """two days of hourly minima"""
    FAST = "fast"
    """the last minutes, up to two hours, against the limit"""


class Growth(Fact):
    """What the detectors say of one service instance. Figures are absent where nothing could be fitted."""

    trend: Trend
    at: AwareDatetime
    """of the newest sample"""
    detector: Detector | None = None
    """whose figures these are"""
    per_hour: float | None = None
    """bytes, Theil-Sen slope of the minima"""
    per_hour_low: float | None = None
    """with `per_hour_high` Sen's 95 % interval"""
    per_hour_high: float | None = None
    z: float | None = None
    """Mann-Kendall, with ties"""
    floor_start: int | None = None
    """bytes, of the fitted line at the first minimum"""
    floor_now: int | None = None
    """bytes, of the fitted line at the last minimum"""
    minima: int = 0
    """the line goes through this many"""
    window: float = 0.0
    """seconds from the first of them to the last"""
    seconds_to_limit: float | None = None
    """at the steepest slope that is established; none without one, or without a limit"""
    near: int = 0
    """samples in a row of which the fast detector alone would say `exhausting`"""
    known_plateau: bool = False
    """it would count as growing, but the last instances stood as high and went no further"""
    notes: tuple[Text, ...] = ()
    """why growth that is seen does not count, and what the figures leave open"""
