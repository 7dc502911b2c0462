"""What `ansai report disk` says of a filesystem."""

from infra.cli.report_view import Cells, Rows, View, duration
from schemas.disk import DiskPressure
from schemas.facts.files import Resource
from schemas.units import show_size

NEGLIGIBLE = 1.0
"""Bytes or inodes an hour, below which nothing moves."""


def cells(health: DiskPressure) -> Cells:
    percent = f"{health.percent:.0f} %" if health.percent is not None else ""
    return _amount(health, health.used), percent, _pace(health, health.per_second), duration(health.seconds_to_full)


def details(health: DiskPressure) -> Rows:
    if health.used is not None and health.available is not None:
        free = _amount(health, health.available)
        yield "now", f"{_amount(health, health.used)} used, {free} left, on {health.source or health.mount}"
    if health.per_second is not None:
        day = f", {_pace(health, health.per_second_day)} an hour over a day" if health.per_second_day else ""
        yield "trend", f"{_pace(health, health.per_second) or 'nothing'} an hour over the last hour{day}"
    if health.seconds_to_full is not None:
        yield "forecast", f"full in {duration(health.seconds_to_full)}"
    if health.deleted_open_bytes:
        yield "held", f"{show_size(health.deleted_open_bytes)} by deleted files that a process keeps open"


def _amount(health: DiskPressure, value: float | None) -> str:
    if value is None:
        return ""
    return show_size(value) if health.resource is Resource.BYTES else f"{value:,.0f}"


def _pace(health: DiskPressure, per_second: float | None) -> str:
    """Of an hour, with its sign."""
    per_hour = 3600 * (per_second or 0.0)
    if abs(per_hour) < NEGLIGIBLE:
        return ""
    return f"{'+' if per_hour > 0 else ''}{_amount(health, per_hour)}"


PRESSURE = View(DiskPressure, (">used", ">full", ">an hour", ">full in"), cells, details)
