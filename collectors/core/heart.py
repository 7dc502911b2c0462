"""What a collector says about itself every ten seconds."""

import asyncio
import logging
import os
from dataclasses import dataclass
from datetime import datetime, timedelta

from collectors.core.bugs import Bugs
from collectors.core.outlet import Outlet, OutletError
from schemas.clock import Clock
from schemas.envelope import Event
from schemas.heartbeat import ComponentKind, ComponentState, Heartbeat

logger = logging.getLogger(__name__)

BEAT = timedelta(seconds=10)


@dataclass
class Tally:
    """What is counted from the start of the process."""

    started: datetime
    state: ComponentState = ComponentState.STARTING
    handled: int = 0
    failures: int = 0
    refused: int = 0


class Heart:
    """Beats from `start` to `stop`."""

    def __init__(
        self, name: str, host: str, version: str, outlet: Outlet, clock: Clock, tally: Tally, bugs: Bugs
    ) -> None:  # fmt: skip
        self._name = name
        self._host = host
        self._version = version
        self._outlet = outlet
        self._clock = clock
        self._tally = tally
        self._bugs = bugs
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._forever(), name=f"heartbeat of {self._name}")

    async def stop(self) -> None:
        """Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def say_goodbye(self) -> None:
        """Beat a last time, so that a stop is told from a crash."""
        await self.stop()
        await self._beat()

    async def _forever(self) -> None:
        while True:
            await self._beat()
            await self._clock.sleep(BEAT)

    async def _beat(self) -> None:
        tally, now = self._tally, self._clock.now()
        beat = Heartbeat(
            host=self._host, component=self._name, kind=ComponentKind.COLLECTOR, names=(self._name,),
            version=self._version, pid=os.getpid(), started=tally.started, at=now, state=tally.state,
            handled=tally.handled, failures=tally.failures, refused=tally.refused, dropped=self._outlet.dropped,
        )  # fmt: skip
        event = Event[Heartbeat](
            source=f"/hosts/{self._host}/collectors/{self._name}", type=Heartbeat.TYPE_NAME, time=now, data=beat
        )
        try:
            await self._outlet.heartbeat(event)
        except OutletError as error:
            logger.debug("no heartbeat of %s: %s", self._name, error)  # silence is what listeners go by
        except Exception as error:  # noqa: BLE001 - a bug in an outlet must not silence the next beats; it is logged
            self._bugs.keep(error)
