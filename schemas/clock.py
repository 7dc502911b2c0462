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
    """The machine's clock. A `scale` of 60 makes a sleep of a minute last a second; the wall time stays true."""

    def __init__(self, scale: float = 1.0) -> None:
        self._scale = scale

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic() * self._scale

    async def sleep(self, duration: timedelta) -> None:
        await asyncio.sleep(max(0.0, duration.total_seconds()) / self._scale)
