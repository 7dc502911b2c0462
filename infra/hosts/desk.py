"""Where the functions of one process take their places and spend their attempts: who waits is judged in turn.

All takes that wait, of whichever function, are judged one after the other upon the same stored values, and written
together: many treatments at once cost one write of the budget.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from bus.port import BusError, Conflict
from functions.core.ports import NotStored
from infra.hosts import budget
from infra.hosts.fleet import Cell, FleetMirror
from infra.hosts.slots import HostSlot
from schemas.clock import Clock
from schemas.fleet import Fleet, Spent

PATIENCE = 10.0
"""Seconds of conflicts with other hosts until taking a place is given up; as long as publishing is tried."""
NOBODY_SERVES = "no slot is taken: the process is stopping, or has not started"


class Applicant(Protocol):
    """One function's permits."""

    function: str
    host: str
    slot: HostSlot

    def fleet(self, spent: Spent, acting: tuple[str, ...], now: datetime) -> Fleet:
        """What a judge sees, given what was spent and who acts."""
        ...

    def granted(self) -> None:
        """One more treatment uses the slot."""
        ...


@dataclass
class Wish:
    """One `take` that waits for its turn."""

    applicant: Applicant
    judge: Callable[[Fleet], Any]
    irreversible: bool
    answer: "asyncio.Future[Any]"

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


@dataclass
class _Judged:
    refused: list[tuple[Wish, Any]]
    granted: list[Wish]
    spent: Spent
    upon: int
    """revision of what was spent"""


class Desk:
    """One for each budget (`spent.<host>`) in a process; get it by `desk_of`."""

    def __init__(self, spent: Cell[Spent], clock: Clock) -> None:
        self.spent = spent
        self._clock = clock
        self._wishes: list[Wish] = []
        self._serving: asyncio.Task[None] | None = None

    def apply(self, wish: Wish) -> None:
        """Put it in the queue; it is answered soon."""
        self._wishes.append(wish)
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve_all())

    def withdraw(self, applicant: Applicant) -> None:
        """Nothing more is granted to it."""
        for wish in self._wishes:
            if wish.applicant is applicant:
                wish.fail(NotStored(NOBODY_SERVES))

    async def _serve_all(self) -> None:
        while self._wishes:
            wishes, self._wishes = self._wishes, []
            await self._serve(wishes)

    async def _serve(self, wishes: Sequence[Wish]) -> None:
        error: Exception = NotStored(NOBODY_SERVES)  # for those not answered because this task is being ended
        try:
            async with AsyncExitStack() as locks:
                cells = {wish.applicant.slot.cell.key: wish.applicant.slot.cell for wish in wishes}
                for key in sorted(cells):
                    await locks.enter_async_context(cells[key].lock)
                await self._judge_and_store(wishes, list(cells.values()))
        except NotStored as refused:
            error = refused
        except BusError as trouble:
            error = NotStored(f"a slot of the group can't be taken: {trouble}")
        finally:
            for wish in wishes:
                wish.fail(error)

    async def _judge_and_store(self, wishes: Sequence[Wish], cells: Sequence[Cell[Any]]) -> None:
        deadline, fresh = time.monotonic() + PATIENCE, False
        while True:
            judged = self._judge(wishes)
            if judged.refused and not fresh:  # by what may be old news
                fresh = True
                await self._read(cells)
                continue
            try:
                if judged.granted:
                    await self._store(judged)
            except Conflict as conflict:
                if time.monotonic() >= deadline:
                    raise NotStored(f"for {PATIENCE:g} s other hosts were always faster: {conflict}") from None
                await asyncio.sleep(random.uniform(0, 0.02))  # noqa: S311 - no secret, only not all at once
                fresh = True
                await self._read(cells)
                continue
            _answer(judged)
            return

    async def _store(self, judged: _Judged) -> None:
        slots = {wish.applicant.slot.cell.key: wish.applicant.slot for wish in judged.granted}
        for slot in slots.values():
            if not slot.held:
                await slot.take(slot.cell.revision)
        await self.spent.replace(judged.spent, judged.upon)

    async def _read(self, cells: Sequence[Cell[Any]]) -> None:
        await asyncio.gather(self.spent.read(), *(cell.read() for cell in cells))

    def _judge(self, wishes: Sequence[Wish]) -> _Judged:
        """One after the other, each seeing what those before it have spent. Raises NotStored on damaged values."""
        judged = _Judged([], [], self.spent.latest() or Spent(), self.spent.revision)
        now, acting = self._clock.now(), dict[str, tuple[str, ...]]()
        for wish in wishes:
            if wish.answer.done():
                continue
            slot = wish.applicant.slot
            slot.cell.latest()
            there = acting.setdefault(slot.cell.key, slot.acting())
            try:
                refusal = wish.judge(wish.applicant.fleet(judged.spent, there, now))
            except Exception as error:  # noqa: BLE001 - handed to whoever asked
                wish.fail(error)
                continue
            if refusal is not None:
                judged.refused.append((wish, refusal))
                continue
            judged.granted.append(wish)
            function = wish.applicant.function
            judged.spent = budget.with_one(judged.spent, function, now, irreversible=wish.irreversible)
            acting[slot.cell.key] = tuple(sorted({*there, wish.applicant.host}))
        return judged


def _answer(judged: _Judged) -> None:
    for wish, refusal in judged.refused:
        if not wish.answer.done():
            wish.answer.set_result(refusal)
    for wish in judged.granted:
        if not wish.answer.done():
            wish.applicant.granted()
            wish.answer.set_result(None)


def desk_of(mirror: FleetMirror, key: str, clock: Clock) -> Desk:
    """The desk of the budget under *key*: the same for all functions that share the mirror."""
    if key not in mirror.desks:
        mirror.desks[key] = Desk(mirror.cell(key, Spent), clock)
    return mirror.desks[key]
