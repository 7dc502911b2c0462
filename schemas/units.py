"""Sizes, durations and percentages as people write them: `100M`, `30 days`, `80`."""

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

_BINARY = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?", re.IGNORECASE)
_SECONDS = {
    "ms": 0.001, "millisecond": 0.001, "s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60,
    "h": 3600, "hour": 3600, "d": 86400, "day": 86400, "w": 604800, "week": 604800,
}  # fmt: skip
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)", re.IGNORECASE)


def parse_size(value: object) -> object:
    """Turn `100M`, `1.5 GiB` or `4096` into bytes; letters are binary multiples, as in journald and du.

    Raises ValueError when the text is no size.
    """
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"{value!r} is no size; write bytes, or a number with K, M, G, T, like 100M")
    return int(float(match[1]) * 1024 ** _BINARY[match[2].lower()])


def parse_duration(value: object) -> object:
    """Turn `30 days`, `5 min` or `1h 30m` into a timedelta; a number without a unit is refused as ambiguous.

    Raises ValueError when the text is no duration.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"{value} has no unit; write, for example, {value} days or {value} s")
    if not isinstance(value, str) or value.startswith(("P", "-P")):
        return value  # a timedelta, or ISO 8601, which pydantic reads
    seconds, position = 0.0, 0
    for match in _DURATION.finditer(value):
        unit = match[2].lower()
        factor = _SECONDS.get(unit) or _SECONDS.get(unit.removesuffix("s"))
        if match.start() != position or factor is None:
            break
        seconds, position = seconds + float(match[1]) * factor, match.end()
    if position == 0 or value[position:].strip():
        raise ValueError(f"{value!r} is no duration; write, for example, 30 days, 5 min or 1h 30m")
    return timedelta(seconds=min(seconds, timedelta.max.total_seconds() / 2))


def show_size(size: float) -> str:
    """Write *size* in bytes for people, in binary multiples: `1.5 GiB`."""
    sign, size = ("-", -size) if size < 0 else ("", size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{sign}{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{sign}{size:.1f} {unit}"


def show_duration(duration: timedelta | float) -> str:
    """Write *duration* (seconds when a number) for people, in its two largest units: `2 d 4 h`."""
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if seconds < 0:
        return "-" + show_duration(-seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    parts: list[str] = []
    rest = round(seconds)
    for name, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if rest >= length and len(parts) < 2:
            parts.append(f"{rest // length} {name}")
            rest %= length
    return " ".join(parts)


Size = Annotated[
    int,
    BeforeValidator(parse_size),
    Field(ge=0),
    WithJsonSchema({"type": ["integer", "string"], "examples": ["100M", "1.5 GiB", 4096]}, mode="validation"),
]
"""Bytes."""

LONGEST_DURATION = timedelta(days=36525)
"""A century: longer ones are a slip of the pen, and no date could be reckoned with them."""

Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    Field(gt=timedelta(0), le=LONGEST_DURATION),
    WithJsonSchema({"type": "string", "examples": ["30 days", "5 min", "PT1H"]}, mode="validation"),
]
"""A positive length of time."""

Percent = Annotated[float, Field(ge=0, le=100)]


def _seconds(duration: timedelta) -> float:
    return duration.total_seconds()


Seconds = Annotated[timedelta, PlainSerializer(_seconds, return_type=float, when_used="json")]
"""A length of time that travels as a number of seconds."""
