"""Tell a leak from the many ways in which memory grows without one. Pure.

Two detectors over one series. The slow one wants two days of growth without an end; the fast one wants the limit
to be near and the way there to be straight. Neither minds how high the memory is: a plateau is no leak.

That a Mann-Kendall test alone is no leak detector: Machida, Andrzejak, Matias, Vicente, On the effectiveness of
Mann-Kendall test for detection of software aging, ISSREW 2013.
"""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import inf, log, sqrt
from statistics import fmean
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from collectors.memory.series import SETTLE, Line, Point, Series, fit
from schemas.facts.memory import Detector, Growth, Trend
from schemas.units import Duration, Size, show_duration, show_size

DAY = timedelta(hours=24)
STRETCHES, LEAST_STRETCHES = 10, 8
"""Minima that the fast detector fits, and the fewest: eight that rise one after the other have z = 3.3."""
FAST_WINDOWS = (1800.0, 600.0)
"""Seconds, of the fast detector while nothing was collected: the short one for what has only just begun."""
FAST_SHARE = 0.05
"""Of the floor: what rises by less within a window may be a level that wanders."""
RECORD = 1.05
"""Of the height from which it came back before: only above it is a straight rise new."""
LONGER = 1.5
"""Times the longest tooth: a rise that lasts longer is no tooth of that saw."""
PLATEAUS = 3
"""Instances that must agree on a normal size."""
LINES_KEPT = 2048
"""Lines through hourly minima, two of each instance, that are not fitted again: those minima change once an hour."""


