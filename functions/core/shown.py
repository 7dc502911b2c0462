"""How a target looks in one line, for whoever shows it: the one thing that an observation may say about itself."""

from typing import NamedTuple, Protocol, runtime_checkable

from schemas.health import Level


class Shown(NamedTuple):
    """What is left out is not drawn."""

    level: Level | None = None
    percent: float | None = None
    """of what it may take: drawn as a bar"""
    figures: str = ""
    """`3.2 GiB of 4.0 GiB`, or what stands in place of the bar where nothing limits it"""
    reason: bool = False
    """the gap's reason says more than how far the target is from healthy: it is told"""
    idle: str = "nothing that could be done"
    """said of an empty plan"""


@runtime_checkable
class Shows(Protocol):
    """An observation that says how it looks. Pure, and optional: of any other one its `level` is shown."""

    def shown(self) -> Shown: ...


def shown(seen: object) -> Shown:
    """How *seen* looks."""
    if isinstance(seen, Shows):
        return seen.shown()
    level = getattr(seen, "level", None)
    return Shown(level=level if isinstance(level, Level) else None)
