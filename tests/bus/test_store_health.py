"""A store that could not write: seen on the real server, awaited while there is no room, restarted when there is."""

import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import store_health
from bus.embedded import EmbeddedServer
from bus.jetstream import JetStreamBus, connect
from bus.port import BusError, StreamName, Unavailable
from bus.store_health import ROOM, Restarts, Sight, Step, decide, look
from schemas.settings.bus import BusSettings
from schemas.settings.bus import EmbeddedServer as EmbeddedSettings
from tests.servers import free_port
from tests.waiting import until

SUBJECT = "ansai.action.web-1.disk.free_space.0"
MIB = 1024 * 1024
BOUND = 30.0
"""Seconds within which a server is back: a look every five, the end, the start, and a machine that does much else."""
SETTINGS = BusSettings(audit_max_size=2 * MIB, publish_deadline=timedelta(seconds=1))

on_a_small_disk = pytest.mark.needs("root", "mounts")


# The rule.


TROUBLE = st.sampled_from(["", "no space left on device"])
BYTES = st.integers(0, 2**50)
SECONDS = st.floats(0, 1e7)


@given(free=BYTES, stored=BYTES, last=st.none() | SECONDS, now=SECONDS)
def test_a_server_that_takes_messages_is_never_restarted(free, stored, last, now):
    assert decide(Sight("", stored), free, Restarts(last), now) is Step.NONE


@given(trouble=TROUBLE, free=BYTES, stored=BYTES, last=st.none() | SECONDS, now=SECONDS)
def test_a_restart_comes_with_room_for_a_message_and_for_the_limit_that_the_server_takes_at_start(
    trouble, free, stored, last, now
):
    if decide(Sight(trouble, stored), free, Restarts(last), now) is Step.RESTART:
        assert free >= ROOM
        assert 3 * (stored + free) // 4 > stored, "nats-server would refuse everything until the start after this one"


def test_the_first_restart_waits_for_nothing_but_room():
    sight = Sight("no space left on device", stored=0)
    assert decide(sight, ROOM - 1, Restarts(), 0) is Step.AWAIT_ROOM
    assert decide(sight, ROOM, Restarts(), 0) is Step.RESTART


@given(passing=st.lists(st.floats(0, 15), max_size=1000))
def test_restarts_that_do_not_help_come_less_and_less_often(passing):
    sight, restarts, now, times = Sight("input/output error", 0), Restarts(), 0.0, []
    for seconds in passing:
        now += seconds
        if decide(sight, ROOM, restarts, now) is Step.RESTART:
            restarts = restarts.after_another(now)
            times.append(now)
    assert all(later - earlier > 14.99 for earlier, later in pairwise(times))
    assert len(times) <= 7 + now / 600


def test_the_pause_doubles_to_ten_minutes_and_is_short_again_after_a_long_good_time():
    restarts, pauses = Restarts(), []
    for _ in range(8):
        restarts = restarts.after_another(max(0, restarts.next_at))
        pauses.append(restarts.pause)
    assert pauses == [15, 30, 60, 120, 240, 480, 600, 600]
    assert restarts.after_another(restarts.next_at + 601).pause == 15


# The server.


@pytest.fixture
def hurry(monkeypatch):
    monkeypatch.setattr(store_health, "_INTERVAL", 0.05)


@pytest.fixture
def settings(tmp_path: Path) -> EmbeddedSettings:
    return EmbeddedSettings(directory=tmp_path / "nats", port=free_port())


@asynccontextmanager
async def filesystem(directory: Path, size: str) -> AsyncIterator[Path]:
    """One of that size for all that the server keeps, log and configuration too; a file that takes from it."""
    directory.mkdir(mode=0o700)
    await _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "none", str(directory))
    try:
        yield directory / "filler"
    finally:
        await _run("umount", str(directory))


async def _run(*command: str) -> None:
    assert await (await asyncio.create_subprocess_exec(*command)).wait() == 0


