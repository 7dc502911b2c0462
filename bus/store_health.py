"""Notice that our nats-server can write no more since its disk was full, and restart it when there is room again.

A stream of nats-server 2.15 that could not write once takes nothing until the server starts anew. A server that
started on an almost full disk refuses everything for as long as it runs, by a limit it took at start. Neither passes
with room. The monitoring port tells both for a millisecond of work. The log does not: it shares the full disk, so that
lines are lost, and it is rotated. A message published to see whether it is taken would write, and wear the storage.
"""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from schemas.units import show_duration, show_size

logger = logging.getLogger(__name__)

ROOM = 8 * 1024 * 1024
"""Bytes that must be free for a restart: the largest message by default, and with it the few KiB in which a start
writes its configuration, ports and log. With less the server would not start, or be as full at once."""

_INTERVAL = 5.0  # seconds between looks
_PATIENCE = 2.0  # seconds for an answer over loopback
_FIRST_PAUSE = 15.0  # seconds between the first restart and the next
_LONGEST_PAUSE = 600.0  # seconds


@dataclass(frozen=True)
class Sight:
    """What a look at the server showed."""

    trouble: str
    """why it takes no more messages; "" when it does"""
    stored: int
    """bytes"""

    @property
    def room_needed(self) -> int:
        """Bytes that must be free so that a restart helps.

        At start nats-server limits itself to 75 % of what is stored and free together (JetStream's `max_file`), and
        takes nothing when that is less than what is stored: a third of it must be free in any case.
        """
        return ROOM + self.stored // 3


@dataclass(frozen=True)
class Restarts:
    """When the last one was, and how long after it the next may come: twice as long each time, up to ten minutes."""

    last: float | None = None
    pause: float = _FIRST_PAUSE

    @property
    def next_at(self) -> float:
        return float("-inf") if self.last is None else self.last + self.pause

    def after_another(self, now: float) -> "Restarts":
        if self.last is None or now - self.last > 2 * self.pause:
            return Restarts(now)
        return Restarts(now, min(2 * self.pause, _LONGEST_PAUSE))


class Step(Enum):
    """What a sight calls for."""

    NONE = auto()
    AWAIT_ROOM = auto()
    AWAIT_PAUSE = auto()
    RESTART = auto()


def decide(sight: Sight, free: int, restarts: Restarts, now: float) -> Step:
    """*free*: bytes on the filesystem of the store; *now*: monotonic seconds, as in *restarts*."""
    if not sight.trouble:
        return Step.NONE
    if free < sight.room_needed:
        return Step.AWAIT_ROOM
    return Step.AWAIT_PAUSE if now < restarts.next_at else Step.RESTART


class StoreWatch:
    """Looks every few seconds, and ends a server that a start would mend; whoever keeps it running starts it."""

    def __init__(self, store: Path, monitoring: Callable[[], str], end: Callable[[], Awaitable[None]]) -> None:
        """*monitoring*: base URL of the running server's monitoring port, "" for none; *end*: ends it in order."""
        self._store = store
        self._monitoring = monitoring
        self._end = end
        self._restarts = Restarts()
        self._told = Step.NONE
        self._room_awaited = 0  # bytes

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL)
            try:
                await self._step(asyncio.get_running_loop().time())
            except OSError as error:
                logger.warning("can't watch the store of nats-server in %s: %s", self._store, error)

    async def _step(self, now: float) -> None:
        free = _free_space(self._store)
        if free < self._room_awaited or (self._told is Step.AWAIT_PAUSE and now < self._restarts.next_at):
            return  # the server writes a line to its log whenever it has to answer that it is not well
        sight = await look(self._monitoring())
        if sight is None:
            return
        step = decide(sight, free, self._restarts, now)
        self._room_awaited = sight.room_needed if step is Step.AWAIT_ROOM else 0
        self._tell(step, sight, free, now)
        if step is Step.RESTART:
            self._restarts = self._restarts.after_another(now)
            await self._end()

    def _tell(self, step: Step, sight: Sight, free: int, now: float) -> None:
        """Say what changed, and every restart."""
        told, self._told = self._told, step
        if step is told and step is not Step.RESTART:
            return
        trouble = f"nats-server takes no more messages: {sight.trouble}"
        match step:
            case Step.NONE:
                logger.warning("nats-server takes messages again; %s are free in %s", show_size(free), self._store)
            case Step.AWAIT_ROOM:
                logger.error(
                    "%s; %s are free in %s, it is restarted when %s are: make room there",
                    trouble, show_size(free), self._store, show_size(sight.room_needed),
                )  # fmt: skip
            case Step.AWAIT_PAUSE:
                wait = show_duration(self._restarts.next_at - now)
                logger.error(
                    "%s; a restart did not help for long, the next one is in %s: look at the disk of %s",
                    trouble, wait, self._store,
                )  # fmt: skip
            case Step.RESTART:
                logger.error("%s; %s are free in %s: restarting it", trouble, show_size(free), self._store)


def _free_space(directory: Path) -> int:
    """Bytes free to everyone on its filesystem: what nats-server reckons with, too."""
    figures = os.statvfs(directory)
    return figures.f_bavail * figures.f_frsize


async def look(monitoring: str) -> Sight | None:
    """Ask the server; None when it does not answer as one: it starts, ends, or is too busy, which a restart won't mend.

    *monitoring*: the base URL of its monitoring port, "" for none.
    """
    if not monitoring:
        return None
    try:
        health = await _get(monitoring, "/healthz?details=true")
        jetstream = await _get(monitoring, "/jsz")
        stored = int(jetstream.get("storage", 0))
        limit = int(jetstream.get("config", {}).get("max_storage", 0))
        return Sight(_write_errors(health) or _limit_met(stored, limit), stored)
    except (OSError, TimeoutError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write_errors(health: Any) -> str:
    """Those that last until a start; a stream that could not be recovered is another matter."""
    errors = [
        str(error["error"])
        for error in health.get("errors", [])
        if error["type"] == "JETSTREAM" or " write error: " in error["error"]  # JETSTREAM: it turned it off altogether
    ]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return errors[0] + more if errors else ""


def _limit_met(stored: int, limit: int) -> str:
    if stored <= limit or limit <= 0:
        return ""
    return f"it stores {show_size(stored)}, and limited itself to {show_size(limit)} on the full disk it started on"


async def _get(base: str, path: str) -> Any:
    """The JSON of the answer, whatever its status: a server that is not well answers with 503."""
    url = urlsplit(base)
    async with asyncio.timeout(_PATIENCE):
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        try:
            writer.write(f"GET {url.path}{path} HTTP/1.0\r\nHost: {url.netloc}\r\n\r\n".encode())
            answer = await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    return json.loads(answer.partition(b"\r\n\r\n")[2])
