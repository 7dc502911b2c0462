"""How full the audit stream is: people are told at 80, 90 and 100 % of its size, once among all hosts.

The stream drops nothing, so that a full one stops everything that would have to be audited.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from bus import subjects
from bus.port import Bucket, Bus, BusError, Conflict, Entry, StreamName, Usage
from schemas.alert import Alert, AlertState, Severity
from schemas.clock import Clock
from schemas.envelope import new_id
from schemas.units import show_size

logger = logging.getLogger(__name__)

FUNCTION = "audit.fill"
"""Stands for a function's name in the alerts."""

EVERY = timedelta(minutes=1)

LEVELS = (100, 90, 80)
"""Percent of the stream's size."""

FULL = 8 * 1024
"""Bytes. With less room than this, records are being refused: that is 100 %, though the last byte is never used."""


class Fill(BaseModel):
    """What people were last told."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    level: int
    """percent; 0: below all levels"""
    host: str
    at: AwareDatetime


class FillWatch:
    """Looks once a minute, from `start` to `stop`. *tell* is `Story.alert`."""

    def __init__(
        self, bus: Bus, host: str, tell: Callable[[str, Alert], Awaitable[bool]], clock: Clock,
        every: timedelta = EVERY,
    ) -> None:  # fmt: skip
        self._bus = bus
        self._host = host
        self._tell = tell
        self._clock = clock
        self._every = every
        self._trouble = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._forever(), name="fill of the audit trail")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _forever(self) -> None:
        while True:
            try:
                await self.look()
                self._trouble = ""
            except BusError as error:
                if str(error) != self._trouble:  # not every minute while the bus is away
                    logger.warning("how full the audit trail is can't be seen: %s", error)
                self._trouble = str(error)
            await self._clock.sleep(self._every)

    async def look(self) -> None:
        """Look once, and tell people of a change unless another host did. Raises BusError."""
        usage = await self._bus.usage(StreamName.AUDIT)
        level = level_of(usage)
        fleet = await self._bus.bucket(Bucket.FLEET)
        entry = await fleet.get(subjects.AUDIT_FILL)
        before = _level(entry)
        if level == before:
            return
        now = Fill(level=level, host=self._host, at=self._clock.now()).model_dump_json().encode()
        try:
            if entry is None:
                await fleet.create(subjects.AUDIT_FILL, now)
            else:
                await fleet.update(subjects.AUDIT_FILL, now, entry.revision)
        except Conflict:
            return  # another host was quicker, and tells
        if level > before or level == 0:
            await self._tell(new_id(), self._alert(level, usage))

    def _alert(self, level: int, usage: Usage) -> Alert:
        resolved = level == 0
        size = f"{show_size(usage.bytes)} of {show_size(usage.limit or 0)}"
        if resolved:
            title, text = "the audit trail has room again", f"it holds {size}"
        elif level == LEVELS[0]:
            title, text = (
                "the audit trail is full: nothing is changed any more",
                f"it holds {size}: no audit, no action",
            )
        else:
            title, text = f"the audit trail is {level} % full", f"it holds {size}; when it is full, nothing is changed"
        severity = Severity.INFO if resolved else Severity.WARNING if level == LEVELS[-1] else Severity.CRITICAL
        return Alert(
            host=self._host, function=FUNCTION, target="stream:AUDIT", severity=severity,
            state=AlertState.RESOLVED if resolved else AlertState.OPENED, title=title, text=text,
            next="" if resolved else "make room with: ansai audit archive", at=self._clock.now(),
        )  # fmt: skip


def level_of(usage: Usage) -> int:
    """The greatest of `LEVELS` that is reached; 0 below all, and for a stream without a limit."""
    if usage.limit is not None and usage.limit - usage.bytes < FULL:
        return LEVELS[0]
    return next((level for level in LEVELS if usage.share * 100 >= level), 0)


def _level(entry: Entry | None) -> int:
    if entry is None:
        return 0
    try:
        return Fill.model_validate_json(entry.value).level
    except ValidationError:
        logger.warning("%s in the bucket fleet can't be read: people may be told a second time", subjects.AUDIT_FILL)
        return 0
