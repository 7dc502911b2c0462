"""A bus outside, a real systemd with services inside, and our processes beside them."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from bus import subjects
from bus.jetstream import JetStreamBus, connect
from bus.port import StreamName
from schemas.alert import Alert
from schemas.audit import AuditRecord
from schemas.envelope import Event
from schemas.health import Health
from schemas.settings.bus import BusSettings
from tests.audit_trail import records_of
from tests.e2e.conftest import HOST, REPOSITORY, clean_environment
from tests.servers import running_server
from tests.systemd import Machine
from tests.waiting import until

SCALE = 60
"""A minute is a second."""
UNIT = """\
[Unit]
Description={name}
[Service]
ExecStart=/bin/sh -c '{command}'
{more}
"""


class ServiceSite:
    """What runs inside is ended with the test."""

    def __init__(self, machine: Machine, bus: JetStreamBus, directory: Path, url: str) -> None:
        self.machine = machine
        self.bus = bus
        self._directory = directory
        self._url = url
        self._processes: list[asyncio.subprocess.Process] = []

    async def service(self, name: str, command: str, more: str = "") -> None:
        await self.machine.unit(f"{name}.service", UNIT.format(name=name, command=command, more=more))

    async def run_fast(self, settings: dict[str, Any], *names: str) -> None:
        """Functions and collectors on a clock that runs `SCALE` times as fast."""
        program = REPOSITORY / "tests/programs/station.py"
        await self._start("ready", program, self._configuration(settings), HOST, str(SCALE), *names)

    async def run(self, settings: dict[str, Any], *names: str, **environment: str) -> None:
        """`ansai run`, as a user does."""
        file = self._configuration({"host": HOST, **settings})
        await self._start("running on", "-m", "infra.cli.main", "--config", file, "run", *names, **environment)

    def _configuration(self, settings: dict[str, Any]) -> Path:
        file = self._directory / "ansai.yaml"
        file.write_text(yaml.safe_dump({"bus": {"url": self._url}, **settings}))
        return file

    async def _start(self, ready: str, *arguments: str | Path, **environment: str) -> None:
        with (self._directory / "output").open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *self.machine.argv(sys.executable, *arguments), env=clean_environment(self._directory) | environment,
                cwd=self._directory, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        self._processes.append(process)

        def is_ready() -> bool:
            assert process.returncode is None, self.said()
            return ready in self.said()

        await until(is_ready, self.said)

    def said(self) -> str:
        return (self._directory / "output").read_text(errors="replace")

    async def stop(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.terminate()
                await process.wait()

    async def records(self, target: str) -> list[AuditRecord]:
        stored = [message async for message in self.bus.read(StreamName.AUDIT)]
        return [record for record in records_of(stored) if record.target == target]

    async def told(self, model: type[Health], target: str) -> list[Any]:
        """Every event of one signal about one target."""
        subject = subjects.health(HOST, model.domain, model.signal, target)
        stored = [message async for message in self.bus.read(StreamName.HEALTH, subject)]
        return [Event[model].model_validate_json(each.body).data for each in stored]  # type: ignore[valid-type]

    async def alerts(self, target: str) -> list[Alert]:
        stored = [message async for message in self.bus.read(StreamName.ALERT)]
        alerts = [Event[Alert].model_validate_json(each.body).data for each in stored]
        return [alert for alert in alerts if alert.target == target]


@asynccontextmanager
async def service_site(machine: Machine, directory: Path) -> AsyncIterator[ServiceSite]:
    async with running_server(directory / "nats") as server:
        bus = await connect(BusSettings(url=server.url), name="the test")
        made = ServiceSite(machine, bus, directory, server.url)
        try:
            yield made
        finally:
            await made.stop()
            await bus.close()
