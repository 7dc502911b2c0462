"""Runs a collector's dear read beside the cheap one."""

import asyncio
import logging
from datetime import datetime
from typing import Any, Generic

from collectors.core.bugs import Bugs
from collectors.core.collector import Collector, Kept, Reading, Section
from collectors.core.thread import abandon, in_daemon_thread
from schemas.probes import ProbeError, Probes

FIRST_WAIT = 2.0
"""Seconds that the very first look waits for the answer, so that what is told first is complete."""

logger = logging.getLogger(__name__)


class AsideRun(Generic[Section, Reading, Kept]):
    """At most one read at a time; one that hangs is told once as unanswered and not started again."""

    def __init__(
        self, collector: Collector[Section, Reading, Kept], settings: Section, probes: Probes, bugs: Bugs
    ) -> None:
        self._aside = collector.aside
        self._name = collector.name
        self._settings = settings
        self._probes = probes
        self._bugs = bugs
        self._first = True
        self._future: asyncio.Future[Any] | None = None
        self._deadline = 0.0

    async def attend(self, memory: Kept, now: datetime) -> Kept:
        """Take the answer that came, start the read that is due."""
        aside = self._aside
        if aside is None:
            return memory
        memory = self._take(memory, now)
        if self._future is None and aside.due(self._settings, memory, now):
            self._deadline = asyncio.get_running_loop().time() + aside.timeout.total_seconds()
            self._future = in_daemon_thread(f"{self._name} aside", lambda: aside.read(self._settings, self._probes))
            if self._first:
                await asyncio.wait([self._future], timeout=FIRST_WAIT)
                memory = self._take(memory, now)
            self._first = False
        return memory

    def leave(self) -> None:
        """Wait for no answer."""
        if self._future is not None:
            abandon(self._future)

    def _take(self, memory: Kept, now: datetime) -> Kept:
        aside, future = self._aside, self._future
        if aside is None or future is None:
            return memory
        if not future.done():
            if asyncio.get_running_loop().time() < self._deadline:
                return memory
            self._deadline = float("inf")
            return aside.absorb(memory, ProbeError(f"no answer within {aside.timeout.total_seconds():g} s"), now)
        self._future = None
        try:
            found = future.result()
        except ProbeError as error:
            found = error
        except Exception as error:  # noqa: BLE001 - a bug in a dear read must not end the cheap one; it is logged
            self._bugs.keep(error)
            found = ProbeError(f"{type(error).__name__}; the log has its traceback")
        return aside.absorb(memory, found, now)
