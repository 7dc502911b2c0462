"""What a host has spent of its budgets of attempts: counted, summed up, forgotten. Pure."""

from collections.abc import Mapping
from datetime import datetime

from schemas.fleet import Spent

MINUTE, HOUR, DAY = 60, 3600, 86_400  # seconds


def with_one(spent: Spent, function: str, now: datetime, *, irreversible: bool) -> Spent:
    """*spent* and one more attempt of *function*, without what is too old to count."""
    attempts, grave = _recent(spent.attempts, now, MINUTE, HOUR), _recent(spent.irreversible, now, HOUR, DAY)
    _count(attempts, function, int(now.timestamp()) // MINUTE)
    if irreversible:
        _count(grave, function, int(now.timestamp()) // HOUR)
    return Spent(attempts=attempts, irreversible=grave)


def attempts(spent: Spent, now: datetime, function: str | None = None) -> int:
    """Begun in the last hour, by *function* or by all."""
    return _sum(spent.attempts, now, MINUTE, HOUR, function)


def irreversible(spent: Spent, now: datetime, function: str) -> int:
    """Begun in the last 24 hours."""
    return _sum(spent.irreversible, now, HOUR, DAY, function)


def _sum(counts: Mapping[str, Mapping[int, int]], now: datetime, unit: int, kept: int, function: str | None) -> int:
    counted = _counted(now, unit, kept)
    chosen = counts.values() if function is None else [counts.get(function, {})]
    return sum(count for by_time in chosen for moment, count in by_time.items() if moment in counted)


def _recent(counts: Mapping[str, Mapping[int, int]], now: datetime, unit: int, kept: int) -> dict[str, dict[int, int]]:
    counted = _counted(now, unit, kept)
    recent = {
        name: {moment: count for moment, count in by_time.items() if moment in counted}
        for name, by_time in counts.items()
    }
    return {name: by_time for name, by_time in recent.items() if by_time}


def _counted(now: datetime, unit: int, kept: int) -> range:
    """The whole units that count: the first may hold attempts that are just too old, and none is left out.

    What lies in the future was written by a wrong clock; it would count for ever and a day.
    """
    return range((int(now.timestamp()) - kept) // unit, int(now.timestamp()) // unit + 2)


def _count(counts: dict[str, dict[int, int]], function: str, moment: int) -> None:
    by_time = counts.setdefault(function, {})
    by_time[moment] = by_time.get(moment, 0) + 1
