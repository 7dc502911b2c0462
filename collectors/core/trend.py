"""Robust growth over a window of samples that stays small. Pure."""

from datetime import datetime, timedelta
from statistics import median
from typing import Self

from pydantic import BaseModel, ConfigDict

MINIMUM_SAMPLES = 10
MINIMUM_SPAN = 300.0
"""Seconds. Fewer samples, or samples closer together, say nothing about the next hour."""


def theil_sen(samples: tuple[tuple[float, int], ...]) -> float | None:
    """The median of the slopes between all pairs of (second, value): up to 29 % of outliers do not move it.

    None for samples that are too few or too close together.
    """
    if len(samples) < MINIMUM_SAMPLES or samples[-1][0] - samples[0][0] < MINIMUM_SPAN:
        return None
    first = samples[0][1]
    if all(value == first for _, value in samples):
        return 0.0
    return median(
        (later - value) / (after - moment)
        for index, (moment, value) in enumerate(samples)
        for after, later in samples[index + 1 :]
    )


class Window(BaseModel):
    """The latest samples of one figure, and their slope."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    samples: tuple[tuple[float, int], ...] = ()
    """(seconds since the epoch, value), oldest first"""
    slope: float | None = None
    """per second; told anew with every sample that is kept"""

    def add(self, now: datetime, value: int, *, span: timedelta, spacing: timedelta) -> Self:
        """With the sample, unless the last one is younger than *spacing*; without those older than *span*.

        Samples from the future, kept before the clock was set back, are forgotten.
        """
        moment, oldest = now.timestamp(), now.timestamp() - span.total_seconds()
        kept = tuple(sample for sample in self.samples if oldest <= sample[0] <= moment)
        if not kept or moment - kept[-1][0] >= spacing.total_seconds():
            kept = (*kept, (moment, value))
        elif len(kept) == len(self.samples):
            return self
        return self.model_copy(update={"samples": kept, "slope": theil_sen(kept)})
