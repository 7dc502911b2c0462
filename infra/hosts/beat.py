"""What a process that runs functions says about itself every ten seconds, and when somebody asks who is there.

That is how others know who listens. The question is an empty message on `ansai.heartbeat.<host>.roll_call`.
"""

import asyncio
import os
from datetime import UTC, datetime, timedelta

from bus import subjects
from bus.port import Bus
from infra.hosts.function_host import FunctionHost, process_name
from schemas.envelope import Event
from schemas.heartbeat import ComponentKind, ComponentState, Heartbeat

EVERY = timedelta(seconds=10)
ROLL_CALL = "roll_call"
"""Stands for a component's name in the subject of the question."""


class FunctionBeat:
    """Beats from `start` to `stop`."""

    def __init__(self, functions: FunctionHost, bus: Bus, host: str, version: str) -> None:
        self._functions = functions
        self._bus = bus
        self._host = host
        self._version = version
        self._component = process_name(functions.functions)
        self._started = datetime.now(UTC)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        name = f"heartbeat of {self._component}"
        self._tasks = {asyncio.create_task(work, name=name) for work in (self._forever(), self._answer())}

    async def stop(self) -> None:
        """Say goodbye, so that a stop is told from a crash."""
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
            await self._beat(ComponentState.STOPPING)

    async def _forever(self) -> None:
        while True:
            await self._beat(ComponentState.RUNNING)
            await asyncio.sleep(EVERY.total_seconds())

    async def _answer(self) -> None:
        async for _ in self._bus.listen(subjects.heartbeat(self._host, ROLL_CALL)):
            await self._beat(ComponentState.RUNNING)

    async def _beat(self, state: ComponentState) -> None:
        beat = Heartbeat(
            host=self._host, component=self._component, kind=ComponentKind.FUNCTION,
            names=tuple(self._functions.functions), version=self._version, pid=os.getpid(), started=self._started,
            at=datetime.now(UTC), state=state, handled=self._functions.handled,
        )  # fmt: skip
        event = Event[Heartbeat](
            source=f"/hosts/{self._host}/functions/{self._component}", type=Heartbeat.TYPE_NAME, data=beat
        )
        await self._bus.announce(subjects.heartbeat(self._host, subjects.durable(self._component)), event.body())
