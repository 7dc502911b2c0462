"""The memory of one service instance over time, kept small, and the robust line through some of it. Pure."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from math import ceil, floor, sqrt
from statistics import NormalDist, fmean, median
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict

Point = tuple[float, int]
"""(seconds, bytes)"""

EVERY = timedelta(seconds=60)
GAP = 5
"""Intervals without a sample (a suspended machine, a collector that was down) after which nothing old counts."""
LEAST_GAP = timedelta(minutes=15)
"""But for shorter ones it does: a collector that is killed may have saved its samples minutes ago, and reads that take
too long do so when memory is short."""
SPACING = 0.75
"""Of an interval, at least, between two samples that are kept: jitter passes, sampling twice as fast does not."""
RECENT = timedelta(hours=2)
HOURS = 72
SETTLE = timedelta(minutes=30)
"""The first minutes are no floor: a service that starts is smaller than it will ever be again."""
DROP = 0.10
"""Of the height before: a fall by more is a collection, and two of them make the tooth of a saw."""

CONFIDENCE = 0.95
MEMORY_POINTS = 24
"""Fewer points do not tell how much each remembers of the one before."""
MOST_MEMORY = 2.25
"""Times the variance, at most: a day's wave looks like a long memory, and a leak below it must stay visible.

Of 60 traces each of tests/collectors/memory, noise that forgets in two hours is called a leak in 20 % without any
correction and in 3 % with it; a leak of 5 MiB/h below a wave of ±200 MiB is found in 60 %, and without a bound in none.
"""
_QUANTILE = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


class Series(BaseModel):
    """Samples of one instance; a restarted service begins a new series."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    began: int = 0
    """seconds since the epoch, of the first sample after the last gap"""
    recent: tuple[tuple[int, int], ...] = ()
    """(seconds since the epoch, bytes) of the last two hours, oldest first, one an interval"""
    hourly: tuple[tuple[int, int], ...] = ()
    """(hours since the series had settled, lowest bytes of all samples in that hour)"""
    crest: int = 0
    """the highest since the last drop"""
    turned: tuple[int, int] | None = None
    """(seconds since the epoch, bytes) of the highest crest that was followed by a drop"""

    def add(self, now: datetime, value: int, *, every: timedelta = EVERY) -> Self:
        """With the sample; begun anew with it after a gap, or when the clock was set back."""
        moment = round(now.timestamp())
        pause = moment - self.recent[-1][0] if self.recent else 0
        if not self.recent or pause < 0 or pause > max(GAP * every, LEAST_GAP).total_seconds():
            return type(self)(began=moment, recent=((moment, value),), crest=value)
        recent = self.recent
        if pause >= SPACING * every.total_seconds():
            first = bisect_left(recent, (moment - RECENT.total_seconds(), 0))
            recent = (*recent[first:], (moment, value))
        dropped = value < (1 - DROP) * self.crest
        return self.model_copy(
            update={
                "recent": recent,
                "hourly": self._with_floor(moment, value),
                "crest": value if dropped else max(self.crest, value),
                "turned": self._turned(moment) if dropped else self.turned,
            }
        )

    def _with_floor(self, moment: int, value: int) -> tuple[tuple[int, int], ...]:
        hour = int((moment - self.began - SETTLE.total_seconds()) // 3600)
        if hour < 0:
            return self.hourly
        if not self.hourly or self.hourly[-1][0] != hour:
            kept = tuple(entry for entry in self.hourly if entry[0] > hour - HOURS)
            return (*kept, (hour, value))
        if value >= self.hourly[-1][1]:
            return self.hourly
        return (*self.hourly[:-1], (hour, value))

    def _turned(self, moment: int) -> tuple[int, int]:
        """The crest, unless a higher one is not yet forgotten."""
        if self.turned is None or self.crest >= self.turned[1] or self.turned[0] < moment - HOURS * 3600:
            return moment, self.crest
        return self.turned

    @property
    def age(self) -> float:
        """Seconds from the first sample to the last."""
        return self.recent[-1][0] - self.began if self.recent else 0.0

    def floors(self, window: timedelta) -> tuple[Point, ...]:
        """The minima of the latest hours in *window*, without the hour that is not over."""
        hours = int(window.total_seconds() // 3600)
        return tuple((hour * 3600.0, lowest) for hour, lowest in self.hourly[:-1][-hours:])

    def minima(self, width: float, count: int) -> tuple[Point, ...]:
        """The lowest sample of each of the last *count* stretches of *width* seconds; empty stretches have none."""
        lowest: dict[int, Point] = {}
        end = self.recent[-1][0]
        for moment, value in reversed(self.recent):
            stretch = int((end - moment) // width)
            if stretch >= count:
                break
            if stretch not in lowest or value < lowest[stretch][1]:
                lowest[stretch] = (float(moment), value)
        return tuple(reversed(lowest.values()))

    def drops(self) -> tuple[int, ...]:
        """When the recent samples fell by more than a tenth, in seconds since the epoch."""
        found, crest = [], 0
        for moment, value in self.recent:
            if value < (1 - DROP) * crest:
                found.append(moment)
                crest = value
            elif value > crest:
                crest = value
        return tuple(found)

    def teeth(self) -> tuple[float, ...]:
        """Seconds, the recent distances between drops; what came before the first was a tooth of at least that."""
        drops = self.drops()
        if not drops:
            return ()
        return tuple(float(later - earlier) for earlier, later in pairwise((self.recent[0][0], *drops)))


class Line(NamedTuple):
    """A robust line and how sure it is; per second."""

    slope: float
    low: float
    high: float
    z: float
    start: float
    """its height at the first point"""
    end: float
    """and at the last"""
    minima: int
    span: float
    """seconds"""


def fit(points: Sequence[Point]) -> Line | None:
    """The Theil-Sen line with Sen's interval and the Mann-Kendall z; None for fewer than three points.

    The slope is the median of those of all pairs, the height the median of what is left. z has the correction for
    continuity, its variance those for ties and for points that remember the one before; the interval is between the
    slopes whose ranks lie `CONFIDENCE` of that variance's root around the median.

    H. Theil, A rank-invariant method of linear and polynomial regression analysis, Proc. KNAW 53 (1950);
    P. K. Sen, Estimates of the regression coefficient based on Kendall's tau, JASA 63 (1968);
    M. Hollander, D. A. Wolfe, Nonparametric Statistical Methods, 2nd ed. (1999), sections 8.1 and 9.3;
    S. Yue, C. Wang, The Mann-Kendall test modified by effective sample size, Water Resources Management 18 (2004).
    """
    if len(points) < 3:
        return None
    slopes = sorted(
        (later - value) / (after - moment)
        for index, (moment, value) in enumerate(points)
        for after, later in points[index + 1 :]
    )
    pairs, score = len(slopes), len(slopes) - bisect_right(slopes, 0.0) - bisect_left(slopes, 0.0)
    slope, first = median(slopes), points[0][0]
    rest = [value - slope * (moment - first) for moment, value in points]
    deviation = sqrt(_variance([value for _, value in points]) * _memory(rest))
    z = (score - (score > 0) + (score < 0)) / deviation if deviation else 0.0
    reach = _QUANTILE * deviation
    start, span = median(rest), points[-1][0] - first
    return Line(
        slope=slope,
        low=slopes[max(0, floor((pairs - reach) / 2) - 1)],
        high=slopes[min(pairs - 1, ceil((pairs + reach) / 2))],
        z=z, start=start, end=start + slope * span, minima=len(points), span=span,
    )  # fmt: skip


def _variance(values: Sequence[int]) -> float:
    """Of Kendall's score when nothing grows; equal values add nothing to it."""
    ties = sum(_term(count) for count in Counter(values).values())
    return (_term(len(values)) - ties) / 18


def _memory(rest: Sequence[float]) -> float:
    """Times the variance that the score has when what is left besides the line is no white noise.

    As of an autoregressive process of first order: 1 + 2 Σ (1 - k/n) r^k, where r differs from 0 beyond chance.
    """
    count = len(rest)
    if count < MEMORY_POINTS:
        return 1.0
    middle = fmean(rest)
    away = [value - middle for value in rest]
    total = sum(value * value for value in away)
    memory = sum(value * after for value, after in pairwise(away)) / total if total else 0.0
    if memory <= _QUANTILE / sqrt(count):
        return 1.0
    return min(MOST_MEMORY, 1 + 2 * sum((1 - lag / count) * memory**lag for lag in range(1, count)))


def _term(count: int) -> int:
    return count * (count - 1) * (2 * count + 5)
