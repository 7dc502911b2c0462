"""Function hosts on a real nats-server, healing the world of tanks."""

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bus import subjects
from bus.jetstream import JetStreamBus, connect
from bus.port import Stored, StreamName
from functions.core.remedy import AnyRemedy
from infra.hosts.function_host import FunctionHost, Machine
from schemas.audit import AuditRecord
from schemas.envelope import Event
from schemas.health import Level
from schemas.settings.bus import BusSettings
from schemas.settings.policy import Policy
from schemas.settings.root import Configuration
from tests.audit_trail import records_of
from tests.functions.core.tank import EAGER, TankHealth, Tanks, TankSettings
from tests.servers import NatsServer, running_server

HOST = "web-1"


class TankConfiguration(Configuration):
    water_monitoring: TankSettings = TankSettings()


class Site:
    """One server, any number of hosts on it, and one connection for the test itself."""

    def __init__(self, server: NatsServer, bus: JetStreamBus, settings: BusSettings, directory: Path) -> None:
        self.directory = directory
        """what the machine keeps: keys, heads, fences, the freeze file"""
        self.server = server
        self.bus = bus
        self.settings = settings
        self.stack = contextlib.AsyncExitStack()

    async def host(
        self, tanks: Tanks, remedy: AnyRemedy, policy: dict[str, Any] | None = None, **options: Any
    ) -> FunctionHost:
        configuration = self.configuration(policy)
        bus = await connect(self.settings, name="test host")
        self.stack.push_async_callback(bus.close)
        machine = Machine(options.pop("named", HOST), tanks, tanks)  # type: ignore[arg-type]
        options.setdefault("directory", self.directory)
        host = FunctionHost([remedy], configuration, bus, bus, machine, **options)
        await host.start()
        self.stack.push_async_callback(host.stop)
        return host

    def configuration(self, policy: dict[str, Any] | None = None) -> TankConfiguration:
        """Live and eager, but for what *policy* says otherwise."""
        said = {"mode": "auto", "freeze_file": self.directory / "freeze", **(policy or {})}
        said["default"] = EAGER | said.get("default", {})
        return TankConfiguration(bus=self.settings, policy=Policy.model_validate(said))

    async def report(self, target: str = "tank:a", **fields: Any) -> None:
        await self.publish_raw(event(target, **fields).body(), target)

    async def publish_raw(self, body: bytes, target: str = "tank:a") -> None:
        await self.bus.publish(subjects.health(HOST, "water", "level", target), body)

    async def stored(self, stream: StreamName, pattern: str = "") -> list[Stored]:
        return [message async for message in self.bus.read(stream, pattern)]

    async def records(self) -> list[AuditRecord]:
        """The audit trail but for what it says about itself, in the order of the stream."""
        return records_of(await self.stored(StreamName.AUDIT))

    async def steps(self) -> list[str]:
        return [record.step.value for record in await self.records()]


def event(target: str = "tank:a", *, age: timedelta = timedelta(0), level: Level = Level.CRITICAL) -> Event[TankHealth]:
    time = datetime.now(UTC) - age
    health = TankHealth(target=target, level=level, reason=f"{target} is {level}", observed_at=time)
    return Event[TankHealth](source="/test", type=TankHealth.type_name(), subject=target, time=time, data=health)


@pytest.fixture
async def site(tmp_path) -> AsyncIterator[Site]:
    async with running_server(tmp_path / "nats") as server:
        settings = BusSettings(url=server.url, lease_ttl=timedelta(seconds=2))
        bus = await connect(settings, name="test")
        made = Site(server, bus, settings, tmp_path / "state")
        try:
            yield made
        finally:
            await made.stack.aclose()
            await bus.close()
