"""The kill switch: a file of this host, a file of its administrator, or a key on the bus. Any of them is enough."""

import asyncio
import contextlib
import logging
import math
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from bus.port import Entry
from bus.subjects import FREEZE
from infra.hosts.fleet import FleetMirror
from schemas.freeze import Freeze
from schemas.settings.policy import SYSTEM_FREEZE_FILE

logger = logging.getLogger(__name__)

LOOK_EVERY = 0.5
"""Seconds between looks at the files, only to notice that they came or went; each action looks by itself."""

FRESH = 0.02
"""Seconds for which a look at the files serves: many actions at once need no look each."""

LONGEST = 16 * 1024
"""Bytes of a freeze file that are read."""

KEY_PLACE = f"key {FREEZE} of bucket fleet"


class BusBrake:
    """See `functions.core.ports.Brake`. What can't be looked at counts as frozen."""

    def __init__(self, mirror: FleetMirror, file: Path, system_file: Path = SYSTEM_FREEZE_FILE) -> None:
        self._mirror = mirror
        self._files = (file, system_file)
        self._by_file: Freeze | None = None
        self._looked = -math.inf
        """when at the files, by the steady clock"""
        self._key: Freeze | None = None
        self._changed = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._stopped = False
        """somebody was told of a freeze since it was last seen to be lifted"""
        self.on_lifted: list[Callable[[], None]] = []
        """Called when the last freeze was lifted, so that what waited is looked at again at once."""

    async def start(self) -> None:
        """Begin to notice changes. The mirror is started before. Raises nothing."""
        self._mirror.follow(FREEZE, self._hear)
        self._mirror.on_problem.append(self._changed.set)
        self._looking = asyncio.create_task(self._look(self.frozen()))

    async def stop(self) -> None:
        if self._looking is None:
            return
        self._mirror.unfollow(self._hear)
        self._mirror.on_problem.remove(self._changed.set)
        self._looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._looking
        self._looking = None

    def frozen(self) -> Freeze | None:
        """See `functions.core.ports.Brake`: two looks at the disk, a moment ago at most, and one at the mirror."""
        found = self._found()
        self._stopped = self._stopped or found is not None
        return found

    def _found(self) -> Freeze | None:
        now = time.monotonic()
        if now - self._looked >= FRESH:
            self._by_file, self._looked = frozen_by_file(self._files), now
        found = self._by_file or self._key
        if found is None and self._mirror.problem:
            return Freeze(reason=f"the bus can't be asked: {self._mirror.problem}", where=KEY_PLACE)
        return found

    def _hear(self, entry: Entry) -> None:
        if entry.key == FREEZE:
            self._key = None if entry.deleted else read_freeze(entry.value, KEY_PLACE)
            self._changed.set()

    async def _look(self, before: Freeze | None) -> None:
        if before is not None:
            logger.warning("nothing is begun: frozen by %s: %s", before.where, before.reason or "no reason given")
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY):
                    await self._changed.wait()
            self._changed.clear()
            now = self._found()
            if now is not None and before is None:
                logger.warning("nothing more is begun: frozen by %s: %s", now.where, now.reason or "no reason given")
            elif now is None and (before is not None or self._stopped):  # it may have come and gone between two looks
                self._stopped = False
                logger.info("the freeze is lifted")
                for tell in self.on_lifted:
                    tell()
            before = now


def frozen_by_file(files: Sequence[Path]) -> Freeze | None:
    """The freeze of the first file that exists, or that can't be looked at. Blocks shortly. Raises nothing."""
    for file in files:
        try:
            found = os.lstat(file)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            return Freeze(reason=f"it can't be looked at: {error}", where=str(file))
        if not stat.S_ISREG(found.st_mode):
            return Freeze(reason="it is no regular file; it was not read", where=str(file))
        return _read_file(file)
    return None


def read_freeze(content: bytes, where: str) -> Freeze:
    """What *content* says: JSON of a `Freeze`, or any text as the reason."""
    try:
        return Freeze.model_validate_json(content).model_copy(update={"where": where})
    except ValidationError:
        text = " ".join(content.decode("utf-8", "backslashreplace").split())
        return Freeze(reason=text, where=where)


def _read_file(file: Path) -> Freeze:
    try:
        opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        return Freeze(reason=f"it can't be read: {error.strerror}", where=str(file))
    try:
        return read_freeze(os.read(opened, LONGEST), str(file))
    except OSError as error:
        return Freeze(reason=f"it can't be read: {error.strerror}", where=str(file))
    finally:
        os.close(opened)