def fill(file: Path, *, leaving: int = 0) -> None:
    """To the last byte, then give back what is to be left."""
    with file.open("ab", buffering=0) as filler:
        with contextlib.suppress(BlockingIOError):
            while _written(filler, 64 * 1024) or _written(filler, 512):
                pass
        filler.truncate(filler.tell() - leaving)


def _written(filler, size: int) -> bool:
    try:
        return filler.write(bytes(size)) > 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False


@asynccontextmanager
async def joined(server: EmbeddedServer) -> AsyncIterator[JetStreamBus]:
    bus = await connect(SETTINGS, name="store test", url=server.url)
    try:
        yield bus
    finally:
        await bus.close()


async def publish_until_refused(bus: JetStreamBus, acknowledged: list[bytes]) -> None:
    """On a full disk: some may still fit into what is allocated."""
    for number in range(10_000):
        body = b"while it fills %d " % number + bytes(4096)
        try:
            await bus.publish(SUBJECT, body, message_id=str(number))
        except Unavailable:
            return
        acknowledged.append(body)
    raise AssertionError("everything was taken on a full disk")


def publishing(bus: JetStreamBus) -> Callable[[], object]:
    async def published() -> bool:
        try:
            await bus.publish(SUBJECT, b"afterwards", message_id="afterwards")
        except BusError:
            return False
        return True

    return published


def count_of(text: str, caplog: pytest.LogCaptureFixture) -> int:
    return sum(text in record.getMessage() for record in caplog.records)


@pytest.fixture
def room_looked_at(monkeypatch) -> list[int]:
    """What was free, at each look."""
    seen, free_space = [], store_health._free_space

    def noted(directory: Path) -> int:
        seen.append(free_space(directory))
        return seen[-1]

    monkeypatch.setattr(store_health, "_free_space", noted)
    return seen


@on_a_small_disk
async def test_after_a_full_disk_it_takes_messages_again_by_itself_and_has_all_it_acknowledged(settings, caplog):
    async with filesystem(settings.directory, "24M") as filler, EmbeddedServer(settings) as server:
        async with joined(server) as bus:
            acknowledged = [b"before %d" % number for number in range(200)]
            for body in acknowledged:
                await bus.publish(SUBJECT, body)
            url, full = server.url, server.pid
            fill(filler)
            await publish_until_refused(bus, acknowledged)

            filler.unlink()
            await until(publishing(bus), lambda: caplog.text, BOUND)

            assert server.url == url
            assert server.pid != full
            stored = [message.body async for message in bus.read(StreamName.ACTION)]
        kept = [body for body in stored if body in set(acknowledged)]
        assert kept == acknowledged
        await until(lambda: count_of("takes messages again", caplog), lambda: caplog.text)
    assert count_of("no space left on device; ", caplog) >= 1
    assert count_of(f"are free in {settings.directory}/store: restarting it", caplog) == 1


