"""A bus of either kind, and a real server that can be stopped."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from bus.jetstream import connect
from bus.memory import MemoryBus
from bus.port import Bus
from schemas.settings.bus import BusSettings
from tests.servers import NatsServer, running_server

Joined = Callable[[], Awaitable[Bus]]


@pytest.fixture
def settings() -> BusSettings:
    return BusSettings(lease_ttl=timedelta(seconds=1))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    async with running_server(tmp_path / "nats") as running:
        yield running


@pytest.fixture(params=["memory", "nats"])
async def join(request: pytest.FixtureRequest, tmp_path: Path, settings: BusSettings) -> AsyncIterator[Joined]:
    """A function that joins the one bus of this test, each time as another process would."""
    joined: list[Bus] = []
    if request.param == "memory":
        only = MemoryBus(settings)

        async def join_memory() -> Bus:
            return only

        yield join_memory
        await only.close()
        return

    async with running_server(tmp_path / "nats") as running:

        async def join_nats() -> Bus:
            joined.append(await connect(settings, name="contract", url=running.url))
            return joined[-1]

        yield join_nats
        for bus in joined:
            await bus.close()


@pytest.fixture
async def bus(join: Joined) -> Bus:
    return await join()


@pytest.fixture
async def nats_bus(server: NatsServer, settings: BusSettings) -> AsyncIterator[Bus]:
    bus = await connect(settings, name="fault test", url=server.url)
    yield bus
    await bus.close()
