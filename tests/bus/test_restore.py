"""Streams and buckets that are removed, made anew or restored from an older store while we run."""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client

from bus import subjects
from bus.jetstream import JetStreamBus, connect
from bus.port import Bucket, Conflict, Entry, KeyValue, Message, Rejected, StreamName, Subscription
from bus.streams import bucket_stream, buckets
from schemas.settings.bus import BusSettings, Credentials
from tests.servers import NatsServer, running_server
from tests.waiting import until

LEASES = bucket_stream(Bucket.LEASES)
SUBJECT = subjects.health("web-1", "disk", "pressure", "/")
TRAIL = subjects.audit("web-1", "disk.free_space", "e1")


@pytest.fixture
def settings() -> BusSettings:
    return BusSettings()  # leases that last longer than a test


@pytest.fixture
async def administrator(server: NatsServer) -> AsyncIterator[Client]:
    """Somebody with the server's own tools."""
    client = await nats.connect(server.url)
    yield client
    await client.close()


@pytest.fixture
async def other(server: NatsServer, nats_bus: JetStreamBus, settings: BusSettings) -> AsyncIterator[JetStreamBus]:
    """Another process on the same bus."""
    bus = await connect(settings, name="other", url=server.url)
    yield bus
    await bus.close()


async def remake(administrator: Client, stream: str, settings: BusSettings, url: str) -> None:
    """Delete the stream, and have it made anew by a process that starts."""
    await administrator.jetstream().delete_stream(stream)
    await (await connect(settings, name="starting", url=url)).close()


async def exists(administrator: Client, stream: str) -> bool:
    try:
        await administrator.jetstream().stream_info(stream)
    except nats.js.errors.NotFoundError:
        return False
    return True


@pytest.mark.parametrize("written_by_others", [0, 40])
async def test_a_lease_in_a_bucket_that_was_made_anew_has_the_new_epoch(
    server: NatsServer, nats_bus: JetStreamBus, administrator: Client, settings: BusSettings, written_by_others: int
):
    leases = await nats_bus.bucket(Bucket.LEASES)
    for number in range(20):
        await leases.create(f"a.{number}", b"")
    old = leases.epoch

    await remake(administrator, LEASES, settings, server.url)
    new_one = await nats_bus.bucket(Bucket.LEASES)
    for number in range(written_by_others):
        await new_one.create(f"b.{number}", b"")

    assert await leases.create("c", b"") == written_by_others + 1
    assert leases.epoch == new_one.epoch > old


async def test_a_lease_of_a_bucket_that_was_made_anew_can_not_be_renewed(
    server: NatsServer, nats_bus: JetStreamBus, administrator: Client, settings: BusSettings
):
    leases = await nats_bus.bucket(Bucket.LEASES)
    revision = await leases.create("k", b"")
    await remake(administrator, LEASES, settings, server.url)
    with pytest.raises(Conflict):
        await leases.update("k", b"", revision)
    with pytest.raises(Conflict):
        await leases.delete("k", revision)
    assert await leases.create("k", b"") == 1


CALLS: dict[str, Callable[[KeyValue], Awaitable[object]]] = {
    "get": lambda bucket: bucket.get("k"),
    "create": lambda bucket: bucket.create("k", b"new"),
    "update": lambda bucket: bucket.update("k", b"new", 1),
    "delete": lambda bucket: bucket.delete("k"),
    "keys": lambda bucket: bucket.keys(),
}


@pytest.mark.parametrize("call", CALLS)
async def test_a_bucket_that_vanishes_is_said_once_and_made_again_as_it_was(
    nats_bus: JetStreamBus, administrator: Client, settings: BusSettings, caplog, call: str
):
    leases = await nats_bus.bucket(Bucket.LEASES)
    await leases.create("k", b"held")
    old = leases.epoch
    await administrator.jetstream().delete_stream(LEASES)

    with pytest.raises(Rejected, match=r"stream KV_leases is gone: somebody removed it.*made again, empty: try again"):
        await CALLS[call](leases)
    await until(lambda: exists(administrator, LEASES))
    await until(lambda: logged(caplog, "made it again, empty"))

    assert await leases.get("k") is None
    assert await leases.create("k", b"next") == 1
    assert leases.epoch > old
    made = (await nats_bus._outbox.api(f"STREAM.INFO.{LEASES}"))["config"]
    wanted = buckets(settings)[Bucket.LEASES].configuration()
    assert {key: made.get(key) for key in wanted} == wanted


