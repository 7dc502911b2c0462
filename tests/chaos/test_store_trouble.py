"""A full disk under the server, and values of the bus that can't be read: nothing is done, and it is told why."""

import contextlib
import errno
import logging
import subprocess
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from bus import subjects
from bus.port import Bucket, BusError, StreamName
from bus.spool import Spool
from infra.audit.trail import AuditTrail
from schemas.alert import AlertState, Severity
from schemas.approval import Approval, ApprovalState
from schemas.audit import Step
from schemas.envelope import Event
from schemas.settings.bus import SpoolSettings
from tests.chaos.fleet_site import FUNCTION, HOST, TARGET, SetClock, Site, World, draining, open_site
from tests.waiting import until

MINUTE = timedelta(minutes=1)
GARBAGE = b'{"slots": 7, \xff'
BUSY = timedelta(milliseconds=300)


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    """What could not be done is given up, and tried again, sooner than after twenty and five seconds."""
    monkeypatch.setattr("functions.core.engine.BUSY", BUSY)
    monkeypatch.setitem(AuditTrail.__init__.__kwdefaults__, "settle_within", 2.0)


@pytest.fixture
async def site(tmp_path):
    async with open_site(tmp_path) as made:
        yield made


# The disk.


@contextlib.asynccontextmanager
async def on_a_small_disk(directory: Path) -> AsyncIterator[tuple[Site, Path]]:
    """A site whose server keeps its store on a filesystem of 24 MiB, and a file with which that can be filled."""
    store = directory / "nats" / "store"
    store.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24M,mode=700", "none", store], check=True)
    try:
        settings = {"audit_max_size": 2**21, "publish_deadline": timedelta(seconds=1)}
        async with open_site(directory, **settings) as site:
            yield site, store / "filler"
    finally:
        subprocess.run(["umount", store], check=True)


def fill(file: Path) -> None:
    """To the last byte."""
    with file.open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


@pytest.mark.needs("root", "mounts")
async def test_with_a_full_disk_under_the_server_nothing_is_done_and_afterwards_everything_is(tmp_path, caplog):
    async with on_a_small_disk(tmp_path) as (site, filler):
        world = World(HOST, {"a": 16, "b": 8})
        bus = await site.join()
        spool = Spool(bus, SpoolSettings(directory=tmp_path / "spool"), "test")
        await spool.open()
        site.stack.push_async_callback(spool.close)
        await site.host(world, bus=bus, spool=spool)
        await site.report()
        await until(lambda: site.records(Step.HEALED))

        fill(filler)
        world.water["b"] = 16
        said = "could not be written down"
        await until(lambda: _report_and_look(site, caplog, "nothing is done on tank:b"), lambda: caplog.text)
        assert world.done == ["a from 16", "a from 13"]

        filler.unlink()
        # A stream of nats-server that could not write once takes nothing until the server starts anew: its /healthz
        # says so, and whatever keeps the server running starts it.
        await site.server.stop()
        await site.server.start()
        await site.report("tank:b")
        await until(lambda: len(world.done) == 4, lambda: caplog.text)
        await until(lambda: _healed(site, 2))

        assert world.done[2:] == ["b from 16", "b from 13"]
        await until(lambda: site.alerts(AlertState.REFUSED, saying=said))
        (alert,) = await site.alerts(AlertState.REFUSED, saying=said)
        assert alert.severity is Severity.CRITICAL
        assert (await site.verified()).problems == ()


async def _report_and_look(site: Site, caplog: pytest.LogCaptureFixture, text: str) -> bool:
    """What the collector says may be refused as well; it says it again."""
    with contextlib.suppress(BusError):
        await site.report("tank:b")
    return text in caplog.text


async def _healed(site: Site, times: int) -> bool:
    return len(await site.records(Step.HEALED)) == times


# Values.


async def spoil(site: Site, name: Bucket, key: str, value: bytes = GARBAGE) -> None:
    """As a person with the server's own tools might, or a version with another form."""
    bucket = await site.bucket(name)
    entry = await bucket.get(key)
    if entry is None:
        await bucket.create(key, value)
    else:
        await bucket.update(key, value, entry.revision)


async def test_an_incident_that_can_t_be_read_stops_its_target_until_it_is_removed(site, caplog):
    world = World(HOST, {"a": 22, "b": 16}, clock=SetClock(0.001))
    await site.host(world, draining(actions=2), policy={"default": {"cooldown": 15 * MINUTE}})
    await site.report(at=world.clock.now())
    await until(lambda: site.records(Step.UNHEALED))
    key = subjects.state_key(HOST, FUNCTION, TARGET)

    await spoil(site, Bucket.INCIDENTS, key)
    world.clock.advance(20 * MINUTE)
    await site.report(at=world.clock.now())
    (alert,) = await until(lambda: site.alerts(AlertState.REFUSED, saying=key))
    await site.report("tank:b", at=world.clock.now())
    await until(lambda: world.water["b"] == 10)
    assert alert.severity is Severity.CRITICAL
    assert "bucket incidents" in alert.title
    assert world.water["a"] == 16, "nothing more was done there, and the other one was healed"
    assert "Traceback" not in caplog.text

    await (await site.bucket(Bucket.INCIDENTS)).delete(key)
    world.clock.advance(MINUTE)
    await site.report(at=world.clock.now())
    await until(lambda: world.water["a"] == 10)
    assert len(await site.alerts(AlertState.REFUSED, saying=key)) == 1
    assert (await site.verified()).problems == ()


