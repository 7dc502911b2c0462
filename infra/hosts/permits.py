"""A host's share in its group, for one function: who is unhealthy, who acts now, what was spent."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from bus import subjects
from bus.port import BusError, Conflict
from functions.core.ports import NotStored
from infra.hosts import budget
from infra.hosts.fleet import FleetMirror
from infra.hosts.members import TOUCH_EVERY, Members, Tally
from infra.hosts.slots import HostSlot
from schemas.clock import Clock, SystemClock
from schemas.fleet import Fleet, Slots, Spent, Storm

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

SLOT_TIME = timedelta(seconds=60)
"""A holder that has not renewed its slot for this long has died."""
PATIENCE = 10.0
"""Seconds of conflicts with other hosts until taking a slot is given up; as long as publishing is tried."""
TOUCH_RETRY = timedelta(seconds=5)
_RENEW_RETRY = 1.0  # seconds
_NOBODY_SERVES = "no slot is taken: the process is stopping, or has not started"


@dataclass
class _Wish:
    """One `take` that waits for its turn."""

    judge: Callable[[Fleet], Any]
    irreversible: bool
    answer: "asyncio.Future[Any]"


class BusPermits:
    """See `functions.core.ports.Permits`.

    All takes that wait are judged one after the other upon the same stored values, and written together: many
    treatments at once cost one write. The mirror is started before, and shared by the functions of a process.
    """

    def __init__(
        self, mirror: FleetMirror, group: str, function: str, host: str, holder: str,
        clock: Clock | None = None, slot_time: timedelta = SLOT_TIME,
    ) -> None:  # fmt: skip
        self._clock = clock or SystemClock()
        self._host = host
        self._function = function
        self._members = Members(mirror, group, function, host, self._clock)
        self._spent = mirror.cell(subjects.spent_key(host), Spent)
        slots = mirror.cell(subjects.group_key("slots", group, function), Slots)
        self._slot = HostSlot(slots, host, holder, slot_time, self._clock)
        self._storm = mirror.cell(subjects.group_key("storm", group, function), Storm)
        self._wishes: list[_Wish] = []
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
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._members.stop()
        self._users = 0
        if tasks:
            await self._free()

    def view(self, now: datetime) -> Fleet:
        return self._fleet(self._spent.stored or Spent(), self._slot.acting(), now)

    async def report(self, *, unhealthy: bool) -> None:
        await self._members.report(unhealthy=unhealthy)

    async def take(self, judge: Callable[[Fleet], Answer | None], *, irreversible: bool) -> Answer | None:
        if not self._tasks or self._tasks[0].done():
            raise NotStored(_NOBODY_SERVES)
        wish = _Wish(judge, irreversible, asyncio.get_running_loop().create_future())
        self._wishes.append(wish)
        self._wake.set()
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
                    storm = Storm(since=self._clock.now(), unhealthy=unhealthy, members=members, told_by=self._host)
                    await self._storm.replace(storm, 0)
                elif self._storm.revision:
                    await self._storm.remove()
                return True
            except Conflict:
                return False
            except BusError as error:
                raise NotStored(f"whether there is a storm can't be stored: {error}") from error

    def _fleet(self, spent: Spent, acting: tuple[str, ...], now: datetime) -> Fleet:
        tally = self._members.tally()
        known = (spent, acting, tally, self._members.unhealthy_since, int(now.timestamp()))
        if self._known is not None and self._known[0] is spent and self._known[1:] == known[1:]:
            return self._fleet_then
        self._known = known
        self._fleet_then = self._counted(spent, acting, tally, now)
        return self._fleet_then

    def _counted(self, spent: Spent, acting: tuple[str, ...], tally: Tally, now: datetime) -> Fleet:
        return Fleet(
            members=tally.members, unhealthy=tally.unhealthy, unhealthy_since=self._members.unhealthy_since,
            acting=acting,
            spent_function=budget.attempts(spent, now, self._function), spent_host=budget.attempts(spent, now),
            spent_irreversible=budget.irreversible(spent, now, self._function),
        )  # fmt: skip

    async def _work(self) -> None:
        """Serve wishes, renew the slot while it is used, free it when it is not."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._until_renewal()):
                        await self._wake.wait()
                self._wake.clear()
                if self._wishes:
                    wishes, self._wishes = self._wishes, []
                    await self._serve(wishes)
                if not self._users and not self._wishes:
                    await self._free()
                elif self._until_renewal() == 0:
                    await self._renew()
        finally:
            for wish in self._wishes:
                _fail(wish, NotStored(_NOBODY_SERVES))
            self._wishes.clear()

    def _until_renewal(self) -> float | None:
        """Seconds; None while nobody uses the slot."""
        if not self._users:
            return None
        due = max(self._slot.renewal_due, self._renewal_failed + _RENEW_RETRY)
        return max(0.0, due - time.monotonic())

    async def _serve(self, wishes: list[_Wish]) -> None:
        try:
            async with self._slot.cell.lock, self._spent.lock:
                await self._judge_and_store(wishes)
        except NotStored as error:
            for wish in wishes:
                _fail(wish, error)
        except BusError as error:
            for wish in wishes:
                _fail(wish, NotStored(f"a slot of the group can't be taken: {error}"))
        finally:
            for wish in wishes:
                _fail(wish, NotStored(_NOBODY_SERVES))  # where it was not answered: this task is being ended

    async def _judge_and_store(self, wishes: list[_Wish]) -> None:
        deadline, fresh = time.monotonic() + PATIENCE, False
        while True:
            refused, granted, spent = self._judge(wishes)
            slots_judged, spent_judged = self._slot.cell.revision, self._spent.revision
            if refused and not fresh:  # by what may be old news
                fresh = True
                await self._read()
                continue
            try:
                if granted:
                    if not self._slot.held:
                        await self._slot.take(slots_judged)
                    await self._spent.replace(spent, spent_judged)
            except Conflict as conflict:
                if time.monotonic() >= deadline:
                    raise NotStored(f"for {PATIENCE:g} s other hosts were always faster: {conflict}") from None
                await asyncio.sleep(random.uniform(0, 0.02))  # noqa: S311 - no secret, only not all at once
                fresh = True
                await self._read()
                continue
            self._answer(refused, granted)
            return

    async def _read(self) -> None:
        await asyncio.gather(self._slot.cell.read(), self._spent.read())

    def _judge(self, wishes: list[_Wish]) -> tuple[list[tuple[_Wish, Any]], list[_Wish], Spent]:
        """One after the other, each seeing what those before it have spent. Raises NotStored on damaged values."""
        self._slot.cell.latest()
        spent, now = self._spent.latest() or Spent(), self._clock.now()
        acting = self._slot.acting()
        refused, granted = [], []
        for wish in wishes:
            if wish.answer.done():
                continue
            try:
                refusal = wish.judge(self._fleet(spent, acting, now))
            except Exception as error:  # noqa: BLE001 - handed to whoever asked
                _fail(wish, error)
                continue
            if refusal is not None:
                refused.append((wish, refusal))
                continue
            granted.append(wish)
            spent = budget.with_one(spent, self._function, now, irreversible=wish.irreversible)
            acting = tuple(sorted({*acting, self._host}))
        return refused, granted, spent

    def _answer(self, refused: list[tuple[_Wish, Any]], granted: list[_Wish]) -> None:
        for wish, refusal in refused:
            if not wish.answer.done():
                wish.answer.set_result(refusal)
        for wish in granted:
            if not wish.answer.done():
                self._users += 1
                wish.answer.set_result(None)

    async def _renew(self) -> None:
        async with self._slot.cell.lock:
            try:
                try:
                    await self._slot.take(self._slot.cell.revision)
                except Conflict:
                    await self._slot.cell.read()
                    await self._slot.take(self._slot.cell.revision)
                self._renewal_failed = 0.0
            except (BusError, NotStored) as error:
                self._renewal_failed = time.monotonic()
                logger.warning("the slot of %s could not be renewed: %s", self._function, error)

    async def _free(self) -> None:
        """What can't be freed runs out by itself."""
        async with self._slot.cell.lock:
            deadline = time.monotonic() + PATIENCE
            while self._slot.noted and not self._users:
                try:
                    await self._slot.give_back()
                except Conflict:
                    if time.monotonic() >= deadline:
                        return
                    with contextlib.suppress(BusError, NotStored):
                        await self._slot.cell.read()
                except (BusError, NotStored) as error:
                    logger.warning("the slot of %s was not given back and runs out: %s", self._function, error)
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


def _let_through(wish: _Wish) -> bool:
    answer = wish.answer
    return answer.done() and not answer.cancelled() and answer.exception() is None and answer.result() is None


def _fail(wish: _Wish, error: Exception) -> None:
    if not wish.answer.done():
        wish.answer.set_exception(error)
