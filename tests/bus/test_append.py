"""Appending when the server stalls, dies, does not permit it, or when nobody waits for the answer any more."""

import asyncio
import gc
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bus import subjects
from bus.jetstream import JetStreamBus, connect
from bus.port import Bucket, Conflict, Rejected, StreamName, Unavailable
from schemas.settings.bus import BusSettings, Credentials
from tests.servers import NatsServer, running_server
from tests.waiting import until

TRAIL = subjects.audit("web-1", "disk.free_space", "e1")


@pytest.fixture
async def complaints() -> list[dict[str, Any]]:
    """What the loop says about futures and tasks whose errors nobody looked at."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    return told


async def test_a_server_that_stalls_is_sent_a_message_once(server: NatsServer, nats_bus: JetStreamBus):
    listening = nats_bus.listen(TRAIL)  # hears every copy, those that the stream refuses too
    await listening.ready()
    await server.pause()
    try:
        appending = asyncio.create_task(nats_bus.append(TRAIL, b"once", expected_last=0))
        await asyncio.sleep(2.6)  # longer than a message with an id waits for its second try
        assert not appending.done()
    finally:
        server.resume()
    assert await appending == 1
    await nats_bus.append(TRAIL, b"next", expected_last=1)
    assert [(await anext(listening))[1] for _ in range(2)] == [b"once", b"next"]
    await listening.aclose()


async def test_what_is_on_its_way_is_not_refused_with_what_waits(server: NatsServer, nats_bus: JetStreamBus):
    """It may be stored, which a refusal would deny."""
    await server.pause()
    try:
        appending = asyncio.create_task(nats_bus.append(TRAIL, b"on its way", expected_last=0))
        await until(lambda: nats_bus._outbox._waiting)
        nats_bus._outbox.refuse_unsent(lambda subject: True, Rejected("gone"))
    finally:
        server.resume()
    assert await appending == 1


async def test_an_answer_that_does_not_come_is_unavailable_and_the_last_message_tells(server: NatsServer):
    bus = await connect(BusSettings(publish_deadline=timedelta(seconds=1)), name="short", url=server.url)
    await server.pause()
    try:
        with pytest.raises(Unavailable, match=rf"{server.url}: {TRAIL}: no answer"):
            await bus.append(TRAIL, b"answered too late", expected_last=0)
    finally:
        server.resume()
    with pytest.raises(Conflict, match="wrong last sequence: 1"):
        await bus.append(TRAIL, b"again", expected_last=0)
    last = await bus.last(TRAIL)
    assert last is not None
    assert (last.sequence, last.body) == (1, b"answered too late")
    await bus.close()


async def test_a_connection_that_breaks_before_the_answer_is_unavailable_at_once(
    server: NatsServer, nats_bus: JetStreamBus
):
    await server.pause()
    appending = asyncio.create_task(nats_bus.append(TRAIL, b"?", expected_last=0))
    await until(lambda: nats_bus._outbox._waiting)
    await server.kill()
    with pytest.raises(Unavailable, match="whether it is stored is not known"):
        await appending
    await server.start()
    last = await nats_bus.last(TRAIL)
    assert await nats_bus.append(TRAIL, b"next", expected_last=last.sequence if last else 0)


async def test_a_server_that_is_away_is_unavailable_for_every_question(server: NatsServer):
    bus = await connect(BusSettings(publish_deadline=timedelta(milliseconds=500)), name="short", url=server.url)
    await server.stop()
    await until(lambda: not bus.connected)
    questions = (
        bus.append(TRAIL, b"", expected_last=0),
        bus.last(TRAIL),
        bus.usage(StreamName.AUDIT),
        bus.purge(StreamName.AUDIT, 5),
        bus.resize(StreamName.AUDIT, 10**6),
    )
    for answer in await asyncio.gather(*questions, return_exceptions=True):
        assert isinstance(answer, Unavailable)
    await bus.close()


@pytest.mark.parametrize("answer", ["stored", "conflict"])
async def test_an_append_that_is_cancelled_leaves_nothing_behind(
    server: NatsServer, nats_bus: JetStreamBus, complaints: list[dict[str, Any]], answer: str, caplog
):
    await server.pause()
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await nats_bus.append(TRAIL, b"forgotten", expected_last=0 if answer == "stored" else 7)
    finally:
        server.resume()
    await until(lambda: not nats_bus._outbox._waiting)
    assert await nats_bus.append(TRAIL, b"next", expected_last=1 if answer == "stored" else 0)
    gc.collect()
    assert complaints == []
    assert [record for record in caplog.records if record.levelname != "INFO"] == []
    assert nats_bus._outbox._room._value == BusSettings().publish_window


async def test_an_append_that_is_cancelled_before_it_is_written_leaves_nothing_behind(
    nats_bus: JetStreamBus, complaints: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):
    reached = asyncio.Event()

    async def full(*_: object) -> None:
        """As the client when its buffer is full: writing to a socket can't be held up from outside."""
        reached.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(nats_bus._connection, "publish", full)
        appending = asyncio.create_task(nats_bus.append(TRAIL, b"held up", expected_last=0))
        await reached.wait()
        appending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await appending
    assert nats_bus._outbox._waiting == {}
    assert nats_bus._outbox._room._value == BusSettings().publish_window
    gc.collect()
    assert complaints == []


