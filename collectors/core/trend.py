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
    """Samples of one figure, at least `spacing` seconds apart and at most `span` seconds old, and their slope."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    span: float
    spacing: float
    samples: tuple[tuple[float, int], ...] = ()
    slope: float | None = None
    """per second; told anew with every sample that is kept"""

    @classmethod
    def of(cls, span: timedelta, spacing: timedelta) -> Self:
        return cls(span=span.total_seconds(), spacing=spacing.total_seconds())

    def add(self, now: datetime, value: int) -> Self:
        """With the sample, unless it comes too soon after the last one. Samples from the future are forgotten."""
        moment = now.timestamp()
        kept = tuple(sample for sample in self.samples if moment - self.span <= sample[0] <= moment)
        if len(kept) == len(self.samples) and kept and moment - kept[-1][0] < self.spacing:
            return self
        if not kept or moment - kept[-1][0] >= self.spacing:
            kept = (*kept, (moment, value))
        return self.model_copy(update={"samples": kept, "slope": theil_sen(kept)})
