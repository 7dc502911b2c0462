"""Runs one collector: looks on a schedule, remembers, and tells. A read that fails is told like any other state."""

import asyncio
import logging
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Generic

from collectors.core.aside import AsideRun
from collectors.core.bugs import Bugs
from collectors.core.collector import Collector, Kept, Reading, Section
from collectors.core.heart import Heart, Tally
from collectors.core.outlet import Outlet
from collectors.core.saver import Saver
from collectors.core.state import StateFile
from collectors.core.teller import Teller
from collectors.core.thread import abandon, in_daemon_thread
from schemas.clock import Clock, SystemClock
from schemas.health import Health
from schemas.heartbeat import ComponentState
from schemas.probes import ProbeError, Probes
from schemas.text import plain
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
        self, collector: Collector[Section, Reading, Kept], settings: Section, probes: Probes, outlet: Outlet,
        host: str, *, directory: Path | None = None, clock: Clock | None = None,
        jitter: Callable[[], float] = spread, version: str = "",
    ) -> None:  # fmt: skip
        self.collector = collector
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
        self._bugs = Bugs(collector.name)
        self._heart = Heart(collector.name, host, version, outlet, self._clock, self.tally, self._bugs)
        self._aside = AsideRun(collector, settings, probes, self._bugs)
        self._reading: asyncio.Future[Reading] | None = None
        self._reading_since = 0.0
        self._failing = False
        self._telling = False
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.collector.name

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
        self._aside.leave()
        try:
            async with asyncio.timeout(STOP.total_seconds()):
                if self._telling:
                    await asyncio.wait([task], timeout=STOP.total_seconds() / 2)
                    if not task.done():
                        logger.warning(
                            "%s was stopped while telling; what was not told is told after the restart", self.name
                        )
                await _cancel(task)
                await self._saver.save(self._state)
                await self._heart.say_goodbye()
        except TimeoutError:
            logger.warning("%s did not stop within %g s and was left", self.name, STOP.total_seconds())
        finally:
            await _cancel(task)
            await self._heart.stop()

    async def look(self) -> list[Health]:
        """Read, judge and tell once; return the judged events, all of them, told or not."""
        now = self._clock.now()
        self.tally.handled += 1
        try:
            self._state.memory = await self._aside.attend(self._state.memory, now)
            reading = await self._read(self._state.memory)
            events, memory = self.collector.judge(self._settings, reading, self._state.memory, now)
        except ProbeError as error:
            return await self._tell_failure(str(error), now)
        except Exception as error:  # noqa: BLE001 - a bug in one collector is told as unknown, and logged
            self._bugs.keep(error)
            return await self._tell_failure(f"{type(error).__name__} in {self.name}; the log has its traceback", now)
        farewells = self._teller.farewells(events, self._state.memory, now)  # what is gone is only in the old memory
        self._state.memory = memory
        if self._failing:
            logger.info("%s can be read again", self.name)
        self._failing = False
        await self._tell(events, now, farewells)
        return events

    async def _read(self, memory: Kept) -> Reading:
        """Raises ProbeError past the deadline; the thread is then left to itself, and none is started beside it."""
        loop = asyncio.get_running_loop()
        if self._reading is not None and not self._reading.done():
            hangs = show_duration(loop.time() - self._reading_since)
            raise ProbeError(f"the read that began {hangs} ago still hangs; none is started beside it")
        timeout = self._settings.read_timeout.total_seconds()
        reading = self._reading = in_daemon_thread(
            f"{self.name} read", lambda: self.collector.read(self._settings, self._probes, memory)
        )
        self._reading_since = loop.time()
        try:
            await asyncio.wait([reading], timeout=timeout)
        finally:
            if not reading.done():  # past its deadline, or we are being stopped
                abandon(reading)
        if not reading.done():
            raise ProbeError(f"no answer within {timeout:g} s: the read hangs")
        return reading.result()

    async def _tell_failure(self, reason: str, now: datetime) -> list[Health]:
        self.tally.failures += 1
        if not self._failing:
            logger.warning("%s can't be read, its targets are unknown: %s", self.name, plain(reason))
        self._failing = True
        events = self._teller.unknown(reason, self._state.memory, now)
        await self._tell(events, now)
        return events

    async def _tell(self, events: list[Health], now: datetime, farewells: list[Health] | None = None) -> None:
        if self.tally.state is not ComponentState.STOPPING:
            self.tally.state = ComponentState.DEGRADED if self._failing else ComponentState.RUNNING
        self._telling = True
        try:
            changed = await self._teller.tell(events, now, farewells)
        finally:
            self._telling = False
        self._saver.after_look(self._state, changed=changed)

    async def _forever(self) -> None:
        every = self._settings.every.total_seconds()
        while not self._stopping:
            began = self._clock.monotonic()
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - telling failed by a bug: logged, and tried with the next read
                self.tally.failures += 1
                self._bugs.keep(error)
            pause = every * (1 + JITTER * self._jitter()) - (self._clock.monotonic() - began)
            if not self._stopping:
                await self._clock.sleep(timedelta(seconds=max(pause, JITTER * every)))


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