async def logged(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    return text in caplog.text


async def test_a_bucket_that_is_gone_before_it_is_opened_is_said_and_made_again(
    nats_bus: JetStreamBus, administrator: Client
):
    await administrator.jetstream().delete_stream(LEASES)
    with pytest.raises(Rejected, match="KV_leases is gone"):
        await nats_bus.bucket(Bucket.LEASES)
    await until(lambda: exists(administrator, LEASES))
    assert await (await nats_bus.bucket(Bucket.LEASES)).create("k", b"") == 1


async def test_many_that_miss_the_bucket_at_once_make_it_again_once(
    nats_bus: JetStreamBus, other: JetStreamBus, administrator: Client
):
    handles = [await bus.bucket(Bucket.INCIDENTS) for bus in (nats_bus, other)]
    await administrator.jetstream().delete_stream(bucket_stream(Bucket.INCIDENTS))
    calls = [handle.create(f"k.{number}", b"") for number in range(10) for handle in handles]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert any(isinstance(result, Rejected) for result in results)
    assert all(isinstance(result, int | Rejected | Conflict) for result in results), results
    await until(lambda: exists(administrator, bucket_stream(Bucket.INCIDENTS)))
    assert await handles[0].create("after", b"")
    assert await handles[1].get("after")


async def test_a_watcher_sees_the_keys_of_a_vanished_bucket_go_and_those_of_the_new_one_come(
    nats_bus: JetStreamBus, administrator: Client
):
    fleet = await nats_bus.bucket(Bucket.FLEET)
    for key in ("freeze", "host.web-1", "gone"):
        await fleet.create(key, b"old")
    await fleet.delete("gone")
    async with aclosing(fleet.watch()) as changes, asyncio.timeout(60):
        assert [(await anext(changes)).key for _ in range(2)] == ["freeze", "host.web-1"]
        assert await anext(changes) is None
        await administrator.jetstream().delete_stream(bucket_stream(Bucket.FLEET))
        for key in ("freeze", "host.web-1"):
            entry = await anext(changes)
            assert (entry.key, entry.deleted) == (key, True)
        await until(lambda: exists(administrator, bucket_stream(Bucket.FLEET)))
        revision = await fleet.create("freeze", b"new")
        assert await anext(changes) == Entry("freeze", b"new", revision)


async def test_a_watcher_is_not_deceived_by_a_bucket_that_was_made_anew_and_has_grown_larger(
    server: NatsServer, nats_bus: JetStreamBus, settings: BusSettings
):
    """Behind the last message that it saw it would miss what comes."""
    fleet = await nats_bus.bucket(Bucket.FLEET)
    await fleet.create("a", b"old")
    async with aclosing(fleet.watch()) as changes, asyncio.timeout(60):
        assert (await anext(changes)).key == "a"
        assert await anext(changes) is None
        await server.stop()
        shutil.rmtree(stream_directory(server, bucket_stream(Bucket.FLEET)))
        await server.start()
        bus = await connect(settings, name="starting", url=server.url)
        for number in range(5):
            await (await bus.bucket(Bucket.FLEET)).create(f"b.{number}", b"new")
        await bus.close()
        assert await anext(changes) == Entry("a", b"", 0, deleted=True)
        assert [(await anext(changes)).key for _ in range(5)] == [f"b.{number}" for number in range(5)]


def stream_directory(server: NatsServer, stream: str) -> Path:
    return next((server._directory / "store").glob(f"jetstream/*/streams/{stream}"))


async def test_what_is_missing_after_a_restart_is_made_again_without_being_asked_for(
    server: NatsServer, nats_bus: JetStreamBus
):
    gone = [LEASES, "AUDIT", "TRIGGER"]
    await server.stop()
    for stream in gone:
        shutil.rmtree(stream_directory(server, stream))
    await server.start()
    await until(lambda: nats_bus.connected)
    administrator = await nats.connect(server.url)
    for stream in gone:
        await until(lambda stream=stream: exists(administrator, stream))
    await administrator.close()


async def test_a_vanished_audit_stream_is_made_again_and_says_that_the_chain_is_not_there(
    nats_bus: JetStreamBus, administrator: Client
):
    last = await nats_bus.append(TRAIL, b"1", expected_last=0)
    await administrator.jetstream().delete_stream("AUDIT")
    with pytest.raises(Conflict, match="wrong last sequence: 0"):
        await nats_bus.append(TRAIL, b"2", expected_last=last)
    assert await nats_bus.last(TRAIL) is None
    assert await nats_bus.append(TRAIL, b"2", expected_last=0) == 1


async def all_of(bus: JetStreamBus) -> list[bytes]:
    return [stored.body async for stored in bus.read(StreamName.AUDIT)]


QUESTIONS: dict[str, Callable[[JetStreamBus], Awaitable[object]]] = {
    "last": lambda bus: bus.last(TRAIL),
    "usage": lambda bus: bus.usage(StreamName.AUDIT),
    "purge": lambda bus: bus.purge(StreamName.AUDIT, 5),
    "resize": lambda bus: bus.resize(StreamName.AUDIT, 10**6),
    "read": all_of,
}


@pytest.mark.parametrize("question", QUESTIONS)
async def test_asking_a_vanished_stream_says_so_and_makes_it_again(
    nats_bus: JetStreamBus, administrator: Client, question: str
):
    await nats_bus.append(TRAIL, b"1", expected_last=0)
    await administrator.jetstream().delete_stream("AUDIT")
    with pytest.raises(Rejected, match="stream AUDIT is gone"):
        await QUESTIONS[question](nats_bus)
    await until(lambda: exists(administrator, "AUDIT"))
    assert await nats_bus.last(TRAIL) is None


async def test_a_consumer_of_a_vanished_stream_gets_what_comes_into_the_new_one(
    nats_bus: JetStreamBus, administrator: Client
):
    seen: list[bytes] = []

    async def see(message: Message) -> None:
        seen.append(message.body)
        await message.ack()

    consumption = await nats_bus.consume(Subscription(StreamName.HEALTH, "vanished", ["ansai.health.>"]), see)
    for number in range(20):
        await nats_bus.publish(SUBJECT, b"old %d" % number)
    await until(lambda: len(seen) == 20)
    async with asyncio.timeout(20):
        while consumption._floor != 20:  # as it would find out by itself within half a minute
            await consumption._remember_floor()
    await administrator.jetstream().delete_stream("HEALTH")
    await nats_bus.publish(SUBJECT, b"new", message_id="waits until the stream is there")
    await until(lambda: seen[20:] == [b"new"], seconds=30)


RESTRICTED = """
authorization { users: [
  { user: "admin", password: "a" },
  { user: "role", password: "r", permissions: { publish: { deny: ["$JS.API.STREAM.CREATE.>"] } } } ] }
"""


async def test_who_may_not_create_a_bucket_is_refused_until_somebody_did(tmp_path: Path, caplog):
    def by(user: str) -> BusSettings:
        (tmp_path / user).write_text(user[0])
        return BusSettings(credentials=Credentials(user=user, password_file=tmp_path / user))

    async with running_server(tmp_path / "nats", RESTRICTED) as server:
        admin = await connect(by("admin"), name="admin", url=server.url)
        bus = await connect(by("role"), name="role", url=server.url)
        leases = await bus.bucket(Bucket.LEASES)
        await admin._outbox.api(f"STREAM.DELETE.{LEASES}")
        with caplog.at_level(logging.ERROR):
            for _ in range(3):
                with pytest.raises(Rejected, match="KV_leases is gone"):
                    await leases.create("k", b"")
            await until(lambda: logged(caplog, "we may not create it; start ansai once with an administrator's role"))
        with pytest.raises(Rejected, match=r"it can't be made again: .* start ansai once with an admin"):
            await leases.get("k")
        assert caplog.text.count("can't be made again") == 1
        await (await connect(by("admin"), name="admin", url=server.url)).close()
        assert await leases.create("k", b"") == 1
        await bus.close()
        await admin.close()
