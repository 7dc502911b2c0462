"""A publisher loses nothing while the server is away, and says what it had to drop."""

import asyncio
import json
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from bus import subjects
from bus.jetstream import connect
from bus.memory import MemoryBus
from bus.port import Rejected, StreamName, Unavailable
from bus.spool import Spool
from schemas.settings.bus import BusSettings, SpoolSettings
from tests.servers import NatsServer
from tests.waiting import until

ROOT = subjects.health("web-1", "disk", "pressure", "/")
HOME = subjects.health("web-1", "disk", "pressure", "/home")


class Away(MemoryBus):
    """The bus in memory, which a test can take away: at once, or only for those who publish."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.fails = False
        self.publishing = 0

    @property
    def connected(self) -> bool:
        return not self.away

    async def publish(self, subject, body, *, message_id=None, headers=None) -> None:
        self.publishing += 1
        await asyncio.sleep(0)
        if self.away or self.fails:
            raise Unavailable("gone for a test")
        await super().publish(subject, body, message_id=message_id, headers=headers)

    async def bodies(self, subject: str = "") -> list[bytes]:
        return [stored.body async for stored in self.read(StreamName.HEALTH, subject)]


@pytest.fixture
def settings(tmp_path: Path) -> SpoolSettings:
    return SpoolSettings(directory=tmp_path / "spool")


@pytest.fixture
async def away():
    return Away()


@pytest.fixture
async def spool(away: Away, settings: SpoolSettings):
    spool = Spool(away, settings, "collectors")
    await spool.open()
    yield spool
    await spool.close()


def settings_of(tmp_path: Path, **limits: int) -> SpoolSettings:
    return SpoolSettings(directory=tmp_path / "spool", **limits)


async def test_everything_goes_straight_through_while_the_server_answers(spool: Spool, away: Away):
    await spool.publish(ROOT, b"1", message_id="a")
    assert spool.waiting == 0
    assert await away.bodies() == [b"1"]


async def test_what_could_not_be_published_is_delivered_in_order_when_the_bus_is_back(spool: Spool, away: Away):
    away.away = True
    for number in range(90):
        await spool.publish(ROOT if number % 3 else HOME, b"%d" % number)
    assert spool.waiting == 90
    away.away = False
    await until(lambda: spool.waiting == 0)
    assert await away.bodies(ROOT) == [b"%d" % number for number in range(90) if number % 3]
    assert await away.bodies(HOME) == [b"%d" % number for number in range(90) if not number % 3]


async def test_new_events_go_behind_the_spooled_ones(spool: Spool, away: Away):
    away.fails = True  # connected, as far as anybody knows
    waiting = [await spool.publish_soon(ROOT, b"%d" % number) for number in range(20)]
    await until(lambda: spool.waiting > 0)
    away.fails = False
    waiting += [await spool.publish_soon(ROOT, b"%d" % number) for number in range(20, 40)]
    await asyncio.gather(*waiting)
    await spool.publish(ROOT, b"40")
    await until(lambda: spool.waiting == 0)
    assert await away.bodies() == [b"%d" % number for number in range(41)]


async def test_message_ids_and_headers_are_kept(spool: Spool, away: Away):
    away.away = True
    await spool.publish(ROOT, b"1", message_id="mine", headers={"X": "y"})
    await spool.publish(ROOT, b"2")
    away.away = False
    await until(lambda: spool.waiting == 0)
    stored = [stored async for stored in away.read(StreamName.HEALTH)]
    assert stored[0].headers == {"X": "y", "Nats-Msg-Id": "mine"}
    assert len(stored[1].headers["Nats-Msg-Id"]) == 32


async def test_when_it_is_full_the_oldest_is_dropped_counted_and_told(tmp_path: Path, away: Away, caplog):
    told: list[Mapping[str, int]] = []

    async def tell(lost: Mapping[str, int]) -> None:
        told.append(lost)

    spool = Spool(away, settings_of(tmp_path, max_events=10), "collectors", tell)
    await spool.open()
    away.away = True
    for number in range(25):
        await spool.publish(ROOT if number < 5 else HOME, b"%d" % number)
    assert spool.waiting == 10
    assert spool.dropped == {ROOT: 5, HOME: 10}
    assert caplog.text.count("is full") == 1
    away.away = False
    await until(lambda: spool.waiting == 0)
    stored = [stored async for stored in away.read(StreamName.HEALTH)]
    assert [message.body for message in stored] == [b"%d" % number for number in range(15, 25)]
    assert stored[0].headers["Ansai-Dropped"] == "15"
    assert all("Ansai-Dropped" not in message.headers for message in stored[1:])
    assert told == [{ROOT: 5, HOME: 10}]
    assert not spool.dropped
    await spool.close()


async def test_it_is_bounded_by_bytes_too(tmp_path: Path, away: Away):
    spool = Spool(away, settings_of(tmp_path, max_size=64 * 1024), "collectors")
    await spool.open()
    away.away = True
    for _ in range(100):
        await spool.publish(ROOT, b"x" * 1000)
    assert 50 <= spool.waiting <= 64
    assert spool.waiting + spool.dropped[ROOT] == 100
    await spool.close()


async def test_what_waits_survives_a_restart(settings: SpoolSettings, away: Away):
    first = Spool(away, settings, "collectors")
    await first.open()
    away.away = True
    await first.publish(ROOT, b"kept", message_id="kept")
    await first.close()
    bus = Away()
    second = Spool(bus, settings, "collectors")
    await second.open()
    await second.publish(ROOT, b"new")
    await until(lambda: second.waiting == 0)
    assert await bus.bodies() == [b"kept", b"new"]
    await second.close()


async def test_what_the_bus_refuses_is_dropped_and_holds_up_nothing(spool: Spool, away: Away, caplog):
    away.away = True
    await spool.publish(ROOT, b"x" * (9 * 1024 * 1024))
    await spool.publish(ROOT, b"fine")
    away.away = False
    await until(lambda: spool.waiting == 0)
    assert await away.bodies() == [b"fine"]
    assert "refuses" in caplog.text


async def test_a_refusal_reaches_the_publisher_while_the_bus_is_there(spool: Spool):
    with pytest.raises(Rejected):
        await spool.publish(ROOT, b"x" * (9 * 1024 * 1024))
    with pytest.raises(Rejected):
        await spool.publish("ansai.nonsense.x", b"")


async def test_a_disk_that_refuses_is_said_once_and_memory_takes_over(spool: Spool, away: Away, caplog):
    away.away = True
    await spool.publish(ROOT, b"on disk")
    spool._store._database.execute("PRAGMA query_only = ON")  # what a filesystem that turns read-only looks like
    for number in range(5):
        await spool.publish(ROOT, b"%d" % number)
    assert spool.waiting == 6
    assert caplog.text.count("in memory") == 1
    away.away = False
    await until(lambda: spool.waiting == 0)
    assert await away.bodies() == [b"on disk", b"0", b"1", b"2", b"3", b"4"]


async def test_a_spool_that_cannot_be_opened_works_from_memory_within_its_bound(tmp_path: Path, away: Away, caplog):
    (tmp_path / "spool").write_text("a file where the directory should be")
    spool = Spool(away, settings_of(tmp_path, memory_size=64 * 1024), "collectors")
    await spool.open()
    away.away = True
    for number in range(100):
        await spool.publish(ROOT, b"%03d" % number + b"x" * 1000)
    assert 50 <= spool.waiting <= 64
    lost = spool.dropped[ROOT]
    assert spool.waiting + lost == 100
    assert caplog.text.count("in memory") == 1
    away.away = False
    await until(lambda: spool.waiting == 0)
    assert [body[:3] for body in await away.bodies()] == [b"%03d" % number for number in range(lost, 100)]
    await spool.close()


@pytest.mark.needs("root")
async def test_a_full_disk_is_met_with_memory(tmp_path: Path, away: Away):
    small = tmp_path / "small"
    small.mkdir()
    mount = await asyncio.create_subprocess_exec("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small)
    assert await mount.wait() == 0
    try:
        spool = Spool(away, SpoolSettings(directory=small / "spool"), "collectors")
        await spool.open()
        away.away = True
        for number in range(60):
            await spool.publish(ROOT, b"%03d" % number + b"x" * 10_000)
        assert spool.waiting == 60
        away.away = False
        await until(lambda: spool.waiting == 0)
        assert [body[:3] for body in await away.bodies()] == [b"%03d" % number for number in range(60)]
        await spool.close()
    finally:
        unmount = await asyncio.create_subprocess_exec("umount", small)
        assert await unmount.wait() == 0


async def test_a_second_process_does_not_deliver_our_events(spool: Spool, settings: SpoolSettings, away: Away, caplog):
    away.away = True
    await spool.publish(ROOT, b"ours")
    other = Spool(Away(), settings, "collectors")
    await other.open()
    assert other.waiting == 0
    assert "locked" in caplog.text
    await other.close()


async def test_a_link_in_the_place_of_the_file_is_not_followed(settings: SpoolSettings, away: Away, tmp_path: Path):
    settings.directory.mkdir()
    (tmp_path / "target").write_text("precious")
    (settings.directory / "collectors.sqlite").symlink_to(tmp_path / "target")
    spool = Spool(away, settings, "collectors")
    await spool.open()
    away.away = True
    await spool.publish(ROOT, b"1")
    await spool.close()
    assert (tmp_path / "target").read_text() == "precious"


async def test_the_file_is_small_again_after_a_drain(spool: Spool, away: Away):
    away.away = True
    for number in range(200):
        await spool.publish(subjects.health("web-1", "disk", "pressure", str(number)), b"x" * 10_000)
    away.away = False
    await until(lambda: spool.waiting == 0)
    await spool.close()
    assert spool.path.stat().st_size < 200_000


COLLECTOR = """
import asyncio, sys
from pathlib import Path
from bus.jetstream import connect
from bus.spool import Spool
from schemas.settings.bus import BusSettings, SpoolSettings

