"""Whether the wall clock can be trusted: it is compared with the steady one, which nobody sets."""

import logging
from datetime import datetime, timedelta

from schemas.clock import Clock
from schemas.units import show_duration

logger = logging.getLogger(__name__)

NONE = timedelta(0)


class Steadiness:
    """Notices that the wall clock was set while we ran. A new time that holds for a while is accepted."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._apart = clock.now().timestamp() - clock.monotonic()
        """seconds between the two, as long as nobody sets the wall clock"""
        self._noticed: tuple[float, timedelta] | None = None

    def jump(self, now: datetime, tolerance: timedelta, hold: timedelta) -> timedelta:
        """By how much *now*, just read, is off.

        Zero within the *tolerance*, and when the clock has kept its new time for *hold*.
        """
        steady = self._clock.monotonic()
        seconds = now.timestamp() - steady - self._apart
        if abs(seconds) <= tolerance.total_seconds():
            self._noticed = None
            return NONE
        off = timedelta(seconds=seconds)
        if self._noticed is None or abs(off - self._noticed[1]) > tolerance:
            self._noticed = steady, off
            logger.warning("the clock jumped by %s; nothing is done until it is steady again", show_duration(off))
        if steady - self._noticed[0] >= hold.total_seconds():
            self._apart += seconds
            self._noticed = None
            return NONE
        return off
