"""What is remembered over a restart."""

import asyncio
import json
import os
from datetime import timedelta

import pytest

from collectors.core.outlet import Unreachable
from collectors.core.state import LARGEST
from schemas.health import Level
from schemas.probes import ProbeError
from tests.fakes import START

FILE = "rooms.warmth.json"


@pytest.fixture
async def stopped(start, house, clock, tmp_path):
    """A run that saw a warning and was stopped; the name of its directory."""
    house.rooms["attic"] = 35
    run = start(directory=tmp_path / "state")
    run.start()
    await clock.until_asleep(2)
    await run.stop()
    return tmp_path / "state"


async def test_levels_since_and_memory_survive_a_restart(start, stopped, house, clock, outlet):
    outlet.take()
    clock.move(timedelta(minutes=3))
    house.rooms = {"attic": 31}
    run = start(directory=stopped)
    await run.look()
    attic, kitchen = outlet.take()
    assert (attic.level, attic.previous, attic.since) == (Level.WARNING, Level.WARNING, START)
    assert (kitchen.target, kitchen.level) == ("room:kitchen", Level.UNKNOWN)
    assert "is gone" in kitchen.reason
    assert run._state.memory.looks == 2
    assert run._state.memory.highest == {"attic": 35}


async def test_a_read_that_fails_after_a_restart_is_told_for_the_targets_known_before(start, stopped, house, outlet):
    outlet.take()
    house.error = ProbeError("the wire is cut")
    await start(directory=stopped).look()
    assert {event.target for event in outlet.take()} == {"room:kitchen", "room:attic"}


async def test_a_target_that_was_unknown_before_and_is_gone_after_a_restart_is_told_when_the_bus_is_back(
    start, house, clock, outlet, tmp_path
):
    run = start(directory=tmp_path)
    await run.look()
    house.error = ProbeError("the wire is cut")
    await run.look()
    clock.move(timedelta(minutes=1))
    await run.look()
    await asyncio.wait([run._saver._saving])
    outlet.take()

    house.error, house.rooms = None, {}
    again = start(directory=tmp_path)
    outlet.error = Unreachable("no server")
    await again.look()
    outlet.error = None
    await again.look()
    assert ["is gone" in event.reason for event in outlet.take()] == [True, True]
    await again.look()
    assert outlet.take() == []


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b'{"collector": "other", "targets": {}, "memory": {}}',
        b'{"collector": "rooms.warmth", "targets": {"a": {"level": "awful"}}, "memory": {}}',
        b'{"collector": "rooms.warmth", "targets": {}, "memory": {"looks": "many"}}',
    ],
    ids=["empty", "cut", "not text", "nested", "null", "another's", "a wrong level", "a wrong memory"],
)  # fmt: skip
async def test_a_broken_file_is_told_and_replaced(start, outlet, clock, tmp_path, caplog, content):
    (tmp_path / FILE).write_bytes(content)
    run = start(directory=tmp_path)
    assert "starts without memory" in caplog.text
    assert "\n" not in caplog.records[0].getMessage()
    run.start()
    await clock.until_asleep(2)
    assert {event.previous for event in outlet.take()} == {None}
    await run.stop()
    assert json.loads((tmp_path / FILE).read_bytes())["memory"]["looks"] == 1


async def test_a_file_of_monstrous_size_is_not_read_into_memory(start, tmp_path, caplog):
    with open(tmp_path / FILE, "wb") as file:
        file.truncate(LARGEST + 1)
    start(directory=tmp_path)
    assert "larger than 32 MiB" in caplog.text


async def test_a_link_is_not_followed(start, tmp_path, caplog):
    (tmp_path / "secret").write_text("{}")
    (tmp_path / FILE).symlink_to(tmp_path / "secret")
    run = start(directory=tmp_path)
    assert "starts without memory" in caplog.text
    run.start()
    await run.stop()
    assert (tmp_path / "secret").read_text() == "{}"
    assert not (tmp_path / FILE).is_symlink()


async def test_the_file_is_private_and_nothing_else_is_left(stopped):
    assert os.listdir(stopped) == [FILE]
    assert os.stat(stopped / FILE).st_mode & 0o777 == 0o600


async def test_a_change_is_saved_after_a_minute_and_samples_after_five(start, house, clock, tmp_path):
    saved = tmp_path / FILE
    run = start(directory=tmp_path)

    async def look_after(seconds):
        clock.move(timedelta(seconds=seconds))
        await run.look()
        if run._saver._saving is not None:
            await asyncio.wait([run._saver._saving])
        return json.loads(saved.read_bytes())["memory"]["looks"] if saved.exists() else None

    assert await look_after(0) is None  # the first levels are a change
    assert await look_after(59) is None
    assert await look_after(1) == 3
    assert await look_after(299) == 3
    assert await look_after(1) == 5
    house.rooms["attic"] = 35
    assert await look_after(30) == 5
    assert await look_after(30) == 7


async def test_a_directory_that_takes_nothing_is_told_once_and_the_collector_goes_on(
    start, house, clock, outlet, tmp_path, caplog
):
    (tmp_path / "file").write_text("in the way")
    run = start(directory=tmp_path / "file")
    for _ in range(3):
        clock.move(timedelta(minutes=6))
        await run.look()
        await asyncio.wait([run._saver._saving])
    assert caplog.text.count("can't be saved") == 1
    assert len(outlet.take()) == 6
