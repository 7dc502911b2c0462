"""Which processes of a service grow: what each held when the service had settled, and what it holds now. Pure."""

from collections.abc import Collection
from datetime import datetime, timedelta

from pydantic import AwareDatetime

from collectors.memory.series import SETTLE
from schemas.facts.files import Fact
from schemas.facts.processes import ProcessGrowth, ProcessMemory

AGAIN = timedelta(minutes=5)
"""Between two looks at the processes of a service that grows: each walks the page tables of all of them."""
COMPARED = 8
"""Processes, the largest at the first look, whose growth can be told later."""
TOLD = 5


class Shares(Fact):
    """Of one run of a service."""

    since: AwareDatetime | None = None
    """when they were looked at first"""
    first: tuple[tuple[int, int, int], ...] = ()
    """(process id, started, bytes) of the largest at that time"""
    looked_at: AwareDatetime | None = None
    growing: tuple[ProcessGrowth, ...] = ()
    """at the last look, those that grew most first"""

    def due(self, age: float, now: datetime, *, grows: bool) -> bool:
        """Whether a look is worth its price: once a run has settled (*age* in seconds), and again while it *grows*."""
        if self.looked_at is None:
            return age >= SETTLE.total_seconds()
        return grows and now - self.looked_at >= AGAIN

    def looked(self, processes: Collection[ProcessMemory], now: datetime) -> "Shares":
        """With one more look; who was not there, or small, at the first one grew from nothing."""
        if self.since is None:
            largest = sorted(processes, key=lambda each: -each.memory)[:COMPARED]
            first = tuple((each.identity.pid, each.identity.started, each.memory) for each in largest)
            return Shares(since=now, first=first, looked_at=now)
        before = {(pid, started): held for pid, started, held in self.first}
        grown = [
            ProcessGrowth(
                identity=each.identity, memory=each.memory, since=self.since,
                grown=each.memory - before.get((each.identity.pid, each.identity.started), 0),
            )
            for each in processes
        ]  # fmt: skip
        growing = sorted((each for each in grown if each.grown > 0), key=lambda each: (-each.grown, each.identity.pid))
        return self.model_copy(update={"looked_at": now, "growing": tuple(growing[:TOLD])})