@on_a_small_disk
async def test_without_room_it_is_left_running_and_that_is_said_once(settings, hurry, room_looked_at, caplog):
    async with (
        filesystem(settings.directory, "24M") as filler,
        EmbeddedServer(settings) as server,
        joined(server) as bus,
    ):
        pid = server.pid
        fill(filler)
        await publish_until_refused(bus, [])
        await until(lambda: count_of("make room there", caplog), lambda: caplog.text)

        looks = len(room_looked_at)
        await until(lambda: len(room_looked_at) > looks + 10)
        os.truncate(filler, filler.stat().st_size - ROOM // 2)
        await until(lambda: len([free for free in room_looked_at if free > MIB]) > looks + 10)
        assert server.pid == pid
        assert count_of("takes no more messages", caplog) == 1
        assert count_of("it is restarted when 8.0 MiB are: make room there", caplog) == 1
        with pytest.raises(BusError):
            await bus.publish(SUBJECT, b"still full")

        filler.unlink()
        await until(publishing(bus), lambda: caplog.text, BOUND)
        assert server.pid != pid
    assert count_of("ended with status", caplog) == 1


@on_a_small_disk
async def test_a_server_that_started_on_an_almost_full_disk_is_freed_of_the_limit_it_took_there(
    settings, hurry, caplog
):
    async with filesystem(settings.directory, "48M") as filler:
        async with EmbeddedServer(settings) as server, joined(server) as bus:
            acknowledged = [b"%d " % number + os.urandom(MIB) for number in range(15)]
            for body in acknowledged:
                await bus.publish(SUBJECT, body)
        fill(filler, leaving=3 * MIB)
        async with EmbeddedServer(settings) as server, joined(server) as bus:
            limited = server.pid
            await until(lambda: count_of("limited itself to", caplog), lambda: caplog.text)
            with pytest.raises(BusError, match="insufficient resources"):
                await bus.publish(SUBJECT, b"too much")

            filler.unlink()
            await until(publishing(bus), lambda: caplog.text, BOUND)
            assert server.pid != limited
            assert [message.body async for message in bus.read(StreamName.ACTION)][:15] == acknowledged
            await until(lambda: count_of("takes messages again", caplog) == 1, lambda: caplog.text)


@on_a_small_disk
async def test_a_server_that_is_killed_on_a_full_disk_is_back_when_there_is_room(settings, hurry, caplog):
    async with (
        filesystem(settings.directory, "24M") as filler,
        EmbeddedServer(settings) as server,
        joined(server) as bus,
    ):
        acknowledged = [b"before"]
        await bus.publish(SUBJECT, acknowledged[0])
        fill(filler)
        await publish_until_refused(bus, acknowledged)
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: count_of("; again in ", caplog), lambda: caplog.text)

        filler.unlink()
        await until(publishing(bus), lambda: caplog.text)
        stored = [message.body async for message in bus.read(StreamName.ACTION)]
        assert [body for body in stored if body in set(acknowledged)] == acknowledged


async def test_a_healthy_server_is_looked_at_and_left_alone(settings, hurry, caplog):
    caplog.set_level(logging.INFO)
    async with EmbeddedServer(settings) as server, joined(server) as bus:
        pid = server.pid
        for number in range(20):
            await bus.publish(SUBJECT, b"%d" % number)
        await until(lambda: healthz_asked(server) > 20)
        assert server.pid == pid
        assert await look(server._monitoring()) == Sight("", stored=await stored(bus))
    assert "takes no more messages" not in caplog.text
    assert "ended with status" not in caplog.text


def healthz_asked(server: EmbeddedServer) -> int:
    """As the server itself counts."""
    with urllib.request.urlopen(f"{server._monitoring()}/varz") as answer:
        asked: dict[str, int] = json.load(answer)["http_req_stats"]
    return sum(count for path, count in asked.items() if path.endswith("/healthz"))


async def stored(bus: JetStreamBus) -> int:
    return sum([(await bus._outbox.api(f"STREAM.INFO.{name}"))["state"]["bytes"] for name in await names(bus)])


async def names(bus: JetStreamBus) -> list[str]:
    listed: list[str] = (await bus._outbox.api("STREAM.NAMES"))["streams"]
    return listed


async def test_its_monitoring_port_is_on_loopback_under_a_path_nobody_guesses(settings):
    async with EmbeddedServer(settings) as server:
        base, _, path = server._monitoring().rpartition("/")
        assert base.startswith("http://127.0.0.1:")
        assert len(path) == 32
        assert await look(base) is None
        assert await look(server._monitoring()) is not None


async def test_a_server_that_does_not_answer_is_neither_well_nor_ill(settings):
    assert await look("") is None
    assert await look(f"http://127.0.0.1:{free_port()}/x") is None


async def test_something_else_on_its_port_is_neither_well_nor_ill():
    for answer in (b"", b"HTTP/1.0 200 OK\r\n\r\n[1]", b"HTTP/1.0 200 OK\r\n\r\n{", b"\xff" * 100):

        async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes = answer) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        async with await asyncio.start_server(say, "127.0.0.1", 0) as other:
            port = other.sockets[0].getsockname()[1]
            assert await look(f"http://127.0.0.1:{port}/x") is None
