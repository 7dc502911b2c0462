"""Notices that the settings file changed, and loads it anew; a broken one leaves the old configuration in force.

Polled, because a file may be replaced, linked elsewhere, or lie on a mount that tells nobody.
"""

import asyncio
import hashlib
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from enum import Enum
from typing import NamedTuple

from infra.configuration.file import LARGEST
from infra.configuration.loading import ConfigurationError, Loaded, find, read
from schemas.clock import Clock, SystemClock
from schemas.settings.root import Configuration

logger = logging.getLogger(__name__)

EVERY = timedelta(seconds=1)

Changed = Callable[[Configuration, frozenset[str]], Awaitable[None]]
"""Called with the new configuration and the names of the sections that differ; none after a fault was mended."""

Broken = Callable[[str], Awaitable[None]]
"""Called with what is wrong, one line a fault; once for each content of the file."""


def changed_sections(old: Configuration, new: Configuration) -> frozenset[str]:
    """The top-level keys whose values differ, those that only one of both has included. Pure."""
    names = {*type(old).model_fields, *type(new).model_fields}
    absent = object()
    return frozenset(name for name in names if getattr(old, name, absent) != getattr(new, name, absent))


class Stamp(NamedTuple):
    """What tells one version of a file from another without reading it."""

    path: str
    inode: int
    size: int
    mtime_ns: int


class Unseen(Enum):
    UNSEEN = "no look yet"


class ConfigurationWatch:
    """Looks once a second while `run` goes on, and at once when it is woken (SIGHUP). It reads, and changes nothing.

    A changed file is loaded when it looked the same twice in a row: one that is being written is no settings file
    yet, and an empty one would mean the defaults.
    """

    def __init__(
        self, loaded: Loaded, path: str | None, options: Mapping[str, str | None] | None = None,
        environment: Mapping[str, str] | None = None, *, changed: Changed, broken: Broken,
        every: timedelta = EVERY, clock: Clock | None = None,
    ) -> None:  # fmt: skip
        """*loaded* is in force; *path*, *options* and *environment* are what it was read with (see `loading.read`)."""
        self._loaded = loaded
        self._path = path
        self._options = options
        self._environment = os.environ if environment is None else environment
        self._changed = changed
        self._broken = broken
        self._every = every
        self._clock = clock or SystemClock()
        self._woken = asyncio.Event()
        self._known: Stamp | Unseen | None = Unseen.UNSEEN
        """the version that was loaded last"""
        self._before: Stamp | Unseen | None = Unseen.UNSEEN
        self._told: str | None = None
        """of the content whose faults were told last; None when the file in place is the one in force"""

    @property
    def configuration(self) -> Configuration:
        """The one in force."""
        return self._loaded.configuration

    def wake(self) -> None:
        """Load at once what is there, also when nothing seems to have changed. For signal handlers of the loop."""
        self._woken.set()

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            await self.look(at_once=await self._pause())

    async def _pause(self) -> bool:
        """Wait for the next look; whether it was asked for."""
        sleeping = asyncio.ensure_future(self._clock.sleep(self._every))
        waking = asyncio.ensure_future(self._woken.wait())
        try:
            await asyncio.wait({sleeping, waking}, return_when=asyncio.FIRST_COMPLETED)
            if sleeping.done():
                sleeping.result()
        finally:
            sleeping.cancel()
            waking.cancel()
        woken = self._woken.is_set()
        self._woken.clear()
        return woken

    async def look(self, *, at_once: bool = False) -> None:
        """One look. Calls back when there is something to tell."""
        stamp = await asyncio.to_thread(self._stamp)
        before, self._before = self._before, stamp
        # The first version is loaded too: it may have changed between the start's reading and this watch.
        if at_once or (stamp == before and stamp != self._known):
            self._known = stamp
            await self._load(stamp)

    def _stamp(self) -> Stamp | None:
        """Of the file that would be read now; None when there is none."""
        path = find(self._path, self._environment)
        try:
            status = os.stat(path) if path is not None else None
        except OSError:
            status = None
        if path is None or status is None:
            return None
        return Stamp(path, status.st_ino, status.st_size, status.st_mtime_ns)

    async def _load(self, stamp: Stamp | None) -> None:
        content = await asyncio.to_thread(_digest, stamp)
        try:
            if stamp is None and self._loaded.file is not None:
                raise ConfigurationError(f"{self._loaded.file}: is gone; put it back, or restart to do without it")
            loaded = await asyncio.to_thread(read, self._path, self._environment, self._options)
        except ConfigurationError as error:
            if content != self._told:
                self._told = content
                logger.error("the old settings stay in force: %s", error)
                await self._broken(str(error))
            return
        sections = changed_sections(self._loaded.configuration, loaded.configuration)
        mended, self._told = self._told is not None, None
        self._loaded = loaded
        if sections or mended:
            logger.info("new settings from %s: %s", loaded.file, ", ".join(sorted(sections)) or "nothing differs")
            await self._changed(loaded.configuration, sections)


def _digest(stamp: Stamp | None) -> str:
    """Of the content; of nothing when it can't be read."""
    try:
        with open(stamp.path if stamp is not None else os.devnull, "rb") as file:
            return hashlib.sha256(file.read(LARGEST + 1)).hexdigest()
    except OSError as error:
        return f"unreadable: {error.errno}"
