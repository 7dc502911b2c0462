"""When a level is believed: worse ones after confirmation, better ones after a margin. Pure."""

from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict

from schemas.health import Level


class Standing(BaseModel):
    """The level that is believed of one target, and the worse one that is being confirmed."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    level: Level
    at: datetime
    """of the last sample"""
    candidate: Level | None = None
    """the mildest of the worse levels seen in a row"""
    seen: int = 0
    """samples in that row"""


def stand(
    before: Standing | None, raw: Level, eased: Level, now: datetime, *, confirm: int, recent: timedelta
) -> Standing:
    """Believe *raw*, the level of this sample by itself, or what was believed before.

    *eased* is the level that the sample would have with every limit moved to the healthy side by the hysteresis;
    a level is left only when even *eased* is better. A worse level needs *confirm* samples in a row, an emergency
    none, and neither does the first sample or one after a pause longer than *recent*: nothing fresher is known.
    """
    if before is None:
        return Standing(level=raw, at=now)
    if raw.rank <= before.level.rank:
        return Standing(level=min(before.level, max(raw, eased, key=_rank), key=_rank), at=now)
    if raw is Level.EMERGENCY or now - before.at > recent:
        return Standing(level=raw, at=now)
    candidate, seen = min(raw, before.candidate or raw, key=_rank), before.seen + 1
    if seen < confirm:
        return Standing(level=before.level, at=now, candidate=candidate, seen=seen)
    if candidate is raw:
        return Standing(level=raw, at=now)
    return Standing(level=candidate, at=now, candidate=raw, seen=1)


def _rank(level: Level) -> int:
    return level.rank
