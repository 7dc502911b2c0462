"""What only a real server can show: it stops, dies, is full, too old, configured otherwise, or does not permit."""

import asyncio
import logging
import os
import sys
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

import nats
import nkeys
import pytest

from bus import subjects
from bus.jetstream import JetStreamBus, connect
from bus.port import Bucket, Conflict, Entry, Message, Rejected, StreamName, Subscription, Unavailable
from bus.provision import refuse_old_server
from bus.streams import buckets, streams
from schemas.settings.bus import BusSettings, Credentials, Tls
from tests.servers import NatsServer, free_port, running_server
from tests.waiting import until

SUBJECT = subjects.health("web-1", "disk", "pressure", "/")
WANTED = Subscription(StreamName.HEALTH, "fault", ["ansai.health.web-1.>"], ack_wait=timedelta(seconds=2))
AUDIT = subjects.audit("web-1", "disk.free_space", "e1")


class Seen:
    """A handler that acknowledges and remembers each body once."""

    def __init__(self) -> None:
        self.bodies: set[bytes] = set()
        self.deliveries = 0

    async def __call__(self, message: Message) -> None:
        self.deliveries += 1
        self.bodies.add(message.body)
        await message.ack()


async def publish_many(bus: JetStreamBus, count: int, prefix: str = "m") -> set[bytes]:
    bodies = [f"{prefix}{number}".encode() for number in range(count)]
    waiting = [
        await bus.publish_soon(
            subjects.health("web-1", "disk", "pressure", f"{prefix}{n}"), body, message_id=body.decode()
        )
        for n, body in enumerate(bodies)
    ]
    await asyncio.gather(*waiting)
    return set(bodies)


async def test_publishing_and_consuming_survive_a_restart_of_the_server(server: NatsServer, nats_bus: JetStreamBus):
    seen = Seen()
    await nats_bus.consume(WANTED, seen)
    before = await publish_many(nats_bus, 50, "before")
    await server.stop()
    publishing = asyncio.create_task(publish_many(nats_bus, 50, "during"))
    await until(lambda: not nats_bus.connected)
    await server.start()
    during = await publishing
    after = await publish_many(nats_bus, 50, "after")
    await until(lambda: seen.bodies == before | during | after)
    stored = [stored.body async for stored in nats_bus.read(StreamName.HEALTH)]
    assert len(stored) == len(set(stored)) == 150


async def test_a_server_that_is_killed_while_consuming_loses_no_message(server: NatsServer, nats_bus: JetStreamBus):
    seen, held = Seen(), asyncio.Event()

    async def hold_some(message: Message) -> None:
        if len(seen.bodies) == 20:
            await held.wait()
        await seen(message)

    await nats_bus.consume(Subscription(StreamName.HEALTH, "killed", ["ansai.health.>"], window=8), hold_some)
    sent = await publish_many(nats_bus, 100)
    await until(lambda: len(seen.bodies) >= 20)
    await server.kill()
    held.set()
    await until(lambda: not nats_bus.connected)
    await server.start()
    sent |= await publish_many(nats_bus, 20, "more")
    await until(lambda: seen.bodies >= sent, seconds=60)


async def test_publishing_to_a_server_that_is_away_is_unavailable_after_the_deadline(server: NatsServer):
    settings = BusSettings(publish_deadline=timedelta(milliseconds=700))
    bus = await connect(settings, name="short", url=server.url)
    await server.stop()
    await until(lambda: not bus.connected)
    with pytest.raises(Unavailable, match=rf"{server.url}.*ansai up"):
        await bus.publish(SUBJECT, b"lost", message_id="x")
    await bus.announce("ansai.heartbeat.web-1.x", b"nobody hears it")
    await bus.close()


async def test_a_message_without_an_id_is_not_sent_twice(server: NatsServer, nats_bus: JetStreamBus):
    await server.pause()
    try:
        publishing = asyncio.create_task(nats_bus.publish(SUBJECT, b"once"))
        await asyncio.sleep(2.6)  # longer than one try
        assert not publishing.done()
    finally:
        server.resume()
    await publishing
    assert [stored.body async for stored in nats_bus.read(StreamName.HEALTH)] == [b"once"]


async def test_a_server_that_stalls_gets_a_message_with_an_id_once(server: NatsServer, nats_bus: JetStreamBus):
    await server.pause()
    try:
        publishing = asyncio.create_task(nats_bus.publish(SUBJECT, b"once", message_id="the-one"))
        await asyncio.sleep(2.6)  # long enough for a second try
    finally:
        server.resume()
    await publishing
    assert [stored.body async for stored in nats_bus.read(StreamName.HEALTH)] == [b"once"]


