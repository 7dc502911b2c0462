"""The clock that everything reads, so that tests and demos can run it faster."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    def now(self) -> datetime:
        """Wall time in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    async def sleep(self, duration: timedelta) -> None: ...


class SystemClock:
    """The machine's clock. A *scale* of 60 makes a minute of it a second: wall time, steady time, and sleeps alike."""

    def __init__(self, scale: float = 1.0) -> None:
        self._scale = scale
        self._wall, self._steady = datetime.now(UTC), time.monotonic()

    def now(self) -> datetime:
        if self._scale == 1.0:
            return datetime.now(UTC)
        return self._wall + timedelta(seconds=(time.monotonic() - self._steady) * self._scale)

    def monotonic(self) -> float:
        return time.monotonic() * self._scale

    async def sleep(self, duration: timedelta) -> None:
        await asyncio.sleep(max(0.0, duration.total_seconds()) / self._scale)
