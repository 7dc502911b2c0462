"""Function hosts on a real nats-server, healing the world of tanks."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bus import subjects
from bus.jetstream import JetStreamBus, connect
from bus.port import Stored, StreamName
from functions.core.remedy import AnyRemedy
from infra.hosts.function_host import FunctionHost, Machine
from schemas.envelope import Event
from schemas.health import Level
from schemas.settings.bus import BusSettings
from schemas.settings.policy import Policy
from schemas.settings.root import Configuration
from tests.functions.core.tank import TankHealth, Tanks, TankSettings
from tests.servers import NatsServer, running_server

HOST = "web-1"


class TankConfiguration(Configuration):
    water_monitoring: TankSettings = TankSettings()


class Site:
    """One server, any number of hosts on it, and one connection for the test itself."""

    def __init__(self, server: NatsServer, bus: JetStreamBus, settings: BusSettings) -> None:
        self.server = server
        self.bus = bus
        self.settings = settings
        self.stack = contextlib.AsyncExitStack()

    async def host(
        self, tanks: Tanks, remedy: AnyRemedy, policy: dict[str, Any] | None = None, **options: Any
    ) -> FunctionHost:
        configuration = TankConfiguration(bus=self.settings, policy=Policy.model_validate(policy or {"mode": "auto"}))
        bus = await connect(self.settings, name="test host")
        self.stack.push_async_callback(bus.close)
        machine = Machine(HOST, tanks, tanks)  # type: ignore[arg-type]
        host = FunctionHost([remedy], configuration, bus, bus, machine, **options)
        await host.start()
        self.stack.push_async_callback(host.stop)
        return host

    async def report(self, target: str = "tank:a", **fields: Any) -> None:
        await self.publish_raw(event(target, **fields).body(), target)

    async def publish_raw(self, body: bytes, target: str = "tank:a") -> None:
        await self.bus.publish(subjects.health(HOST, "water", "level", target), body)

    async def stored(self, stream: StreamName, pattern: str = "") -> list[Stored]:
        return [message async for message in self.bus.read(stream, pattern)]

    async def steps(self) -> list[str]:
        """The audit trail, as the names of its steps."""
        return [
            Event[Any].model_validate_json(message.body, strict=False).data["step"]  # type: ignore[misc]
            for message in await self.stored(StreamName.AUDIT)
        ]


def event(target: str = "tank:a", *, age: timedelta = timedelta(0), level: Level = Level.CRITICAL) -> Event[TankHealth]:
    time = datetime.now(UTC) - age
    health = TankHealth(target=target, level=level, reason=f"{target} is {level}", observed_at=time)
    return Event[TankHealth](source="/test", type=TankHealth.type_name(), subject=target, time=time, data=health)


@pytest.fixture
async def site(tmp_path) -> AsyncIterator[Site]:
    async with running_server(tmp_path / "nats") as server:
        settings = BusSettings(url=server.url, lease_ttl=timedelta(seconds=2))
        bus = await connect(settings, name="test")
        made = Site(server, bus, settings)
        try:
            yield made
        finally:
            await made.stack.aclose()
            await bus.close()


async def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    """Wait for a condition; it may be a coroutine function."""
    async with asyncio.timeout(seconds):
        while True:
            result = condition()
            if asyncio.iscoroutine(result):
                result = await result
            if result:
                return
            await asyncio.sleep(0.01)