async def test_who_stops_listening_before_the_server_has_answered_harms_nobody_else(
    server: NatsServer, nats_bus: JetStreamBus, caplog
):
    await server.pause()
    listening = asyncio.create_task(anext(nats_bus.listen("ansai.heartbeat.>")))
    await asyncio.sleep(0.1)  # nothing tells that the question is on its way
    listening.cancel()
    await asyncio.wait({listening})
    server.resume()

    assert await publish_many(nats_bus, 5)
    assert "encountered error" not in caplog.text
    assert "lost the connection" not in caplog.text


async def test_a_key_whose_answer_was_late_is_written_once_and_is_no_conflict(
    server: NatsServer, nats_bus: JetStreamBus
):
    bucket = await nats_bus.bucket(Bucket.INCIDENTS)
    first = await bucket.create("k", b"1")
    await server.pause()
    try:
        writing = asyncio.create_task(bucket.update("k", b"2", first))
        await asyncio.sleep(2.6)
    finally:
        server.resume()
    assert await writing == first + 1
    assert await bucket.get("k") == Entry("k", b"2", first + 1)
    with pytest.raises(Conflict):
        await bucket.update("k", b"3", first)


async def test_a_consumer_that_is_deleted_is_made_again_where_it_was(server: NatsServer, nats_bus: JetStreamBus):
    seen = Seen()
    consumption = await nats_bus.consume(WANTED, seen)
    early = await publish_many(nats_bus, 10, "early")
    await until(lambda: seen.bodies == early)
    async with asyncio.timeout(20):
        while consumption._floor != 10:  # as it would find out by itself within half a minute
            await consumption._remember_floor()
    client = await nats.connect(server.url)
    await client.jetstream().delete_consumer("HEALTH", WANTED.durable)
    late = await publish_many(nats_bus, 10, "late")
    await until(lambda: seen.bodies == early | late)
    assert seen.deliveries == 20
    await client.close()


async def test_a_server_that_edits_its_users_does_not_lose_us_for_ever(tmp_path: Path):
    """It answers with an error that nats-py itself takes for final."""
    password = tmp_path / "password"
    password.write_text("one\n")
    users = 'authorization {{ users: [ {{ user: "a", password: "{}" }} ] }}'
    async with running_server(tmp_path / "nats", users.format("one")) as server:
        settings = BusSettings(credentials=Credentials(user="a", password_file=password))
        bus = await connect(settings, name="edited", url=server.url)
        server.configure(users.format("two"))
        server.reload()
        await until(lambda: not bus.connected)
        server.configure(users.format("one"))
        server.reload()
        await until(lambda: bus.connected)
        await bus.publish(SUBJECT, b"still here")
        await bus.close()


async def test_a_full_audit_stream_refuses(server: NatsServer):
    bus = await connect(BusSettings(audit_max_size=1024**2), name="audit", url=server.url)
    for _ in range(10):  # a megabyte takes ten of a hundred thousand bytes
        await bus.publish(AUDIT, b"x" * 100_000)
    with pytest.raises(Rejected, match="full"):
        await bus.publish(AUDIT, b"x" * 100_000)
    assert [stored.sequence async for stored in bus.read(StreamName.AUDIT)] == list(range(1, 11))
    await bus.publish(SUBJECT, b"others go on")
    await bus.close()


async def test_a_message_above_max_payload_leaves_the_connection_alone(server: NatsServer, nats_bus: JetStreamBus):
    limit = 8 * 1024 * 1024
    with pytest.raises(Rejected, match="larger than"):  # the body fits, but not with its headers
        await nats_bus.publish(SUBJECT, b"x" * limit, message_id="large")
    await nats_bus.publish(SUBJECT, b"x" * (limit - 100), message_id="fits")
    assert nats_bus.connected


def test_an_old_server_is_refused_with_what_to_do():
    with pytest.raises(Rejected, match=r"nats-server 2\.10\.22; 2\.11 or newer"):
        refuse_old_server("2.10.22", "nats://x:4222")
    for version in ("2.11.0", "2.12.1-preview.1", "3.0.0", "2.15.1", "development"):
        refuse_old_server(version, "nats://x:4222")


async def test_connecting_to_an_old_server_is_refused(monkeypatch: pytest.MonkeyPatch, server: NatsServer):
    monkeypatch.setattr("bus.connection.Connection.server_version", "2.9.25")
    with pytest.raises(Rejected, match=r"2\.9\.25"):
        await connect(BusSettings(), name="old", url=server.url)


