"""What is heard of a target without an event: the latest one that can be believed, and of this host."""

from datetime import timedelta

import pytest

from bus import subjects
from infra.hosts.signals import BusSignals
from schemas.clock import SystemClock
from schemas.envelope import Event
from schemas.health import Level
from schemas.services import ServiceState
from tests.infra.hosts.joined import joined

HOST, TARGET = "web-1", "unit:app.service"


class Site:
    def __init__(self, server, bus) -> None:
        self.server = server
        self.bus = bus
        self.signals = BusSignals(bus, HOST, (ServiceState,), timedelta(minutes=5))

    async def say(self, level: Level = Level.CRITICAL, host: str = HOST, ahead: timedelta = timedelta(0), **changed):
        now = SystemClock().now()
        said = {"target": TARGET, "unit": "app.service", "observed_at": now + ahead, **changed.pop("data", {})}
        event = Event[ServiceState](
            **{"source": "/test", "type": ServiceState.type_name(), "time": now, **changed},
            data=ServiceState(level=level, **said),
        )
        await self.publish(event.body(), host)

    async def publish(self, body: bytes, host: str = HOST) -> None:
        await self.bus.publish(subjects.health(host, "services", "state", TARGET), body)

    async def level(self) -> Level | None:
        heard = await self.signals.latest(TARGET)
        return heard.level if heard is not None else None


@pytest.fixture
async def site(tmp_path):
    async with joined(tmp_path) as running:
        yield Site(running.server, await running.join(publish_deadline=timedelta(seconds=1)))


async def test_the_latest_of_this_host_is_heard(site):
    assert await site.level() is None
    await site.say(Level.CRITICAL)
    await site.say(Level.OK)
    await site.say(Level.WARNING, host="web-2")

    assert await site.level() is Level.OK


@pytest.mark.parametrize(
    "forged",
    [
        {"data": {"target": "unit:other.service"}},
        {"type": "ansai.health.memory.trend.v1"},
        {"ahead": timedelta(minutes=6)},
    ],
    ids=["of another target", "of another type", "observed in the future"],
)
async def test_what_the_inbox_would_not_take_counts_as_not_said(site, forged, caplog):
    await site.say(Level.OK)
    await site.say(Level.CRITICAL, **forged)

    assert await site.level() is None
    assert "counts as not said" in caplog.text


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000], ids=["empty", "cut", "no text", "deep"])
async def test_what_is_damaged_counts_as_not_said(site, body, caplog):
    await site.publish(body)

    assert await site.level() is None
    assert "is damaged" in caplog.text


async def test_without_a_bus_nothing_was_heard(site):
    await site.say(Level.OK)
    await site.server.kill()

    assert await site.level() is None
    await site.server.start()
