"""The audit trail fills up, answers get lost, a bucket is made anew: no audit, no action; no chain stops or forks."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from bus.port import Bucket, BusError, StreamName
from functions.core.ports import NotStored
from infra.audit.exported import verify_exports
from infra.audit.keys import Keyring
from infra.audit.trail import AuditTrail
from infra.audit.trust import local_keys
from infra.hosts.story import BusStory
from schemas.alert import Alert, AlertState, Severity
from schemas.audit import Step
from schemas.envelope import new_id
from schemas.remediation import Mode
from tests.chaos.fleet_site import FUNCTION, HOST, SetClock, Site, World, open_site
from tests.chaos.proxy import Proxy, proxy
from tests.waiting import until

MIB = 2**20
MINUTE = timedelta(minutes=1)


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    """What could not be done is given up, and tried again, sooner than after twenty and five seconds."""
    monkeypatch.setattr("functions.core.engine.BUSY", timedelta(milliseconds=300))
    monkeypatch.setitem(AuditTrail.__init__.__kwdefaults__, "settle_within", 5.0)


@pytest.fixture
async def site(tmp_path):
    async with open_site(tmp_path, audit_max_size=MIB, publish_deadline=timedelta(seconds=2)) as made:
        yield made


# The size.


class Filler:
    """Another function of the host, which writes much."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._story = BusStory(site.bus, site.bus, HOST, new_id(), state=site.state_of(HOST) / "audit")

    async def to(self, share: float) -> None:
        while (await self._site.bus.usage(StreamName.AUDIT)).share < share:
            await self._write(10_000)

    async def to_the_last_byte(self) -> None:
        for size in (10_000, 1_000, 1):
            while await self._fits(size):
                pass

    async def _fits(self, size: int) -> bool:
        try:
            await self._write(size)
        except NotStored:
            return False
        return True

    async def _write(self, size: int) -> None:
        await self._story.audit(
            new_id(), function="water.report", step=Step.RECEIVED, mode=Mode.OBSERVE, data={"filling": "x" * size}
        )

    async def stop(self) -> None:
        await self._story.stop()


async def told(site: Site, saying: str) -> list[Alert]:
    return await site.alerts(saying=saying)


async def test_it_is_told_at_80_90_and_100_percent_then_nothing_acts_and_an_archive_lets_it_go_on(site, tmp_path):
    world = World(HOST, {"a": 16, "b": 8}, clock=SetClock(0.001))
    await site.host(world)
    filler = Filler(site)
    await site.report(at=world.clock.now())
    await until(lambda: site.records(Step.HEALED))

    for share, title in ((0.80, "80 % full"), (0.90, "90 % full")):
        await filler.to(share)
        world.clock.advance(MINUTE)
        (alert,) = await until(lambda: told(site, title))  # noqa: B023
        assert "ansai audit archive" in alert.next
        assert alert.severity is (Severity.WARNING if share == 0.80 else Severity.CRITICAL)
    await filler.to_the_last_byte()
    world.clock.advance(MINUTE)
    (full,) = await until(lambda: told(site, "the audit trail is full: nothing is changed any more"))
    assert full.severity is Severity.CRITICAL

    world.water["b"] = 16
    await site.report("tank:b", at=world.clock.now())
    (refused,) = await until(lambda: site.alerts(AlertState.REFUSED, saying="tank:b"))
    assert "could not be written down" in refused.title
    assert "see that the bus runs and that its audit stream has room" in refused.next
    await until(site.answered)
    assert world.done == ["a from 16", "a from 13"]

    archive, rest = tmp_path / "archive", tmp_path / "rest"
    code, said, complained = await site.ansai(
        "audit", "archive", str(archive), "--before", datetime.now(UTC).isoformat(), "--json"
    )
    assert code == 0, complained
    assert json.loads(said)["archived"] is True
    assert (await site.bus.usage(StreamName.AUDIT)).share < 0.1

    world.clock.advance(MINUTE)
    await until(lambda: told(site, "the audit trail has room again"))
    await site.report("tank:b", at=world.clock.now())
    await until(lambda: len(world.done) == 4)
    await until(lambda: site.records(Step.HEALED))
    await filler.stop()
    assert world.done[2:] == ["b from 16", "b from 13"], "the quiet emitter, all of whose records are gone, goes on"
    found = await site.verified()
    assert found.problems == ()
    assert any("tombstone" in note for note in found.notes)

    code, _, complained = await site.ansai("audit", "export", str(rest))
    assert code == 0, complained
    trust = local_keys(HOST, Keyring(site.state_of(HOST) / "audit" / "keys"))
    offline = verify_exports([archive, rest], trust, lambda *_: None)
    assert offline.problems == ()
    assert offline.records > found.records
    (drained,) = [chain for chain in offline.chains if chain.function == FUNCTION]
    assert drained.first == 1, "the chain is whole, from the archive's first record to the newest"