async def test_nobody_listening_is_one_clear_line():
    url = f"nats://127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable, match=rf"no answer from {url} in 0\.5 s.*ansai up") as raised:
        await connect(BusSettings(connect_deadline=timedelta(seconds=0.5)), name="nobody", url=url)
    assert "\n" not in str(raised.value)


async def test_wrong_credentials_are_refused_at_once(tmp_path: Path):
    password = tmp_path / "password"
    password.write_text("wrong")
    extra = 'authorization { user: "a", password: "right" }'
    async with running_server(tmp_path / "nats", extra) as server:
        settings = BusSettings(credentials=Credentials(user="a", password_file=password))
        with pytest.raises(Rejected, match=r"[Aa]uthorization.*bus\.credentials"):
            await connect(settings, name="wrong", url=server.url)


async def test_a_missing_password_file_is_named(tmp_path: Path):
    settings = BusSettings(credentials=Credentials(user="a", password_file=tmp_path / "none"))
    with pytest.raises(Rejected, match="none"):
        await connect(settings, name="x", url="nats://127.0.0.1:1")


async def test_starting_twice_changes_nothing(server: NatsServer, settings: BusSettings, caplog):
    await (await connect(settings, name="first", url=server.url)).close()
    caplog.set_level(logging.INFO)
    await (await connect(settings, name="second", url=server.url)).close()
    assert "updated" not in caplog.text


async def test_the_streams_are_as_the_table_says(server: NatsServer, nats_bus: JetStreamBus, settings: BusSettings):
    client = await nats.connect(server.url)
    for spec in (*streams(settings).values(), *buckets(settings).values()):
        info = await client.jetstream().stream_info(spec.name)
        assert tuple(info.config.subjects) == spec.subjects
        assert info.config.max_age == (spec.max_age.total_seconds() if spec.max_age else 0)
        assert info.config.max_consumers == 10_000
        assert info.config.max_msgs_per_subject == (spec.max_messages_per_subject or -1)
        assert info.config.max_bytes == (spec.max_bytes or -1)
        assert info.config.discard == ("new" if spec.discard_new else "old")
        assert info.config.deny_delete == spec.deny_delete
        assert bool(info.config.allow_direct) == spec.direct
    await client.close()


async def test_a_stream_of_another_kind_is_refused(server: NatsServer, settings: BusSettings):
    client = await nats.connect(server.url)
    await client.jetstream().add_stream(name="HEALTH", subjects=["ansai.health.>"], retention="workqueue")
    with pytest.raises(Rejected, match=r"HEALTH exists and can't be used: its retention is workqueue"):
        await connect(settings, name="x", url=server.url)
    await client.close()


async def test_a_foreign_stream_that_takes_our_subjects_is_refused(server: NatsServer, settings: BusSettings):
    client = await nats.connect(server.url)
    await client.jetstream().add_stream(name="THEIRS", subjects=["ansai.audit.web-1.>"])
    with pytest.raises(Rejected, match=r"another stream takes some of ansai\.audit\.>"):
        await connect(settings, name="x", url=server.url)
    await client.close()


async def test_limits_are_widened_and_never_narrowed(server: NatsServer):
    async def audit_limit() -> int:
        return (await client.jetstream().stream_info("AUDIT")).config.max_bytes

    client = await nats.connect(server.url)
    for size, expected in ((2 * 1024**2, 2 * 1024**2), (4 * 1024**2, 4 * 1024**2), (1024**2, 4 * 1024**2)):
        await (await connect(BusSettings(audit_max_size=size), name="x", url=server.url)).close()
        assert await audit_limit() == expected
    await client.close()


RESTRICTED = """
authorization { users: [
  { user: "admin", password: "a" },
  { user: "role", password: "r", permissions: {
      publish: { deny: ["$JS.API.STREAM.CREATE.>", "$JS.API.STREAM.UPDATE.>", "ansai.audit.>"] } } } ] }
"""


async def test_a_client_that_may_not_create_starts_when_the_streams_exist(tmp_path: Path, settings: BusSettings):
    for name, secret in (("admin", "a"), ("role", "r")):
        (tmp_path / name).write_text(secret)

    def by(user: str) -> BusSettings:
        return settings.model_copy(update={"credentials": Credentials(user=user, password_file=tmp_path / user)})

    async with running_server(tmp_path / "nats", RESTRICTED) as server:
        with pytest.raises(Rejected, match="no stream HEALTH and we may not create it"):
            await connect(by("role"), name="role", url=server.url)
        await (await connect(by("admin"), name="admin", url=server.url)).close()
        bus = await connect(by("role"), name="role", url=server.url)
        await bus.publish(SUBJECT, b"permitted")
        with pytest.raises(Rejected, match=r"does not permit us to publish to ansai\.audit"):
            await bus.publish(AUDIT, b"denied")
        await bus.close()


