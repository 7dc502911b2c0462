"""Figures with their units, for people."""

from collections.abc import Mapping

from schemas.units import show_duration, show_size


def amount(value: float, unit: str) -> str:
    """`1.2 GiB`, `3 min 20 s` or `1,204 inodes`."""
    if unit == "bytes":
        return show_size(value)
    if unit == "seconds":
        return show_duration(value)
    return f"{value:,.0f} {unit}"


def amounts(values: Mapping[str, float]) -> str:
    """All of them with commas between; `nothing` when there are none."""
    return ", ".join(amount(value, unit) for unit, value in values.items() if value) or "nothing"
