"""Maintenance windows: a cron line says when each begins, a duration how long it lasts, a zone whose clock counts."""

from datetime import datetime, timedelta
from typing import Any, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from schemas.settings.base import Settings
from schemas.units import Duration

LONGEST = timedelta(days=7)
"""A window is never open-ended."""


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

        try:
            _begins(cron, datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")))
        except CronSimError as error:
            raise ValueError(f"{cron!r} is no cron line ({error}); write, for example, 0 2 * * sun") from error
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
        zone = ZoneInfo(self.zone)
        begin: datetime | None = next(_begins(self.cron, moment.astimezone(zone)), None)
        return None if begin is None else begin.astimezone(ZoneInfo("UTC"))


def _begins(cron: str, moment: datetime) -> Any:
    from cronsim import CronSim

    return CronSim(cron, moment)
