"""Observations of targets, shared: one that began after an event was made answers that event.

So a burst of events about one target costs one read, and a backlog is collapsed to the latest state.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from functions.core.remedy import AnyRemedy, Case
from functions.core.threads import Threads
from schemas.clock import Clock
from schemas.facts.files import Fact
from schemas.probes import ProbeError, Probes
from schemas.remediation import Gap

Answer = TypeVar("Answer")

REMEMBERED = 10_000
"""Targets whose latest observation is kept; more are a flood of forged events, and are observed each time."""


LISTED_FOR = 1.0
"""Seconds for which a list of targets serves all events of a burst."""


@dataclass(frozen=True)
class Observation:
    """What was seen of a target. Nothing seen means unknown, and the gap says why."""

    began: datetime
    seen: Fact | None
    gap: Gap

    def figures(self) -> dict[str, Any]:
        return self.seen.model_dump(mode="json") if self.seen is not None else {}


class Observer:
    """Runs a remedy's blocking reads in threads, each with a deadline."""

    def __init__(self, remedy: AnyRemedy, probes: Probes, clock: Clock, threads: Threads, timeout: timedelta) -> None:
        self._remedy = remedy
        self._probes = probes
        self._clock = clock
        self.threads = threads
        self._timeout = timeout.total_seconds()
        self._targets: tuple[Any, float, list[str]] | None = None
        self._latest: dict[str, Observation] = {}
        self._reading: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def latest(self, target: str) -> Observation | None:
        return self._latest.get(target)

    async def since(self, moment: datetime, case: Case[Any]) -> Observation:
        """An observation that began at *moment* or later; a new one only when there is none yet."""
        latest = self._latest.get(case.target)
        if latest is not None and latest.began >= moment:
            return latest
        lock = self._reading.setdefault(case.target, asyncio.Lock())
        async with lock:
            latest = self._latest.get(case.target)
            if latest is not None and latest.began >= moment:
                return latest
            return await self.anew(case)

    async def anew(self, case: Case[Any]) -> Observation:
        """Observe now."""
        try:
            return await self.in_thread(lambda: self.look(case))
        except ProbeError as error:  # the deadline
            return self._keep(case, Observation(self._clock.now(), None, Gap.unknown("", str(error))))

    def look(self, case: Case[Any]) -> Observation:
        """Observe in the calling thread; blocks."""
        began = self._clock.now()
        try:
            seen: Fact = self._remedy.observe(case, self._probes)
        except ProbeError as error:
            return self._keep(case, Observation(began, None, Gap.unknown("", str(error))))
        return self._keep(case, Observation(began, seen, self._remedy.gap(case, seen)))

    def _keep(self, case: Case[Any], observation: Observation) -> Observation:
        if len(self._latest) >= REMEMBERED:
            self._latest.clear()
        self._latest[case.target] = observation
        return observation

    async def survey(self, case: Case[Any], observation: Observation) -> Any:
        """What could be done about it. Raises ProbeError. May take long on large trees."""
        return await self.in_thread(lambda: self._remedy.survey(case, observation.seen, self._probes), deadline=False)

    async def targets(self, settings: Any, *, anew: bool = True) -> list[str]:
        """Every target the function knows here; unless *anew*, a list of this second will do. Raises ProbeError."""
        began, known = self._clock.monotonic(), self._targets
        if not anew and known is not None and known[0] is settings and began - known[1] < LISTED_FOR:
            return known[2]
        found = await self.in_thread(lambda: self._remedy.targets(settings, self._probes))
        self._targets = settings, began, found
        return found

    async def in_thread(self, read: Callable[[], Answer], *, deadline: bool = True) -> Answer:
        """Run *read* in a thread. Raises ProbeError when the deadline passes; the thread is then left to itself."""
        future = self.threads.run(read)
        try:
            async with asyncio.timeout(self._timeout if deadline else None):
                return await future
        except TimeoutError:
            raise ProbeError(f"no answer within {self._timeout:g} s; the read hangs") from None
