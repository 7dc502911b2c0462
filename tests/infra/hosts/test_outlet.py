"""Collectors on a bus: subjects, copies, refusals, and what the spool dropped."""

import asyncio
import json

import pytest

from bus import subjects
from bus.memory import MemoryBus
from bus.port import Rejected, StreamName, Unavailable
from bus.spool import Spool
from collectors.core.outlet import OutletError, Refused, Unreachable
from collectors.core.run import CollectorRun
from collectors.disk.pressure import COLLECTOR
from infra.hosts.outlet import BusOutlet
from schemas.disk import DiskPressure
from schemas.envelope import Event
from schemas.heartbeat import Heartbeat
from schemas.settings.bus import SpoolSettings
from schemas.settings.disk import DiskMonitoring
from tests.fakes import START, FakeClock, FakeProbes

HOST = "web-1.example"


class Away:
    """A publisher that fails as it is told, or keeps a count of what it dropped, as the spool does."""

    def __init__(self, error=None):
        self.error = error
        self.dropped = {}

    async def publish(self, subject, body, *, message_id=None, headers=None):
        if self.error is not None:
            raise self.error

    async def announce(self, subject, body):
        await self.publish(subject, body)


@pytest.fixture
async def bus():
    bus = MemoryBus()
    yield bus
    await bus.close()


@pytest.fixture
def probes():
    probes = FakeProbes()
    probes.files.disk("/var", 92)
    return probes


def run_on(publisher, probes, clock=None):
    return CollectorRun(
        COLLECTOR, DiskMonitoring(), probes, BusOutlet(publisher, HOST), HOST, clock=clock or FakeClock()
    )


async def stored(bus):
    return [message async for message in bus.read(StreamName.HEALTH)]


async def test_events_arrive_under_the_subject_of_their_target(bus, probes):
    await run_on(bus, probes).look()
    messages = {message.subject: json.loads(message.body) for message in await stored(bus)}
    event = messages[subjects.health(HOST, "disk", "pressure", "bytes:/var")]
    assert event["subject"] == "bytes:/var"
    assert event["source"] == "/hosts/web-1.example/collectors/disk.pressure"
    assert event["type"] == "ansai.health.disk.pressure.v1"
    assert event["data"]["level"] == "critical"
    assert len(messages) == 2


async def test_the_event_id_makes_a_second_copy_harmless(bus, probes):
    kept = []

    class Twice:
        async def publish(self, subject, body, **options):
            kept.append(body)
            await bus.publish(subject, body, **options)
            await bus.publish(subject, body, **options)

        announce = bus.announce

    await run_on(Twice(), probes).look()
    assert sorted(message.body for message in await stored(bus)) == sorted(kept)


async def test_heartbeats_are_announced_and_not_stored(bus, probes):
    clock = FakeClock()
    listening = bus.listen("ansai.heartbeat.>")
    await listening.ready()
    run = run_on(bus, probes, clock)
    run.start()
    async with asyncio.timeout(30):
        subject, body = await anext(listening)
    await clock.until_asleep(2)
    await run.stop()
    await listening.aclose()
    assert subject == "ansai.heartbeat.web-1-example.disk-pressure"
    assert json.loads(body)["data"]["names"] == ["disk.pressure"]
    assert {subjects.parse(message.subject).kind for message in await stored(bus)} == {"health"}


async def test_what_the_bus_refuses_and_what_it_cant_be_asked_are_told_apart(probes):
    publisher = Away(Rejected("no permission"))
    run = run_on(publisher, probes)
    await run.look()
    assert run.tally.refused == 2
    publisher.error = Unavailable("no server")
    await run.look()
    assert run.tally.refused == 2


HEALTH = Event[DiskPressure](
    source="/x",
    type=DiskPressure.type_name(),
    data=DiskPressure(target="bytes:/var", level="ok", observed_at=START, mount="/var", resource="bytes"),
)
BEAT = Event[Heartbeat](
    source="/x",
    type=Heartbeat.TYPE_NAME,
    data=Heartbeat(
        host=HOST, component="disk.pressure", kind="collector", names=("disk.pressure",), started=START, at=START,
        state="running",
    ),
)  # fmt: skip


@pytest.mark.parametrize(("error", "told"), [(Rejected("no"), Refused), (Unavailable("away"), Unreachable)])
async def test_errors_keep_their_text(error, told):
    outlet = BusOutlet(Away(error), HOST)
    with pytest.raises(told, match=str(error)):
        await outlet.health(HEALTH)
    with pytest.raises(OutletError, match=str(error)):
        await outlet.heartbeat(BEAT)


async def test_dropped_events_are_counted_on_when_the_spool_has_told_of_them(probes):
    publisher = Away()
    publisher.dropped = {"a": 3}  # an earlier process told, or will tell, of these
    outlet = BusOutlet(publisher, HOST)
    assert outlet.dropped == 0
    publisher.dropped = {"a": 5, "b": 1}
    assert outlet.dropped == 3
    publisher.dropped = {}
    assert outlet.dropped == 3
    publisher.dropped = {"b": 2}
    assert outlet.dropped == 5


def test_a_host_that_is_no_name_is_refused_at_the_start():
    with pytest.raises(subjects.BadSubject):
        BusOutlet(Away(), "web 1")


class Unplugged(MemoryBus):
    """A bus whose server is away until it is plugged in."""

    plugged = False

    @property
    def connected(self):
        return self.plugged

    async def publish(self, subject, body, **options):
        if not self.plugged:
            raise Unavailable("no server")
        await super().publish(subject, body, **options)


async def test_through_the_spool_nothing_is_lost_and_what_was_too_much_is_told(probes, tmp_path):
    bus = Unplugged()
    spool = Spool(bus, SpoolSettings(directory=tmp_path, max_events=2), "disk.pressure")
    await spool.open()
    run = run_on(spool, probes)
    await run.look()
    probes.files.disk("/var", 97)
    await run.look()
    probes.files.disk("/var", 50)
    await run.look()
    assert spool.waiting == 2
    bus.plugged = True
    async with asyncio.timeout(30):
        while spool.waiting:
            await asyncio.sleep(0.01)
    events = [json.loads(message.body)["data"] for message in await stored(bus)]
    assert [(event["level"], event["previous"], event["dropped"]) for event in events] == [
        ("emergency", "critical", 0),
        ("ok", "emergency", 1),
    ]
    await spool.close()