class Criteria(BaseModel):
    """What growth must be like to be called a leak."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    window: Duration = Field(timedelta(hours=48), description="Hourly minima that the slow detector looks at.")
    least_minima: int = Field(24, ge=3, description="Hourly minima below which the slow detector learns.")
    least_age: Duration = Field(SETTLE, description="Age of the series below which the fast detector learns.")
    growth_share: float = Field(0.10, ge=0, description="Growth over the window, of the floor at its start.")
    growth_bytes: Size = Field(64 * 2**20, description="Growth over the window; less is noise on real services.")
    z: float = Field(3.0, ge=0, description="Mann-Kendall's, for both detectors.")
    late_share: float = Field(0.5, ge=0, description="Slope of the second half, of the whole: less is a warm-up.")
    day_share: float = Field(
        0.3, ge=0, lt=1, description="Rise of the floor from one day to the next, of the fitted growth: less is a wave."
    )
    lead: Duration = Field(timedelta(minutes=30), description="Time to the limit below which the fast detector speaks.")
    limit_share: float = Field(0.8, ge=0, description="Of the limit, above which the fast detector speaks.")
    in_a_row: int = Field(3, ge=1, description="Samples that must agree before the limit counts as near.")
    plateau_margin: float = Field(0.05, ge=0, description="Above the last instances' plateau, still normal size.")

    @property
    def least_window(self) -> timedelta:
        """Below which even an exact line does not rise enough from one day to the next."""
        return DAY / (1 - self.day_share)


class Figures(NamedTuple):
    """Of the moment of the newest sample, in bytes."""

    working_set: int
    limit: int | None
    """the smallest on the way up; without one, the working set and what the host has available; none when unknown"""


class _Verdict(NamedTuple):
    """What one detector found."""

    line: Line | None = None
    leak: bool = False
    seconds: float | None = None
    """to the limit, when the slope is established"""
    note: str = ""


def judge(
    series: Series,
    figures: Figures,
    *,
    before: Growth | None = None,
    plateaus: tuple[int, ...] = (),
    criteria: Criteria | None = None,
) -> Growth:
    """How this instance grows; *before* is what was said of its last sample, *plateaus* comes from `remember`.

    Raises ValueError for a series without a sample.
    """
    if not series.recent:
        raise ValueError("a series without a sample can't be judged")
    criteria = criteria or Criteria()
    moment, _ = series.recent[-1]
    slow, fast = _slow(series, figures, criteria), _fast(series, figures, criteria)
    grown = slow.leak and not is_known(slow.line, plateaus, criteria)
    rushing = fast.leak and not is_known(fast.line, plateaus, criteria)
    near = _near(rushing, moment, series, before)
    exhausting = near >= criteria.in_a_row
    known = (slow.leak or fast.leak) and not (grown or rushing)
    if exhausting:
        trend = Trend.EXHAUSTING
    elif grown:
        trend = Trend.GROWING
    else:
        trend = Trend.STEADY if _is_long_enough(slow.line, criteria) else Trend.LEARNING
    shown, detector = (fast, Detector.FAST) if exhausting or slow.line is None else (slow, Detector.SLOW)
    line = shown.line
    return Growth(
        trend=trend,
        at=datetime.fromtimestamp(moment, UTC),
        detector=detector if line else None,
        per_hour=_hourly(line.slope) if line else None,
        per_hour_low=_hourly(line.low) if line else None,
        per_hour_high=_hourly(line.high) if line else None,
        z=round(line.z, 2) if line else None,
        floor_start=max(0, round(line.start)) if line else None,
        floor_now=max(0, round(line.end)) if line else None,
        minima=line.minima if line else 0,
        window=line.span if line else 0.0,
        seconds_to_limit=min((found.seconds for found in (slow, fast) if found.seconds is not None), default=None),
        near=near,
        known_plateau=known,
        notes=tuple(_notes(slow, fast, known, plateaus)),
    )


def is_known(line: Line | None, plateaus: tuple[int, ...], criteria: Criteria) -> bool:
    """Whether the last instances stood as high as this one does now, and agree about it."""
    if line is None or len(plateaus) < PLATEAUS:
        return False
    margin = 1 + criteria.plateau_margin
    return max(plateaus) <= min(plateaus) * margin**2 and line.end <= max(plateaus) * margin


def remember(plateaus: tuple[int, ...], last: Growth) -> tuple[int, ...]:
    """The plateaus of a service after an instance that ended as *last* says; only one that stood still has one."""
    if last.trend is not Trend.STEADY or last.detector is not Detector.SLOW or last.floor_now is None:
        return plateaus
    return (*plateaus, last.floor_now)[-PLATEAUS:]


def _slow(series: Series, figures: Figures, criteria: Criteria) -> _Verdict:
    """Growth over days that is large, certain, goes on, and is there at the same hour of the next day."""
    points = series.floors(criteria.window)
    line = _fit_hourly(points)
    if line is None:
        return _Verdict()
    seconds = _seconds_to(figures, figures.working_set, line.slope) if line.low > 0 else None
    growth = line.end - line.start
    if (
        growth <= criteria.growth_share * max(line.start, 0.0)
        or growth <= criteria.growth_bytes
        or line.z <= criteria.z
    ):
        return _Verdict(line, seconds=seconds)
    objection = _slow_objection(points, line, criteria)
    if objection:
        return _Verdict(line, note=f"{show_size(growth)} more in {show_duration(line.span)}, but {objection}")
    return _Verdict(line, leak=True, seconds=seconds)


_fit_hourly = lru_cache(LINES_KEPT)(fit)


def _slow_objection(points: tuple[Point, ...], line: Line, criteria: Criteria) -> str:
    if not _is_long_enough(line, criteria):
        return f"two days can't be compared before {show_duration(criteria.least_window)}"
    late = _fit_hourly(points[len(points) // 2 :])
    if late is None or late.slope < criteria.late_share * line.slope:
        return "it levels off: the second half grew much slower"
    yesterday = points[-1][0] - DAY.total_seconds()
    rise = min(low for moment, low in points if moment > yesterday) - min(
        low for moment, low in points if moment <= yesterday
    )
    if rise <= criteria.day_share * (line.end - line.start):
        return f"from one day to the next the floor rose by {show_size(rise)} only"
    return ""


def _is_long_enough(line: Line | None, criteria: Criteria) -> bool:
    """For a verdict of the slow detector."""
    return (
        line is not None and line.minima >= criteria.least_minima and line.span > criteria.least_window.total_seconds()
    )


def _fast(series: Series, figures: Figures, criteria: Criteria) -> _Verdict:
    """A straight way to the limit that will be gone within the lead time."""
    if figures.limit is None or series.age < criteria.least_age.total_seconds():
        return _Verdict()
    windows, note = _windows(series)
    verdicts = [_straight(series, figures, width, count, criteria) for width, count in windows]
    return next((verdict for verdict in verdicts if verdict.leak), verdicts[0] if verdicts else _Verdict(note=note))


def _windows(series: Series) -> tuple[list[tuple[float, int]], str]:
    """Widths and numbers of the stretches whose minima are floors, or why there are none.

    While something is collected now and then, a stretch must hold a collection for sure: two teeth, and the longest.
    A rise that is both higher and longer than every tooth before is no tooth, and is judged as where nothing was ever
    collected: by itself.
    """
    now, value = series.recent[-1]
    drops, teeth = series.drops(), series.teeth()
    quiet, longest = now - (drops[-1] if drops else series.recent[0][0]), max(teeth, default=0.0)
    record = series.turned is None or value > RECORD * series.turned[1]
    if record and quiet > LONGER * longest:
        return [(span / STRETCHES, STRETCHES) for span in FAST_WINDOWS if span <= quiet], ""
    if not drops:
        return [], f"it came back from {show_size(series.turned[1] if series.turned else 0)} before"
    width = max(FAST_WINDOWS[0] / STRETCHES, 2 * fmean(teeth), longest)
    count = min(STRETCHES, int((now - series.recent[0][0]) // width))
    if count < LEAST_STRETCHES:
        return [], f"up to {show_duration(longest)} between collections: too long to see the floor rise in two hours"
    return [(width, count)], ""


def _straight(series: Series, figures: Figures, width: float, count: int, criteria: Criteria) -> _Verdict:
    points = series.minima(width, count)
    line, half = fit(points), len(points) // 2
    early, late = fit(points[:half]), fit(points[half:])
    if line is None or early is None or late is None or len(points) < LEAST_STRETCHES:
        return _Verdict()
    if line.z <= criteria.z or line.low <= 0 or line.end - line.start < FAST_SHARE * line.start:
        return _Verdict(line)
    if late.slope < criteria.late_share * line.slope:
        return _Verdict(line, note="it levels off")
    if early.slope < criteria.late_share * late.slope:
        return _Verdict(line, note="it began to rise only just now")
    now, value = series.recent[-1]
    peak = figures.working_set - value + max(high for moment, high in series.recent if moment > now - width)
    if peak + _still_to_come(early.slope, late.slope, line.span / 2) < (figures.limit or 0):
        return _Verdict(line, note="it levels off below the limit")
    seconds = _seconds_to(figures, peak, min(line.slope, late.slope))
    near = seconds is not None and seconds < criteria.lead.total_seconds()
    return _Verdict(line, near and peak > criteria.limit_share * (figures.limit or inf), seconds)


def _still_to_come(early: float, late: float, distance: float) -> float:
    """How much more there will be if the slope goes on falling as it fell, *distance* seconds from half to half.

    An exponential approach, as of a cache that fills or a heap that warms up, through the slopes at the middles of
    both halves; infinite when the slope does not fall.
    """
    if late >= early:
        return inf
    if late <= 0:
        return 0.0
    fall = late / early
    return late * sqrt(fall) * distance / -log(fall)


def _seconds_to(figures: Figures, used: int, slope: float) -> float | None:
    if figures.limit is None or slope <= 0:
        return None
    return max(0.0, (figures.limit - used) / slope)


def _near(rushing: bool, moment: int, series: Series, before: Growth | None) -> int:
    """Samples in a row that rush to the limit; the same sample counts once, and none across a gap."""
    if not rushing:
        return 0
    if before is None or not series.began <= before.at.timestamp() <= moment:
        return 1
    return before.near + 1 if before.at.timestamp() < moment else max(1, before.near)


def _notes(slow: _Verdict, fast: _Verdict, known: bool, plateaus: tuple[int, ...]) -> list[str]:
    notes = [note for note in (slow.note, fast.note) if note]
    if known:
        notes.append(f"the last {PLATEAUS} instances stood at {show_size(max(plateaus))} as well: its normal size")
    return notes


def _hourly(slope: float) -> float:
    return round(slope * 3600, 1)