async def test_a_watcher_sees_what_changed_while_the_server_was_away(server: NatsServer, nats_bus: JetStreamBus):
    bucket = await nats_bus.bucket(Bucket.INCIDENTS)
    await bucket.create("a", b"1")
    async with aclosing(bucket.watch()) as changes:
        assert (await anext(changes)).key == "a"
        assert await anext(changes) is None
        await server.stop()
        await server.start()
        await bucket.create("b", b"2")
        async with asyncio.timeout(20):
            assert (await anext(changes)).key == "b"


CONSUMING_PROCESS = """
import asyncio, sys
from bus.jetstream import connect
from bus.port import StreamName, Subscription
from schemas.settings.bus import BusSettings

async def main():
    bus = await connect(BusSettings(), name="process", url=sys.argv[1])
    async def tell(message):
        print(message.body.decode(), flush=True)
        await message.ack()
    await bus.consume(Subscription(StreamName.HEALTH, "processes", ["ansai.health.>"], window=4), tell)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await bus.close()

asyncio.run(main())
"""


async def test_two_processes_that_share_a_durable_share_the_messages(server: NatsServer, nats_bus: JetStreamBus):
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", CONSUMING_PROCESS, server.url,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in processes:
        assert await process.stdout.readline() == b"ready\n"
    sent = await publish_many(nats_bus, 200)
    client = await nats.connect(server.url)

    async def all_acknowledged() -> bool:
        info = await client.jetstream().consumer_info("HEALTH", "processes")
        return info.num_pending == 0 and info.num_ack_pending == 0

    async with asyncio.timeout(30):
        while not await all_acknowledged():
            await asyncio.sleep(0.02)
    await client.close()
    told = [set((await process.communicate(b""))[0].split()) for process in processes]
    assert told[0] | told[1] == sent
    assert not told[0] & told[1]
    assert told[0]
    assert told[1]


async def test_a_process_that_dies_leaves_its_messages_to_the_other(server: NatsServer, nats_bus: JetStreamBus):
    held: list[bytes] = []

    async def never(message: Message) -> None:
        held.append(message.body)
        await asyncio.Event().wait()

    dying = await connect(BusSettings(), name="dying", url=server.url)
    wanted = Subscription(StreamName.HEALTH, "dies", ["ansai.health.>"], window=4, ack_wait=timedelta(seconds=1))
    await dying.consume(wanted, never)
    sent = await publish_many(nats_bus, 4)
    await until(lambda: set(held) == sent)
    seen = Seen()
    await nats_bus.consume(wanted, seen)
    await until(lambda: seen.bodies == sent)
    for task in dying._consumers[0]._tasks:
        task.cancel()
    await dying.close()


async def test_tls_is_used_and_demanded(tmp_path: Path):
    request = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "ca.pem",
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(*request, cwd=tmp_path, stderr=asyncio.subprocess.DEVNULL)
    assert await process.wait() == 0
    settings = BusSettings(tls=Tls(ca=tmp_path / "ca.pem"))
    tls = f'tls {{ cert_file: "{tmp_path}/ca.pem", key_file: "{tmp_path}/key.pem" }}'
    async with running_server(tmp_path / "encrypted", tls) as server:
        bus = await connect(settings, name="tls", url=server.url)
        await bus.publish(SUBJECT, b"secret")
        await bus.close()
        with pytest.raises(Rejected, match="certificate"):  # signed by nobody we trust
            await connect(BusSettings(), name="tls", url=server.url)
    async with running_server(tmp_path / "plain") as server:
        with pytest.raises(Rejected, match="secure connection"):
            await connect(settings, name="tls", url=server.url)


async def test_a_seed_file_lets_us_in_and_another_one_does_not(tmp_path: Path):
    ours, theirs = (nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER) for _ in range(2))
    public = nkeys.from_seed(bytearray(ours)).public_key.decode()
    for name, seed in (("ours", ours), ("theirs", theirs)):
        (tmp_path / name).write_bytes(seed)
    known = f"authorization {{ users: [ {{ nkey: {public} }} ] }}"
    async with running_server(tmp_path / "server", known) as server:
        settings = BusSettings(credentials=Credentials(nkey_seed_file=tmp_path / "ours"))
        bus = await connect(settings, name="seed", url=server.url)
        await bus.publish(SUBJECT, b"known")
        await bus.close()
        settings = BusSettings(credentials=Credentials(nkey_seed_file=tmp_path / "theirs"))
        with pytest.raises(Rejected, match="refuses us"):
            await connect(settings, name="seed", url=server.url)
