"""What a process that runs functions says about itself every ten seconds: that is how others know who listens."""

import asyncio
import os
from datetime import UTC, datetime, timedelta

from bus import subjects
from bus.port import Bus
from infra.hosts.function_host import FunctionHost, process_name
from schemas.envelope import Event
from schemas.heartbeat import ComponentKind, ComponentState, Heartbeat

EVERY = timedelta(seconds=10)


class FunctionBeat:
    """Beats from `start` to `stop`."""

    def __init__(self, functions: FunctionHost, bus: Bus, host: str, version: str) -> None:
        self._functions = functions
        self._bus = bus
        self._host = host
        self._version = version
        self._component = process_name(functions.functions)
        self._started = datetime.now(UTC)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._forever(), name=f"heartbeat of {self._component}")

    async def stop(self) -> None:
        """Say goodbye, so that a stop is told from a crash."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
            await self._beat(ComponentState.STOPPING)

    async def _forever(self) -> None:
        while True:
            await self._beat(ComponentState.RUNNING)
            await asyncio.sleep(EVERY.total_seconds())

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