ROLES = """
authorization { users: [
  { user: "admin", password: "a" },
  { user: "reader", password: "r", permissions: { publish: { deny: [
      "ansai.audit.>", "$JS.API.STREAM.PURGE.>", "$JS.API.STREAM.UPDATE.>", "$JS.API.STREAM.INFO.KV_leases"
  ] } } } ] }
"""


async def test_what_a_role_may_not_do_is_refused_with_the_subject_that_it_lacks(tmp_path: Path):
    def by(user: str, password: str) -> BusSettings:
        (tmp_path / user).write_text(password)
        return BusSettings(credentials=Credentials(user=user, password_file=tmp_path / user))

    async with running_server(tmp_path / "nats", ROLES) as server:
        admin = await connect(by("admin", "a"), name="admin", url=server.url)
        await admin.append(TRAIL, b"1", expected_last=0)
        bus = await connect(by("reader", "r"), name="reader", url=server.url)
        with pytest.raises(Rejected, match=rf"does not permit us to publish to {TRAIL}"):
            await bus.append(TRAIL, b"2", expected_last=1)
        with pytest.raises(Rejected, match=r"STREAM\.PURGE\.AUDIT"):
            await bus.purge(StreamName.AUDIT, 2)
        with pytest.raises(Rejected, match=r"STREAM\.UPDATE\.AUDIT"):
            await bus.resize(StreamName.AUDIT, 10**6)
        assert (await bus.last(TRAIL)).body == b"1"
        assert (await bus.usage(StreamName.AUDIT)).messages == 1

        leases = await bus.bucket(Bucket.LEASES)
        assert await leases.create("k", b"") == 1
        with pytest.raises(Rejected, match=r"permit this role to publish to \$JS\.API\.STREAM\.INFO\.KV_leases"):
            _ = leases.epoch
        await bus.close()
        await admin.close()


async def test_a_limit_that_was_set_is_what_the_server_has_and_holds_until_a_client_wants_more(server: NatsServer):
    small, large = BusSettings(audit_max_size=2 * 1024**2), BusSettings(audit_max_size=8 * 1024**2)
    bus = await connect(large, name="large", url=server.url)
    await bus.resize(StreamName.AUDIT, 3 * 1024**2)
    assert (await bus.usage(StreamName.AUDIT)).limit == 3 * 1024**2
    await (await connect(small, name="small", url=server.url)).close()
    assert (await bus.usage(StreamName.AUDIT)).limit == 3 * 1024**2
    await (await connect(large, name="large", url=server.url)).close()
    assert (await bus.usage(StreamName.AUDIT)).limit == 8 * 1024**2
    await bus.close()
