"""Maintenance windows: a cron line says when each begins, a duration how long it lasts, a zone whose clock counts."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from schemas.settings.base import Settings
from schemas.units import Duration

LONGEST = timedelta(days=7)
"""A window is never open-ended."""

FIELDS = 5
"""A sixth would be seconds, and shift the meaning of all others."""


class MaintenanceWindow(Settings):
    """A time in which what restarts or destroys may be done.

    The begin is read as cron reads it: at a change of the clock a begin that is skipped comes right after the gap, one
    that occurs twice comes once. The end is the begin plus the duration in real time, whatever the clock shows.
    """

    name: str = Field("", description="For people: nightly, sunday.")
    cron: str = Field(description="Begin: minute, hour, day, month, weekday, like 0 2 * * sun.")
    duration: Duration = Field(description="How long it is open.")
    zone: str = Field("UTC", description="Time zone, like Europe/Berlin.")

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"{zone!r} is no time zone here; write one like Europe/Berlin or UTC") from error
        return zone

    @field_validator("cron")
    @classmethod
    def _readable_cron(cls, cron: str) -> str:
        from cronsim import CronSimError  # only those who have windows need it

        if len(cron.split()) != FIELDS:
            raise ValueError(f"{cron!r} is no cron line of five fields; write, for example, 0 2 * * sun")
        try:
            first = next(_begins(cron, datetime(2026, 1, 1, tzinfo=UTC)), None)
        except CronSimError as error:
            raise ValueError(f"{cron!r} is no cron line ({error}); write, for example, 0 2 * * sun") from error
        if first is None:
            raise ValueError(f"{cron!r} is a date that never comes; write, for example, 0 2 * * sun")
        return cron

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.duration > LONGEST:
            raise ValueError("a window is open for at most 7 days; write a shorter duration and a cron line")
        return self

    def open_at(self, now: datetime) -> bool:
        """Whether it is open. Pure."""
        begin = self._first_after(now - self.duration)
        return begin is not None and begin <= now

    def next_after(self, now: datetime) -> datetime | None:
        """When it opens next; None for a date that never comes, like 30 February. Pure."""
        return self._first_after(now)

    def _first_after(self, moment: datetime) -> datetime | None:
        begins = _begins(self.cron, moment.astimezone(ZoneInfo(self.zone)))
        # In the hour that comes twice the clock alone would name a begin that has passed already.
        return next((begin for begin in begins if begin > moment), None)


def _begins(cron: str, moment: datetime) -> Iterator[datetime]:
    """Each begin after *moment*, in UTC; none when none comes within fifty years."""
    from cronsim import CronSim

    return (begin.astimezone(UTC) for begin in CronSim(cron, moment))
