"""Runs one collector: looks on a schedule, remembers, and tells. A read that fails is told like any other state."""

import asyncio
import logging
import random
import traceback
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Generic

from collectors.core.collector import Collector, Kept, Reading, Section
from collectors.core.heart import Heart, Tally
from collectors.core.outlet import Outlet
from collectors.core.sidekick import Sidekick
from collectors.core.state import Saver, StateFile
from collectors.core.teller import Teller
from collectors.core.thread import abandon, in_daemon_thread
from schemas.clock import Clock, SystemClock
from schemas.health import Health
from schemas.heartbeat import ComponentState
from schemas.probes import ProbeError, Probes
from schemas.units import show_duration

logger = logging.getLogger(__name__)

JITTER = 0.1
"""Share of the interval by which a read comes earlier or later, so that a fleet does not look in step."""

STOP = timedelta(seconds=5)
"""A stop takes no longer, whatever hangs."""


def spread() -> float:
    """A random number between -1 and 1."""
    return random.uniform(-1, 1)  # noqa: S311 - spreads load, keeps no secret


class CollectorRun(Generic[Section, Reading, Kept]):
    """One collector at work, from `start` to `stop`.

    *directory* is where memory is kept over restarts, None for nowhere. *jitter* returns numbers from -1 to 1.
    """

    def __init__(
        self, collector: Collector[Section, Reading, Kept], settings: Section, probes: Probes, outlet: Outlet, host: str,
        *, directory: Path | None = None, clock: Clock | None = None, jitter: Callable[[], float] = spread,
        version: str = "",
    ) -> None:  # fmt: skip
        self._collector = collector
        self._settings = settings
        self._probes = probes
        self._clock = clock or SystemClock()
        self._jitter = jitter
        self.tally = Tally(started=self._clock.now())
        file = StateFile(collector, directory)
        self._state = file.load()
        self._saver = Saver(file, self._clock)
        self._teller = Teller(
            collector, outlet, self._clock, host, settings.steady_every, self.tally, self._state.targets
        )
        self._heart = Heart(collector.name, host, version, outlet, self._clock, self.tally)
        self._sidekick = Sidekick(collector.name, collector.aside, settings, probes, self._clock)
        self._reading: asyncio.Future[Reading] | None = None
        self._reading_since = 0.0
        self._trouble = ""
        self._bugs: set[str] = set()
        self._telling = False
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self._collector.name

    def start(self) -> None:
        """Look at once, then on schedule."""
        self._task = asyncio.create_task(self._forever(), name=f"collector {self.name}")
        self._heart.start()

    async def stop(self) -> None:
        """Finish telling, save what is remembered, say goodbye. Takes `STOP` at most. Idempotent."""
        self._stopping, self.tally.state = True, ComponentState.STOPPING
        task, self._task = self._task, None
        if task is None:
            return
        try:
            async with asyncio.timeout(STOP.total_seconds()):
                if self._telling:
                    await asyncio.wait([task])
                await _cancel(task)
                await self._saver.save(self._state)
                await self._heart.stop()
        except TimeoutError:
            logger.warning("%s did not finish within %s and was left", self.name, show_duration(STOP))
            await _cancel(task)

    async def look(self) -> list[Health]:
        """Read, judge and tell once; return the judged events, all of them, told or not."""
        now = self._clock.now()
        self.tally.handled += 1
        memory = await self._sidekick.attend(self._state.memory, now)
        self._state.memory = memory
        try:
            reading = await self._read(memory)
            events, memory = self._collector.judge(self._settings, reading, memory, now)
        except ProbeError as error:
            return await self._failed(str(error), now)
        except Exception as error:  # noqa: BLE001 - a bug in one collector is told as unknown, with its traceback logged
            self._keep_traceback(error)
            return await self._failed(f"{type(error).__name__} in {self.name}; the log has its traceback", now)
        self._state.memory = memory
        if self._trouble:
            logger.info("%s can be read again", self.name)
        self._trouble = ""
        self._set_state(ComponentState.RUNNING)
        await self._tell(self._teller.tell(events, memory, now))
        return events
