"""People hear that the trail fills up before it is full, from one host of all."""

import asyncio
import json

import pytest

from bus import subjects
from bus.memory import MemoryBus
from bus.port import Bucket, StreamName, Unavailable, Usage
from infra.audit.fill import EVERY, FillWatch, level_of
from schemas.alert import Alert
from schemas.settings.bus import BusSettings
from tests.fakes import FakeClock
from tests.infra.audit.conftest import Writers
from tests.waiting import until

MIB = 2**20


class World:
    """A trail of one mebibyte that a test fills, and what people heard."""

    def __init__(self) -> None:
        self.bus = MemoryBus(BusSettings(audit_max_size=MIB))
        self.clock = FakeClock()
        self.told: list[Alert] = []

    def watch(self, host: str = "web-1", bus=None) -> FillWatch:
        return FillWatch(bus or self.bus, host, self.tell, self.clock)

    async def tell(self, correlation: str, alert: Alert) -> bool:
        self.told.append(alert)
        return True

    async def fill_to(self, share: float) -> None:
        usage = await self.bus.usage(StreamName.AUDIT)
        await self.bus.publish("ansai.audit.web-1.disk.x.e", b"x" * (int(MIB * share) - usage.bytes))

    async def empty(self) -> None:
        await self.bus.purge(StreamName.AUDIT, 10_000)

    def take(self) -> list[tuple[str, str, str]]:
        told, self.told = self.told, []
        return [(alert.severity.value, alert.state.value, alert.title) for alert in told]


@pytest.fixture
async def world():
    made = World()
    yield made
    await made.bus.close()


async def test_each_level_is_told_once_and_so_is_the_room_after_an_archive(world):
    watch = world.watch()
    for share, wanted in (
        (0.5, []),
        (0.81, [("warning", "opened", "the audit trail is 80 % full")]),
        (0.85, []),
        (0.91, [("critical", "opened", "the audit trail is 90 % full")]),
        (0.999, [("critical", "opened", "the audit trail is full: nothing is changed any more")]),
    ):
        await world.fill_to(share)
        await watch.look()
        assert world.take() == wanted
        await watch.look()
        assert world.take() == []
    await world.empty()
    await watch.look()
    assert world.take() == [("info", "resolved", "the audit trail has room again")]
    await watch.look()
    assert world.take() == []


async def test_the_text_says_how_much_and_how_to_make_room(world):
    await world.fill_to(0.95)
    await world.watch().look()

    (alert,) = world.told
    assert "of 1.0 MiB" in alert.text
    assert "ansai audit archive" in alert.next


async def test_of_many_hosts_one_tells(world):
    await world.fill_to(0.95)
    await asyncio.gather(*(world.watch(f"web-{n}").look() for n in range(20)))

    assert len(world.take()) == 1
    entry = await (await world.bus.bucket(Bucket.FLEET)).get(subjects.AUDIT_FILL)
    assert entry is not None
    assert json.loads(entry.value)["level"] == 90


async def test_of_many_hosts_on_a_server_one_tells(writers: Writers):
    world = World()
    await writers.bus.append("ansai.audit.web-1.disk.x.e", b"x" * 900_000, expected_last=0)

    await asyncio.gather(*(world.watch(f"web-{n}", writers.bus).look() for n in range(10)))

    assert [severity for severity, *_ in world.take()] == ["warning"]
    await world.bus.close()


async def test_a_trail_that_falls_below_a_level_and_rises_again_is_told_again(world):
    watch = world.watch()
    await world.fill_to(0.85)
    await world.fill_to(0.95)
    await watch.look()
    await world.bus.purge(StreamName.AUDIT, 2)
    await world.fill_to(0.85)
    await watch.look()
    assert len(world.take()) == 1
    await world.fill_to(0.92)
    await watch.look()

    assert world.take() == [("critical", "opened", "the audit trail is 90 % full")]


async def test_what_cannot_be_read_of_the_others_is_replaced(world):
    fleet = await world.bus.bucket(Bucket.FLEET)
    await fleet.create(subjects.AUDIT_FILL, b"\xff")
    await world.fill_to(0.85)

    await world.watch().look()
    await world.watch("web-2").look()

    assert len(world.take()) == 1


async def test_it_looks_every_minute_also_after_the_bus_was_away(world, caplog):
    class Away:
        away = False

        def __getattr__(self, name):
            return getattr(world.bus, name)

        async def usage(self, stream):
            if self.away:
                raise Unavailable("no answer")
            return await world.bus.usage(stream)

    bus = Away()
    watch = world.watch(bus=bus)
    watch.start()
    await world.clock.until_asleep(1)
    bus.away = True
    await world.clock.advance(3 * EVERY)
    bus.away = False
    await world.fill_to(0.85)
    await world.clock.advance(EVERY)

    await until(lambda: world.told)
    assert caplog.text.count("can't be seen") == 1
    await watch.stop()
    await watch.stop()
    assert world.clock.asleep == 0


@pytest.mark.parametrize(
    ("held", "limit", "level"),
    [
        (0, 2**30, 0), (int(2**30 * 0.7999), 2**30, 0), (-(-(2**30) * 8 // 10), 2**30, 80),
        (2**30 - 10_000, 2**30, 90), (2**30 - 8_000, 2**30, 100), (2**30, 2**30, 100), (2**40, None, 0),
    ],
)  # fmt: skip
def test_levels(held, limit, level):
    assert level_of(Usage(held, limit, 1, 1, 1)) == level
