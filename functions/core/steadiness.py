"""Whether the wall clock can be trusted: it is compared with the steady one, which nobody sets."""

import logging
from datetime import timedelta

from schemas.clock import Clock
from schemas.units import show_duration

logger = logging.getLogger(__name__)


class Steadiness:
    """Notices that the wall clock was set while we ran. A new time that holds for a while is accepted."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._wall, self._steady = clock.now(), clock.monotonic()
        self._noticed: tuple[float, timedelta] | None = None

    def jump(self, tolerance: timedelta, hold: timedelta) -> timedelta:
        """By how much it is off; zero within the *tolerance*, and when it has kept its new time for *hold*."""
        steady = self._clock.monotonic()
        off = (self._clock.now() - self._wall) - timedelta(seconds=steady - self._steady)
        if abs(off) <= tolerance:
            self._noticed = None
            return timedelta(0)
        if self._noticed is None or abs(off - self._noticed[1]) > tolerance:
            self._noticed = steady, off
            logger.warning("the clock jumped by %s; nothing is done until it is steady again", show_duration(off))
        if steady - self._noticed[0] >= hold.total_seconds():
            self._wall += off
            self._noticed = None
            return timedelta(0)
        return off
