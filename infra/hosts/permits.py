"""A host's share in its group, for one function: who is unhealthy, who acts now, what was spent."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

from bus import subjects
from bus.port import BusError, Conflict
from functions.core.ports import NotStored
from infra.hosts import budget
from infra.hosts.desk import NOBODY_SERVES, PATIENCE, Wish, desk_of
from infra.hosts.fleet import FleetMirror
from infra.hosts.members import TOUCH_EVERY, Members, Tally
from infra.hosts.slots import HostSlot
from schemas.clock import Clock, SystemClock
from schemas.fleet import Fleet, Slots, Spent, Storm

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

SLOT_TIME = timedelta(seconds=60)
"""A holder that has not renewed its slot for this long has died."""
TOUCH_RETRY = timedelta(seconds=5)
_RENEW_RETRY = 1.0  # seconds


class BusPermits:
    """See `functions.core.ports.Permits`. The mirror is started before, and shared by the functions of a process."""

    def __init__(
        self, mirror: FleetMirror, group: str, function: str, host: str, holder: str,
        clock: Clock | None = None, slot_time: timedelta = SLOT_TIME,
    ) -> None:  # fmt: skip
        self._clock = clock or SystemClock()
        self.host = host
        self.function = function
        self._members = Members(mirror, group, function, host, self._clock)
        self._desk = desk_of(mirror, subjects.spent_key(host), self._clock)
        slots = mirror.cell(subjects.group_key("slots", group, function), Slots)
        self.slot = HostSlot(slots, host, holder, slot_time, self._clock)
        self._storm = mirror.cell(subjects.group_key("storm", group, function), Storm)
        self._users = 0
        """treatments that were let through and have not given back"""
        self._wake = asyncio.Event()
        self._renewal_failed = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._known: tuple[Any, ...] | None = None
        """what the latest view was counted from: several are asked for in one treatment"""
        self._fleet_then = Fleet()

    async def start(self) -> None:
        """Say that this host is there, and begin to serve. Raises NotStored."""
        self._members.start()
        try:
            await self._members.touch()
        except BaseException:
            self._members.stop()
            raise
        self._tasks = [asyncio.create_task(self._work()), asyncio.create_task(self._keep_touching())]

    async def stop(self) -> None:
        """Give the slot back, whoever used it; what still waits is refused."""
        tasks, self._tasks = self._tasks, []
        self._desk.withdraw(self)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._members.stop()
        self._users = 0
        if tasks:
            await self._free()

    def view(self, now: datetime) -> Fleet:
        return self.fleet(self._desk.spent.stored or Spent(), self.slot.acting(), now)

    async def report(self, *, unhealthy: bool) -> None:
        await self._members.report(unhealthy=unhealthy)

    async def take(self, judge: Callable[[Fleet], Answer | None], *, irreversible: bool) -> Answer | None:
        if not self._tasks or self._tasks[0].done():
            raise NotStored(NOBODY_SERVES)
        wish = Wish(self, judge, irreversible, asyncio.get_running_loop().create_future())
        self._desk.apply(wish)
        try:
            answer: Answer | None = await wish.answer
        except asyncio.CancelledError:
            if _let_through(wish):  # but whoever asked has gone
                await self.give_back()
            raise
        return answer

    async def give_back(self) -> None:
        """The slot is freed in the background."""
        self._users = max(0, self._users - 1)
        if not self._users:
            self._wake.set()

    async def storm(self, *, begins: bool, unhealthy: int = 0, members: int = 0) -> bool:
        """Raises NotStored."""
        if begins == (self._storm.revision > 0):
            return False
        async with self._storm.lock:
            try:
                if begins:
                    storm = Storm(since=self._clock.now(), unhealthy=unhealthy, members=members, told_by=self.host)
                    await self._storm.replace(storm, 0)
                elif self._storm.revision:
                    await self._storm.remove()
                return True
            except Conflict:
                return False
            except BusError as error:
                raise NotStored(f"whether there is a storm can't be stored: {error}") from error

    def granted(self) -> None:
        """See `desk.Applicant`."""
        self._users += 1
        if self._users == 1:
            self._wake.set()  # from now on it is to be renewed

    def fleet(self, spent: Spent, acting: tuple[str, ...], now: datetime) -> Fleet:
        """See `desk.Applicant`."""
        tally = self._members.tally()
        known = (spent, acting, tally, self._members.unhealthy_since, int(now.timestamp()))
        if self._known is not None and self._known[0] is spent and self._known[1:] == known[1:]:
            return self._fleet_then
        self._known = known
        self._fleet_then = self._counted(spent, acting, tally, now)
        return self._fleet_then

    def _counted(self, spent: Spent, acting: tuple[str, ...], tally: Tally, now: datetime) -> Fleet:
        return Fleet.model_construct(
            members=tally.members, unhealthy=tally.unhealthy, unhealthy_since=self._members.unhealthy_since,
            acting=acting,
            spent_function=budget.attempts(spent, now, self.function), spent_host=budget.attempts(spent, now),
            spent_irreversible=budget.irreversible(spent, now, self.function),
        )  # fmt: skip

    async def _work(self) -> None:
        """Renew the slot while it is used, free it when it is not."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._until_renewal()):
                    await self._wake.wait()
            self._wake.clear()
            if not self._users:
                await self._free()
            elif self._until_renewal() == 0:
                await self._renew()

    def _until_renewal(self) -> float | None:
        """Seconds; None while nobody uses the slot."""
        if not self._users:
            return None
        due = max(self.slot.renewal_due, self._renewal_failed + _RENEW_RETRY)
        return max(0.0, due - time.monotonic())

    async def _renew(self) -> None:
        async with self.slot.cell.lock:
            try:
                try:
                    await self.slot.take(self.slot.cell.revision)
                except Conflict:
                    await self.slot.cell.read()
                    await self.slot.take(self.slot.cell.revision)
                self._renewal_failed = 0.0
            except (BusError, NotStored) as error:
                self._renewal_failed = time.monotonic()
                logger.warning("the slot of %s could not be renewed: %s", self.function, error)

    async def _free(self) -> None:
        """What can't be freed runs out by itself."""
        async with self.slot.cell.lock:
            deadline = time.monotonic() + PATIENCE
            while self.slot.noted and not self._users:
                try:
                    await self.slot.give_back()
                except Conflict:
                    if time.monotonic() >= deadline:
                        return
                    with contextlib.suppress(BusError, NotStored):
                        await self.slot.cell.read()
                except (BusError, NotStored) as error:
                    logger.warning("the slot of %s was not given back and runs out: %s", self.function, error)
                    return

    async def _keep_touching(self) -> None:
        wait = TOUCH_EVERY
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait.total_seconds()):
                    await self._members.forgotten.wait()
            self._members.forgotten.clear()
            try:
                await self._members.touch()
                wait = TOUCH_EVERY
            except NotStored as error:
                logger.warning("the group was not told that this host is still there: %s", error)
                wait = TOUCH_RETRY


def _let_through(wish: Wish) -> bool:
    answer = wish.answer
    return answer.done() and not answer.cancelled() and answer.exception() is None and answer.result() is None
