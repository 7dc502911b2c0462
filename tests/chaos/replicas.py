"""Replicas of a function as processes of their own, all in one world of files; started and stopped by tests."""

import asyncio
import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.chaos.fleet_site import HOST, REPOSITORY, Effect, Site
from tests.chaos.replica import FileWorld, Job, argv

START = 60
"""Seconds that a process may take until it consumes, on a machine with much else to do."""


class Replica:
    """One process; what it says on standard error is kept in a file."""

    def __init__(self, job: Job, said: Path) -> None:
        self._job = job
        self._said = said
        self._process: asyncio.subprocess.Process | None = None

    @property
    def said(self) -> str:
        return self._said.read_text(errors="replace")

    async def start(self) -> None:
        with self._said.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *argv(self._job), cwd=REPOSITORY, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=output,
            )  # fmt: skip
        assert self._process.stdout is not None
        async with asyncio.timeout(START):
            line = await self._process.stdout.readline()
        assert line == b"running\n", self.said

    async def stop(self) -> int:
        """In order, as a service manager does; the exit status."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> int:
        return await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.returncode is None:
            process.send_signal(number)
        await process.communicate()
        assert process.returncode is not None
        return process.returncode


class Replicas:
    """Of one host, as a service manager would run them there."""

    def __init__(self, site: Site, policy: Mapping[str, Any], *, count: int = 3, **job: Any) -> None:
        self.world = FileWorld(site.directory / "world", HOST, 0.0)
        said = site.configuration(policy).policy.model_dump_json()
        made = Job(
            url=site.settings.url or "", host=HOST, directory=str(site.state_of(HOST)),
            world=str(site.directory / "world"), policy=json.loads(said), **job,
        )  # fmt: skip
        self.all = [Replica(made, site.directory / f"replica-{number}.log") for number in range(count)]
        for replica in self.all:
            site.stack.push_async_callback(replica.kill)

    async def start(self) -> None:
        await asyncio.gather(*(replica.start() for replica in self.all))

    async def stop(self) -> None:
        """All of them, and none of them had trouble."""
        assert await asyncio.gather(*(replica.stop() for replica in self.all)) == [0] * len(self.all), self.said
        assert "Traceback" not in self.said, self.said

    @property
    def said(self) -> str:
        return "\n".join(replica.said for replica in self.all)

    @property
    def effects(self) -> list[Effect]:
        return self.world.effects()
