"""Who of a group acts now, for one function: this host's share of it, taken, kept and given back."""

import time
from datetime import timedelta

from infra.hosts.fleet import Cell
from schemas.clock import Clock
from schemas.fleet import Slot, Slots


class HostSlot:
    """This process's slot among those of the group. The caller holds the cell's lock.

    A holder renews its slot every third of *time*. One that stood unchanged for *time*, by our own steady clock,
    is that of a dead holder: the hosts' wall clocks differ and jump, so `until` is for people only.
    """

    def __init__(self, cell: Cell[Slots], host: str, holder: str, time_held: timedelta, clock: Clock) -> None:
        self.cell = cell
        self._host = host
        self._holder = holder
        self._time = time_held
        self._clock = clock
        self._first_seen: dict[Slot, float] = {}
        self._renewed = 0.0

    @property
    def held(self) -> bool:
        """Whether it is surely ours: the others take one that was not renewed for that of a dead holder."""
        return self.noted and time.monotonic() - self._renewed < self._time.total_seconds()

    @property
    def noted(self) -> bool:
        """Whether it is among the stored ones, as far as is known."""
        stored = self.cell.stored
        return stored is not None and any(self._is_ours(slot) for slot in stored.slots)

    @property
    def renewal_due(self) -> float:
        """Monotonic."""
        return self._renewed + self._time.total_seconds() / 3

    def acting(self) -> tuple[str, ...]:
        """The hosts that hold one, from what is known now."""
        return tuple(sorted({slot.host for slot in self._alive()}))

    async def take(self, judged: int) -> None:
        """Add ours, or renew it, upon that revision of the slots. Raises Conflict, NotStored, BusError."""
        others = [slot for slot in self._alive(strict=True) if not self._is_ours(slot)]
        began = time.monotonic()
        until = self._clock.now() + self._time
        await self.cell.replace(Slots(slots=(*others, Slot(host=self._host, holder=self._holder, until=until))), judged)
        self._renewed = began

    async def give_back(self) -> None:
        """Raises Conflict, NotStored, BusError."""
        if self.noted:
            others = tuple(slot for slot in self._alive(strict=True) if not self._is_ours(slot))
            await self.cell.replace(Slots(slots=others), self.cell.revision)

    def _is_ours(self, slot: Slot) -> bool:
        return slot.holder == self._holder and slot.host == self._host

    def _alive(self, *, strict: bool = False) -> list[Slot]:
        """*strict* raises NotStored when what is stored can't be read."""
        stored = self.cell.latest() if strict else self.cell.stored
        slots = stored.slots if stored is not None else ()
        now = time.monotonic()
        self._first_seen = {slot: self._first_seen.get(slot, self.cell.arrived) for slot in slots}
        longest = self._time.total_seconds()
        return [slot for slot, since in self._first_seen.items() if now - since < longest]
