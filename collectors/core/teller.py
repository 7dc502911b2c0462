"""Decides which events go out: changes at once, the steady state now and then, a last word for what is gone."""

import asyncio
import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from collectors.core.collector import AnyCollector, Memory
from collectors.core.heart import Tally
from collectors.core.outlet import Outlet, Refused, Unreachable
from collectors.core.state import TargetState
from schemas.clock import Clock
from schemas.envelope import Event
from schemas.health import Health, Level

logger = logging.getLogger(__name__)

KINDS = 50
"""Different refusals that are logged; all are counted."""


class Teller:
    """Keeps the ledger of targets (*targets*, shared with what is saved) and publishes what is due."""

    def __init__(
        self, collector: AnyCollector, outlet: Outlet, clock: Clock, host: str, steady_every: timedelta, tally: Tally,
        targets: dict[str, TargetState],
    ) -> None:  # fmt: skip
        self._collector = collector
        self._outlet = outlet
        self._clock = clock
        self._source = f"/hosts/{host}/collectors/{collector.name}"
        self._envelope: Any = Event[collector.health]  # type: ignore[name-defined]  # chosen at run time
        self._steady_every = steady_every.total_seconds()
        self._tally = tally
        self._targets = targets
        self._told_at: dict[str, float] = {}
        self._told_dropped = outlet.dropped
        self._cut_off = False
        self._refusals: set[str] = set()

    async def tell(self, events: list[Health], now: datetime, farewells: list[Health] | None = None) -> bool:
        """Publish what is due of *events*, and all *farewells*. True when a level changed."""
        farewells = farewells or []
        changes = [self._note(event, now) for event in (*events, *farewells)]
        due = [event for event in events if self._is_due(event)]
        await asyncio.gather(*map(self._tell, due), *map(self._tell_farewell, farewells))
        return any(changes)

    def unknown(self, reason: str, memory: Memory, now: datetime) -> list[Health]:
        """Nothing could be read: an event for every known target, or for the collector's own one."""
        known = list(self._targets) or [self._collector.own_target]
        return [self._collector.unknown(memory, target, reason, now) for target in known]

    def farewells(self, events: Iterable[Health], memory: Memory, now: datetime) -> list[Health]:
        """A last event for every known target that is not among the judged *events*."""
        judged = {event.target for event in events}
        return [self._farewell(target, memory, now) for target in self._targets if target not in judged]

    def _farewell(self, target: str, memory: Memory, now: datetime) -> Health:
        if target == self._collector.own_target:
            event = self._collector.unknown(memory, target, f"{self._collector.name} can be read again", now)
            return event.model_copy(update={"level": Level.OK})
        name = target.partition(":")[2]
        reason = f"{name} is gone: removed, or no longer chosen by {self._collector.section_name}"
        return self._collector.unknown(memory, target, reason, now)

    def _note(self, event: Health, now: datetime) -> bool:
        before = self._targets.get(event.target)
        if before is not None and before.level is event.level:
            return False
        self._targets[event.target] = TargetState(level=event.level, since=now, told=before.told if before else None)
        return True

    def _is_due(self, event: Health) -> bool:
        told_at = self._told_at.get(event.target)  # none in a process that has just begun: everything is told anew
        if told_at is None or self._targets[event.target].told is not event.level:
            return True
        return self._clock.monotonic() - told_at >= self._steady_every

    async def _tell_farewell(self, event: Health) -> None:
        """Forget the target when that got out; otherwise it is told with the next read."""
        if await self._tell(event):
            del self._targets[event.target], self._told_at[event.target]

    async def _tell(self, event: Health) -> bool:
        """Publish; False when it has to be told again."""
        state = self._targets[event.target]
        dropped, self._told_dropped = self._outlet.dropped - self._told_dropped, self._outlet.dropped
        event = event.model_copy(update={"previous": state.told, "since": state.since, "dropped": dropped})
        try:
            await self._outlet.health(
                self._envelope(
                    source=self._source, type=event.type_name(), subject=event.target, time=self._clock.now(),
                    dataschema=f"urn:ansai:schema:{event.type_name()}", data=event,
                )
            )  # fmt: skip
        except Unreachable as error:
            self._told_dropped -= dropped
            if not self._cut_off:
                logger.warning("%s can't tell its events, it goes on trying: %s", self._collector.name, error)
            self._cut_off = True
            return False
        except Refused as error:
            self._refused(event, error)
        else:
            if self._cut_off:
                logger.info("%s tells its events again", self._collector.name)
            self._cut_off = False
        self._told_at[event.target] = self._clock.monotonic()
        self._targets[event.target] = state.model_copy(update={"told": event.level})
        return True

    def _refused(self, event: Health, error: Refused) -> None:
        self._tally.refused += 1
        kind = str(error)
        if kind not in self._refusals and len(self._refusals) < KINDS:
            self._refusals.add(kind)
            logger.error("the event about %s was refused, and more of its kind may be: %s", event.target, error)