@pytest.mark.parametrize("key", [subjects.spent_key(HOST), subjects.group_key("slots", "default", FUNCTION)])
async def test_a_budget_or_slots_that_can_t_be_read_stop_everything_until_they_are_removed(site, key):
    world = World(HOST, {"a": 16})
    await site.host(world)
    await spoil(site, Bucket.FLEET, key)

    await site.report()
    (alert,) = await until(lambda: site.alerts(AlertState.REFUSED, saying=f"nats kv del fleet {key}"))
    assert alert.severity is Severity.CRITICAL
    assert world.done == []

    await (await site.bucket(Bucket.FLEET)).delete(key)
    await until(lambda: site.records(Step.HEALED))
    assert world.done == ["a from 16", "a from 13"]
    assert (await site.verified()).problems == ()


@pytest.mark.parametrize("value", [GARBAGE, b"", b"[]", b"\x00"])
async def test_a_freeze_that_can_t_be_read_is_a_freeze(site, value):
    world = World(HOST, {"a": 16})
    await site.host(world)
    await spoil(site, Bucket.FLEET, subjects.FREEZE, value)

    await site.report()
    await until(lambda: site.alerts(AlertState.REFUSED, saying="key freeze of bucket fleet"))
    assert world.done == []

    await (await site.bucket(Bucket.FLEET)).delete(subjects.FREEZE)
    await until(lambda: site.records(Step.HEALED))
    assert world.done == ["a from 16", "a from 13"]


async def test_a_member_that_can_t_be_read_makes_nobody_bolder_and_is_told_anew_by_its_own_host(site, caplog):
    caplog.set_level(logging.WARNING)
    worlds = {name: World(name, {"a": 16}) for name in ("web-1", "web-2", "web-3", "web-4")}
    limits = {"fleet": {"gather": "1 hour", "storm_least": 3}}
    for world in worlds.values():
        await site.host(world, policy={"default": limits})
    key = subjects.group_key("member", "default", FUNCTION, "web-3")
    for name in ("web-2", "web-3", "web-4"):
        await site.report(host=name)
    await until(lambda: _storm_told(site, 1))

    await spoil(site, Bucket.FLEET, key)
    await until(lambda: f"nats kv del fleet {key}" in caplog.text)
    await until(lambda: _readable(site, key), lambda: caplog.text)
    await site.report(host="web-1")
    await until(lambda: _refused_by_storm(site, "web-1"))
    assert [effect for world in worlds.values() for effect in world.effects] == []


async def _storm_told(site: Site, times: int) -> bool:
    return len(await site.alerts(AlertState.STORM)) == times


async def _refused_by_storm(site: Site, host: str) -> bool:
    return host in {record.host for record in await site.records(Step.REFUSED, rule="storm")}


async def _readable(site: Site, key: str) -> bool:
    entry = await (await site.bucket(Bucket.FLEET)).get(key)
    return entry is not None and entry.value != GARBAGE


async def test_a_plan_that_can_t_be_read_is_not_carried_out_and_another_is_asked_about_in_its_time(site):
    world = World(HOST, {"a": 16}, clock=SetClock(0.001))
    limits = {"approval_expiry": 60 * MINUTE, "cooldown": 10 * MINUTE, "max_cooldown": 10 * MINUTE}
    await site.host(world, policy={"mode": "approve", "default": limits})
    await site.report(at=world.clock.now())
    (question,) = await until(lambda: _questions(site, 1))
    key = subjects.plan_key(HOST, FUNCTION, TARGET, question.hash)

    await spoil(site, Bucket.PLANS, key)
    await _grant(site, question)
    await until(lambda: site.alerts(AlertState.REFUSED, saying=f"nats kv del plans {key}"))
    assert world.done == []

    await (await site.bucket(Bucket.PLANS)).delete(key)
    await until(lambda: site.records(Step.REFUSED, rule="approval"))
    world.clock.advance(60 * MINUTE)
    await until(lambda: _refused_twice(site))
    world.clock.advance(20 * MINUTE)
    again = (await until(lambda: _questions(site, 2)))[-1]
    await _grant(site, again)
    await until(lambda: site.records(Step.HEALED))
    assert world.done == ["a from 16", "a from 13"]


async def _questions(site: Site, count: int) -> list[Approval]:
    stored = await site.stored(StreamName.APPROVAL, subjects.approval(HOST, FUNCTION, "requested"))
    return [Event[Approval].model_validate_json(each.body).data for each in stored] if len(stored) >= count else []


async def _refused_twice(site: Site) -> bool:
    return len(await site.records(Step.REFUSED, rule="approval")) >= 2


async def _grant(site: Site, question: Approval) -> None:
    said = question.model_copy(update={"state": ApprovalState.GRANTED, "who": "anna"})
    event = Event[Approval](source="/test", type=Approval.type_name(), subject=said.target, data=said)
    await site.bus.publish(subjects.approval(HOST, FUNCTION, "granted", "anna"), event.body(), message_id=event.id)
