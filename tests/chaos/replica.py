"""A function host as a process of its own, in a world of files that all replicas share.

    python -m tests.chaos.replica '<Job as JSON>'

It says `running` when it consumes, and stops in order on SIGTERM.
"""

import asyncio
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import functions.core.engine
from bus.jetstream import connect
from infra.hosts.function_host import FunctionHost, Machine
from schemas.remediation import ActionResult, Outcome
from schemas.settings.bus import BusSettings
from schemas.settings.policy import Policy
from tests.chaos.fleet_site import Effect, TankConfiguration, draining


@dataclass(frozen=True)
class Job:
    url: str
    host: str
    directory: str
    """what the machine keeps; replicas on one machine share it"""
    world: str
    actions: int = 100
    """in one plan"""
    takes: float = 0.0
    """seconds of one action"""
    policy: Mapping[str, Any] = field(default_factory=dict)


class FileWorld:
    """A file a tank with its litres, and one file to which every effect is appended. Both probes and tools."""

    def __init__(self, directory: Path, host: str, takes: float) -> None:
        self._directory = directory
        self._host = host
        self._takes = takes

    def tanks(self) -> list[str]:
        return sorted(path.name for path in (self._directory / "water").iterdir() if not path.name.startswith("."))

    def level(self, tank: str) -> int:
        return int((self._directory / "water" / tank).read_text())

    def fill(self, tank: str, litres: int) -> None:
        path = self._directory / "water" / tank
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{tank}.{os.getpid()}.{time.monotonic_ns()}")
        draft.write_text(str(litres))
        draft.rename(path)

    def drain(self, tank: str, amount: int, name: str) -> ActionResult:
        began, at = time.monotonic(), datetime.now(UTC)
        time.sleep(self._takes)
        # Two that drain one tank at once would both get here, and be seen in the log.
        with (self._directory / "effects").open("a") as log:
            fcntl.flock(log, fcntl.LOCK_EX)
            self.fill(tank, self.level(tank) - amount)
            log.write(json.dumps([self._host, tank, name, began, time.monotonic(), at.isoformat()]) + "\n")
        return ActionResult(outcome=Outcome.DONE, done=1, freed={"litres": amount})

    def effects(self) -> list[Effect]:
        try:
            lines = (self._directory / "effects").read_text().splitlines()
        except FileNotFoundError:
            return []
        found = [json.loads(line) for line in lines]
        return [Effect(*each[:5], datetime.fromisoformat(each[5])) for each in found]


BUSY = timedelta(seconds=0.2)
"""Until somebody who found the target busy looks again; 5 s in production, scaled like the lease."""


async def run(job: Job) -> None:
    functions.core.engine.BUSY = BUSY
    settings = BusSettings(url=job.url, lease_ttl=timedelta(seconds=2))
    configuration = TankConfiguration(bus=settings, policy=Policy.model_validate(job.policy))
    world = FileWorld(Path(job.world), job.host, job.takes)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    bus = await connect(settings, name="replica")
    host = FunctionHost(
        [draining(job.actions)], configuration, bus, bus, Machine(job.host, world, world),  # type: ignore[arg-type]
        directory=Path(job.directory), ack_wait=timedelta(seconds=2),
    )  # fmt: skip
    try:
        await host.start()
        print("running", flush=True)
        await stopping.wait()
    finally:
        await host.stop()
        await bus.close()


def argv(job: Job) -> list[str]:
    """How to start it."""
    return [sys.executable, "-m", "tests.chaos.replica", json.dumps(asdict(job))]


if __name__ == "__main__":
    asyncio.run(run(Job(**json.loads(sys.argv[1]))))
