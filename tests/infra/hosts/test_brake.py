"""The kill switch: any of its three places stops, and what can't be looked at stops too."""

import asyncio
import json
import time

import pytest

from bus.port import Bucket, BusError, Conflict, Rejected, Unavailable
from bus.subjects import FREEZE
from infra.hosts import brake as brake_module
from infra.hosts.brake import KEY_PLACE, BusBrake
from infra.hosts.fleet import FleetMirror
from schemas.freeze import Freeze
from tests.infra.hosts.joined import Joined, joined, line
from tests.waiting import until

WITHIN = 2  # seconds, as the capability promises


@pytest.fixture(autouse=True)
def _look_each_time(monkeypatch):
    monkeypatch.setattr(brake_module, "FRESH", 0)


@pytest.fixture
async def site(tmp_path):
    async with joined(tmp_path) as running:
        yield running


async def brake(site: Joined, directory, *, bus=None) -> BusBrake:
    mirror = await site.start(FleetMirror(bus or await site.join()))
    return await site.start(BusBrake(mirror, directory / "freeze", directory / "system"))


async def freeze_key(site: Joined, value: bytes) -> None:
    bucket = await site.bucket(Bucket.FLEET)
    try:
        await bucket.create(FREEZE, value)
    except Conflict:
        await bucket.update(FREEZE, value, (await bucket.get(FREEZE)).revision)


async def test_nothing_is_frozen_at_first(site, tmp_path):
    assert (await brake(site, tmp_path)).frozen() is None


@pytest.mark.parametrize("name", ["freeze", "system"])
async def test_a_file_freezes_at_once_and_tells_why(site, tmp_path, name):
    held = await brake(site, tmp_path)
    file = tmp_path / name

    file.write_text(Freeze(reason="deploy", who="root").model_dump_json())
    assert (held.frozen().reason, held.frozen().who, held.frozen().where) == ("deploy", "root", str(file))
    file.write_text("the auditors\nare here \x1b[2J")
    assert held.frozen().reason == "the auditors are here \\x1b[2J"
    file.write_text("")
    assert held.frozen().reason == ""
    file.unlink()
    assert held.frozen() is None


async def test_many_actions_at_once_share_a_look_that_is_soon_old(site, tmp_path, monkeypatch):
    monkeypatch.setattr(brake_module, "FRESH", 3600)
    held = await brake(site, tmp_path)
    assert held.frozen() is None
    (tmp_path / "freeze").touch()
    assert held.frozen() is None

    monkeypatch.setattr(brake_module, "FRESH", 0.02)

    await until(lambda: held.frozen() is not None, seconds=WITHIN)


async def test_a_file_works_with_the_bus_down(site, tmp_path):
    held = await brake(site, tmp_path)
    await site.server.kill()

    assert held.frozen() is None
    (tmp_path / "freeze").touch()
    assert held.frozen() is not None
    await site.server.start()


async def test_what_is_no_readable_file_freezes_and_is_not_followed(site, tmp_path):
    held = await brake(site, tmp_path)
    (tmp_path / "freeze").symlink_to("/nowhere")
    assert "no regular file" in held.frozen().reason
    (tmp_path / "freeze").unlink()
    (tmp_path / "freeze").mkdir()
    assert "no regular file" in held.frozen().reason


async def test_a_place_that_can_t_be_looked_at_counts_as_frozen(site, tmp_path):
    (tmp_path / "in the way").touch()
    mirror = await site.start(FleetMirror(await site.join()))
    held = BusBrake(mirror, tmp_path / "in the way" / "freeze", tmp_path / "system")

    assert "can't be looked at" in held.frozen().reason


@pytest.mark.parametrize("value", [b"{", b"\xff\xfe", b"null", b""])
async def test_a_key_that_can_t_be_read_counts_as_frozen(site, tmp_path, value):
    held = await brake(site, tmp_path)
    await freeze_key(site, value)

    await until(lambda: held.frozen() is not None)
    assert held.frozen().where == KEY_PLACE


async def test_it_is_told_when_the_last_place_is_lifted(site, tmp_path):
    await freeze_key(site, Freeze(reason="all").model_dump_json().encode())
    held = await brake(site, tmp_path)
    lifted = []
    held.on_lifted.append(lambda: lifted.append(held.frozen()))
    (tmp_path / "freeze").touch()
    assert held.frozen() is not None

    await (await site.bucket(Bucket.FLEET)).delete(FREEZE)
    await until(lambda: held.frozen().where != KEY_PLACE)
    assert lifted == []
    (tmp_path / "freeze").unlink()

    await until(lambda: lifted == [None])


