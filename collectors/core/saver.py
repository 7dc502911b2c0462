"""Saves what a collector remembers, seldom enough for flash and slow disks."""

import asyncio
import logging
import os
from datetime import timedelta
from typing import Generic

from collectors.core.collector import Kept
from collectors.core.state import State, StateFile
from collectors.core.thread import in_daemon_thread
from schemas.clock import Clock

logger = logging.getLogger(__name__)

SOON = timedelta(minutes=1).total_seconds()
"""At most this often, when a level changed …"""
LATE = timedelta(minutes=5).total_seconds()
"""… and this often while only samples were added: what a crash then loses is a small part of a trend."""


class Saver(Generic[Kept]):
    """One save at a time, in a thread: the disk that holds the file may be the one that hangs or is full."""

    def __init__(self, file: StateFile[Kept], clock: Clock) -> None:
        self._file = file
        self._clock = clock
        self._saved_at = clock.monotonic()
        self._after = LATE
        self._saving: asyncio.Future[None] | None = None
        self._failing = False

    def after_look(self, state: State[Kept], *, changed: bool) -> None:
        """Begin a save when one is due."""
        if changed:
            self._after = SOON
        busy = self._saving is not None and not self._saving.done()
        if not busy and self._clock.monotonic() - self._saved_at >= self._after:
            self._begin(state)

    async def save(self, state: State[Kept]) -> None:
        """Save now and return when it is done, or has failed, which is logged."""
        if self._saving is not None and not self._saving.done():
            await asyncio.wait([self._saving])
        await asyncio.wait([self._begin(state)])

    def _begin(self, state: State[Kept]) -> "asyncio.Future[None]":
        self._saved_at, self._after = self._clock.monotonic(), LATE
        snapshot = State(state.memory, dict(state.targets))
        self._saving = in_daemon_thread(f"{self._file.name} save", lambda: self._file.save(snapshot))
        self._saving.add_done_callback(self._done)
        return self._saving

    def _done(self, saving: "asyncio.Future[None]") -> None:
        error = None if saving.cancelled() else saving.exception()
        if isinstance(error, OSError):
            if not self._failing:
                logger.warning(
                    "the memory of %s can't be saved (%s); it is tried again, until then a restart forgets trends",
                    self._file.name, os.strerror(error.errno) if error.errno else error,
                )  # fmt: skip
        elif error is not None:
            logger.error("the memory of %s can't be saved", self._file.name, exc_info=error)
        self._failing = error is not None