async def main():
    bus = await connect(BusSettings(), name="collector", url=sys.argv[1])
    spool = Spool(bus, SpoolSettings(directory=Path(sys.argv[2])), "collectors")
    await spool.open()
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        await spool.publish("ansai.health.web-1.disk.pressure.0", line.strip().encode(), message_id=line.strip())
        print("safe", flush=True)

asyncio.run(main())
"""


async def test_a_collector_that_is_killed_while_the_server_is_away_loses_nothing(server: NatsServer, tmp_path: Path):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", COLLECTOR, server.url, tmp_path / "spool",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip

    async def publish(number: int) -> None:
        process.stdin.write(b"%d\n" % number)
        assert await process.stdout.readline() == b"safe\n"

    assert await process.stdout.readline() == b"ready\n"
    await publish(0)
    await server.stop()
    for number in range(1, 20):
        await publish(number)
    process.kill()
    await process.wait()

    await server.start()
    bus = await connect(BusSettings(), name="next", url=server.url)
    spool = Spool(bus, SpoolSettings(directory=tmp_path / "spool"), "collectors")
    await spool.open()
    await until(lambda: spool.waiting == 0)
    assert [stored.body async for stored in bus.read(StreamName.HEALTH)] == [b"%d" % number for number in range(20)]
    await spool.close()


async def test_a_real_server_that_is_away_for_a_while_gets_everything_once(server: NatsServer, settings: SpoolSettings):
    bus = await connect(BusSettings(publish_deadline=timedelta(seconds=2)), name="spooling", url=server.url)
    spool = Spool(bus, settings, "collectors")
    await spool.open()

    async def publish(numbers: range) -> None:
        waiting = [await spool.publish_soon(f"ansai.health.web-1.disk.pressure.{n % 7}", b"%d" % n) for n in numbers]
        await asyncio.gather(*waiting)

    await publish(range(50))
    publishing = asyncio.create_task(publish(range(50, 200)))
    await server.kill()
    await publishing
    await publish(range(200, 300))
    await server.start()
    await publish(range(300, 350))
    await until(lambda: spool.waiting == 0)
    stored = [json.loads(stored.body) async for stored in bus.read(StreamName.HEALTH)]
    assert sorted(stored) == list(range(350))
    for subject in range(7):
        of_one = [number for number in stored if number % 7 == subject]
        assert of_one == sorted(of_one)
    await spool.close()