# Answers.


async def stored_more(site: Site, before: int) -> bool:
    return (await site.bus.usage(StreamName.AUDIT)).last_sequence > before


async def lose_one(site: Site, between: Proxy, occurrence: int, tank: str) -> None:
    """Let the answer to one audit message get lost after it was stored, while the host works on that tank."""
    before = (await site.bus.usage(StreamName.AUDIT)).last_sequence
    between.lose_answer_to(b"PUB ansai.audit.", occurrence)
    await site.report(f"tank:{tank}")
    await until(between.losing.is_set)
    await until(lambda: stored_more(site, before + occurrence - 1))
    between.cut()


async def test_an_answer_that_is_lost_neither_stops_nor_forks_the_chain(site):
    tanks = {"a": 1, "b": 2, "c": 3, "d": 5}
    world = World(HOST, dict.fromkeys(tanks, 16))
    async with proxy(site.server.port) as between:
        bus = await site.join(between.url)
        host = await site.host(world, bus=bus)
        for tank, occurrence in tanks.items():
            await lose_one(site, between, occurrence, tank)
            await until(lambda: world.water[tank] == 10)  # noqa: B023
        await until(lambda: healed(site, len(tanks)))
        await host.stop()
        await bus.close()

    assert world.done == [f"{tank} from {level}" for tank in tanks for level in (16, 13)]
    await assert_one_chain(site)


async def test_a_server_killed_right_after_it_stored_neither_stops_nor_forks_the_chain(site):
    world = World(HOST, {"a": 16})
    async with proxy(site.server.port) as between:
        bus = await site.join(between.url)
        host = await site.host(world, bus=bus)
        before = (await site.bus.usage(StreamName.AUDIT)).last_sequence
        between.lose_answer_to(b"PUB ansai.audit.", 3)
        await site.report()
        await until(between.losing.is_set)
        await until(lambda: stored_more(site, before + 2))
        await site.server.kill()
        between.cut()
        await site.server.start()
        await until(lambda: world.water["a"] == 10)
        await until(lambda: healed(site, 1))
        await host.stop()
        await bus.close()

    assert world.done == ["a from 16", "a from 13"]
    await assert_one_chain(site)


async def healed(site: Site, tanks: int) -> bool:
    try:
        return len({record.target for record in await site.records(Step.HEALED)}) == tanks
    except BusError:  # the server starts
        return False


async def assert_one_chain(site: Site) -> None:
    found = await site.verified()
    assert found.problems == ()
    assert [(chain.function, chain.ended) for chain in found.chains] == [(FUNCTION, True)]
    assert await told(site, "forked") == []


# Buckets.


async def test_a_lease_bucket_that_is_made_anew_in_mid_plan_stops_nothing_for_long_and_forks_nothing(site):
    world = World(HOST, {"a": 40}, takes=0.3)
    await site.host(world, policy={"default": {"cooldown": "1 s"}})
    epoch = (await site.bucket(Bucket.LEASES)).epoch
    await site.report()
    await until(lambda: len(world.done) >= 2)

    await site.bus._outbox.api(f"STREAM.DELETE.KV_{Bucket.LEASES.value}")
    await until(lambda: world.water["a"] <= 10)
    await until(lambda: healed(site, 1))
    world.water["a"] = 16
    await site.report()
    await until(lambda: world.water["a"] <= 10)

    assert (await site.bucket(Bucket.LEASES)).epoch > epoch
    assert world.done == [f"a from {level}" for level in (*range(40, 10, -3), 16, 13)]
    assert (await site.verified()).problems == ()
    assert await told(site, "forked") == []