async def test_a_freeze_that_comes_and_goes_between_two_looks_is_told_too_when_somebody_was_stopped_by_it(
    site, tmp_path
):
    held = await brake(site, tmp_path)
    lifted = []
    held.on_lifted.append(lambda: lifted.append(held.frozen()))

    (tmp_path / "freeze").touch()
    assert held.frozen() is not None
    (tmp_path / "freeze").unlink()

    await until(lambda: lifted == [None])


async def test_without_a_bus_at_the_start_it_does_not_start(site, tmp_path):
    bus = await site.join(publish_deadline=site.settings.publish_deadline / 10)
    await site.server.kill()
    mirror = FleetMirror(bus)

    with pytest.raises(BusError):
        await mirror.start()
    assert BusBrake(mirror, tmp_path / "freeze", tmp_path / "system").frozen() is not None
    await site.server.start()


async def test_a_key_that_came_and_went_while_the_bus_was_away_is_known_afterwards(site, tmp_path):
    await freeze_key(site, b"before")
    held = await brake(site, tmp_path)
    assert held.frozen().reason == "before"
    await site.server.kill()
    await site.server.start()

    await (await site.bucket(Bucket.FLEET)).delete(FREEZE)
    await until(lambda: held.frozen() is None)
    await freeze_key(site, b"after")
    await until(lambda: held.frozen() is not None)


class Breakable:
    """A real bus whose watches end with an error while `broken` is set."""

    def __init__(self, bus) -> None:
        self._bus = bus
        self.broken = asyncio.Event()

    async def bucket(self, name):
        self._bucket = await self._bus.bucket(name)
        return self

    async def watch(self, prefix=""):
        if self.broken.is_set():
            raise Rejected("no permission to watch")
        broken = asyncio.create_task(self.broken.wait())
        entries = aiter(self._bucket.watch(prefix))
        while True:
            following = asyncio.ensure_future(anext(entries))
            await asyncio.wait({following, broken}, return_when=asyncio.FIRST_COMPLETED)
            if broken.done():
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)
                raise Unavailable("the watch broke")
            yield following.result()


async def test_a_watch_that_broke_freezes_until_it_is_there_again(site, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("infra.hosts.watching.RETRY", 0.05)  # seconds
    bus = Breakable(await site.join())
    held = await brake(site, tmp_path, bus=bus)
    await freeze_key(site, b"before")
    await until(lambda: held.frozen() is not None)

    bus.broken.set()
    await until(lambda: "no permission to watch" in caplog.text)
    await (await site.bucket(Bucket.FLEET)).delete(FREEZE)
    assert held.frozen().reason == "before"
    bus.broken.clear()

    await until(lambda: held.frozen() is None)
    bus.broken.set()
    await until(lambda: held.frozen() is not None)
    assert "the bus can't be asked" in held.frozen().reason


async def test_a_bucket_that_was_made_anew_is_watched_from_its_beginning(site, tmp_path):
    for number in range(5):
        await freeze_key(site, f"old {number}".encode())
    held = await brake(site, tmp_path)
    await site.remove(Bucket.FLEET)
    await site.join()
    await site.server.kill()
    await site.server.start()

    await until(lambda: held.frozen() is None)
    await freeze_key(site, b"new")
    await until(lambda: held.frozen() is not None and held.frozen().reason == "new")


OTHER = """
import asyncio, sys
from pathlib import Path
from bus.jetstream import connect
from infra.hosts.brake import BusBrake
from infra.hosts.fleet import FleetMirror
from schemas.settings.bus import BusSettings
async def main():
    mirror = FleetMirror(await connect(BusSettings(url=sys.argv[1]), name="other"))
    await mirror.start()
    brake = BusBrake(mirror, Path(sys.argv[2]), Path(sys.argv[2] + ".system"))
    await brake.start()
    before = "unknown"
    while True:
        found = brake.frozen()
        now = found.reason if found else "free"
        if now != before:
            print(now, flush=True)
        before = now
        await asyncio.sleep(0.005)
asyncio.run(main())
"""


async def test_a_key_stops_other_processes_in_time_and_survives_their_restart(site, tmp_path):
    processes = [await site.python(OTHER, str(tmp_path / f"freeze {number}")) for number in range(2)]
    assert [await line(each) for each in processes] == ["free", "free"]

    began = time.monotonic()
    await freeze_key(site, json.dumps({"reason": "stop"}).encode())
    assert [await line(each) for each in processes] == ["stop", "stop"]
    assert time.monotonic() - began < WITHIN

    restarted = await site.python(OTHER, str(tmp_path / "freeze 0"))
    assert await line(restarted) == "stop"
    await (await site.bucket(Bucket.FLEET)).delete(FREEZE)
    assert await asyncio.gather(*(line(each) for each in [*processes, restarted])) == ["free"] * 3
