"""A watch over a bucket that is begun again when it broke, and that tells what was deleted in between."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from typing import cast

from bus.port import BusError, Entry, KeyValue

logger = logging.getLogger(__name__)

RETRY = 1.0
"""Seconds until a watch that broke is tried again."""

Hear = Callable[[Entry, bool], None]
"""Called with each entry, and whether it was there when the watch began: then it is what counts, whatever is known."""


class BucketWatch:
    """Tells of every entry whose key begins with *prefix*: first of all that are there, then of each change."""

    def __init__(self, bucket: KeyValue, prefix: str, hear: Hear) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._hear = hear
        self._present: set[str] = set()
        self._keeping: asyncio.Task[None] | None = None
        self.problem = "it was never read"
        """why what was told may be out of date; empty while the watch runs"""
        self.on_problem: list[Callable[[], None]] = []
        """called when `problem` has changed"""

    async def start(self) -> None:
        """Return when everything that is stored now was told. Raises BusError."""
        filled = asyncio.Event()
        first = asyncio.create_task(self._watch(filled))
        ready = asyncio.create_task(filled.wait())
        try:
            await asyncio.wait({first, ready}, return_when=asyncio.FIRST_COMPLETED)
            if first.done():
                first.result()
        except BaseException:
            first.cancel()
            raise
        finally:
            ready.cancel()
        self._keeping = asyncio.create_task(self._keep(first))

    async def stop(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping
            self._keeping = None

    async def _keep(self, watch: asyncio.Task[None]) -> None:
        try:
            while True:
                try:
                    await watch
                    self._troubled("its watch has ended")
                except BusError as error:
                    self._troubled(str(error))
                await asyncio.sleep(RETRY)
                watch = asyncio.create_task(self._watch(asyncio.Event()))
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _watch(self, filled: asyncio.Event) -> None:
        """One watch, to its end. What it doesn't meet among what is there was deleted while nobody watched."""
        seen: set[str] = set()
        async with contextlib.aclosing(self._entries()) as entries:
            async for entry in entries:
                if entry is None:
                    for key in self._present - seen:
                        self._tell(Entry(key, b"", 0, deleted=True), first=True)
                    self._troubled("")
                    filled.set()
                    continue
                if not filled.is_set():
                    seen.add(entry.key)
                self._tell(entry, first=not filled.is_set())

    def _entries(self) -> AsyncGenerator[Entry | None, None]:
        """The port promises an iterator only; all that there are can be closed."""
        return cast("AsyncGenerator[Entry | None, None]", self._bucket.watch(self._prefix))

    def _tell(self, entry: Entry, *, first: bool) -> None:
        if entry.deleted:
            self._present.discard(entry.key)
        else:
            self._present.add(entry.key)
        self._hear(entry, first)

    def _troubled(self, problem: str) -> None:
        if problem == self.problem:
            return
        if problem:
            logger.warning("keys %s* can't be watched, trying again: %s", self._prefix, problem)
        self.problem = problem
        for tell in self.on_problem:
            tell()
