"""The ledger: written by compare-and-set, mirrored by a watch that survives what happens to the server."""

from datetime import UTC, datetime, timedelta

import pytest

from bus import subjects
from bus.port import Bucket
from functions.core.ports import LedgerConflict, NotStored, Remembered
from infra.hosts.state import BusLedger
from schemas.incident import Incident, IncidentState
from schemas.remediation import Gap
from tests.infra.hosts.joined import Joined, joined
from tests.waiting import until

HOST, FUNCTION, TARGET = "web-1", "disk.free_space", "bytes:/var"
KEY = subjects.state_key(HOST, FUNCTION, TARGET)


@pytest.fixture
async def site(tmp_path):
    async with joined(tmp_path) as running:
        yield running


async def ledger(site: Joined, function=FUNCTION, **settings) -> BusLedger:
    bus = await site.join(**settings)
    return await site.start(BusLedger(await bus.bucket(Bucket.INCIDENTS), HOST, function))


def incident(state=IncidentState.OPEN, target=TARGET) -> Incident:
    now = datetime.now(UTC)
    return Incident(
        correlation="c", host=HOST, function=FUNCTION, target=target, state=state, opened_at=now, changed_at=now,
        gap=Gap(amount=1, unit="bytes"),
    )  # fmt: skip


async def test_what_is_saved_is_open_at_once_here_and_soon_elsewhere(site):
    one, other = await ledger(site), await ledger(site)

    saved = incident()
    revision = await one.save(saved, 0)

    assert one.is_open(TARGET)
    await until(lambda: other.is_open(TARGET))
    assert (await other.load(TARGET)).incident == saved
    assert other.open_incidents() == [saved]
    await other.save(saved.model_copy(update={"state": IncidentState.CLOSED}), revision)
    await until(lambda: not one.is_open(TARGET))


async def test_who_knows_an_old_one_can_t_write(site):
    one, other = await ledger(site), await ledger(site)
    revision = await one.save(incident(), 0)
    await one.save(incident(), revision)

    with pytest.raises(LedgerConflict):
        await other.save(incident(), revision)
    with pytest.raises(LedgerConflict):
        await other.save(incident(), 0)


async def test_a_later_start_knows_what_is_open(site):
    await (await ledger(site)).save(incident(), 0)

    assert (await ledger(site)).is_open(TARGET)
    assert not (await ledger(site, "disk.other")).is_open(TARGET)


async def test_a_damaged_incident_names_the_key_to_delete(site, caplog):
    await (await site.bucket(Bucket.INCIDENTS)).create(KEY, b"{")
    one = await ledger(site)

    assert not one.is_open(TARGET)
    assert KEY in caplog.text
    with pytest.raises(NotStored, match=f"look at key {KEY} of bucket incidents and delete it"):
        await one.load(TARGET)


async def test_without_a_bus_no_open_incident_is_loaded_and_none_is_saved(site):
    one = await ledger(site, publish_deadline=timedelta(seconds=1))
    revision = await one.save(incident(), 0)
    await site.server.kill()

    with pytest.raises(NotStored):
        await one.load(TARGET)
    with pytest.raises(NotStored):
        await one.save(incident(IncidentState.CLOSED), revision)
    assert one.is_open(TARGET)
    await site.server.start()


async def test_what_is_over_is_loaded_as_it_is_remembered_and_who_remembers_old_news_can_t_write(site):
    one, other = await ledger(site), await ledger(site)
    assert await one.load(TARGET) == Remembered(None, 0)
    over = incident(IncidentState.CLOSED)
    revision = await one.save(over, 0)
    assert await one.load(TARGET) == Remembered(over, revision)

    old = BusLedger(await site.bucket(Bucket.INCIDENTS), HOST, FUNCTION)  # not started: it hears nothing
    old._watch.problem = ""  # as one to which nothing was told yet
    assert await old.load(TARGET) == Remembered(None, 0)
    with pytest.raises(LedgerConflict):
        await old.save(incident(), 0)
    assert await old.load(TARGET) == Remembered(over, revision)  # it asks the bus, without waiting for news
    await until(lambda: other._mirror.get(TARGET) == over)
    assert await other.load(TARGET) == Remembered(over, revision)


async def test_while_the_watch_is_broken_the_bus_is_asked(site):
    one, other = await ledger(site), await ledger(site)
    over = incident(IncidentState.CLOSED)
    revision = await one.save(over, 0)
    await until(lambda: other._mirror.get(TARGET) == over)
    other._watch.problem = "the stream is gone"
    other._hear = lambda *_: None  # and hears nothing
    await one.save(incident(), revision)

    assert (await other.load(TARGET)).incident.open


async def test_one_that_is_damaged_after_it_was_over_is_not_overwritten(site):
    one = await ledger(site)
    revision = await one.save(incident(IncidentState.CLOSED), 0)
    await (await site.bucket(Bucket.INCIDENTS)).update(KEY, b"{", revision)
    await until(lambda: TARGET not in one._mirror)

    with pytest.raises(NotStored, match=f"is damaged.*look at key {KEY}"):
        await one.load(TARGET)


async def test_an_incident_of_another_target_is_taken_for_neither(site, caplog):
    elsewhere = subjects.state_key(HOST, FUNCTION, "bytes:/srv")
    one = await ledger(site)
    await (await site.bucket(Bucket.INCIDENTS)).create(elsewhere, incident().model_dump_json().encode())

    await until(lambda: "it is about bytes:/var, which belongs elsewhere" in caplog.text)

    assert not one.is_open(TARGET)
    assert await one.load(TARGET) == Remembered(None, 0)
    with pytest.raises(NotStored, match="is damaged"):
        await one.load("bytes:/srv")


async def test_what_was_deleted_is_read_again(site):
    one = await ledger(site)
    await one.save(incident(IncidentState.CLOSED), 0)
    await (await site.bucket(Bucket.INCIDENTS)).delete(KEY)
    await until(lambda: TARGET not in one._mirror)

    assert await one.load(TARGET) == Remembered(None, 0)
    await one.save(incident(), 0)
    assert one.is_open(TARGET)


async def test_what_changed_while_the_bus_was_away_is_known_afterwards(site):
    one, other = await ledger(site), await ledger(site)
    await one.save(incident(), 0)
    await until(lambda: other.is_open(TARGET))
    await site.server.kill()
    await site.server.start()
    bucket = await site.bucket(Bucket.INCIDENTS)
    await bucket.delete(KEY)
    await bucket.create(
        subjects.state_key(HOST, FUNCTION, "bytes:/srv"), incident(target="bytes:/srv").model_dump_json().encode()
    )

    await until(lambda: not one.is_open(TARGET) and not other.is_open(TARGET))
    await until(lambda: one.is_open("bytes:/srv") and other.is_open("bytes:/srv"))


async def test_what_is_saved_into_a_bucket_that_was_made_anew_is_open_at_once(site):
    one = await ledger(site)
    revision = 0
    for _ in range(5):
        revision = await one.save(incident(IncidentState.CLOSED), revision)
    await one._watch.stop()  # and hears of nothing
    await site.remove(Bucket.INCIDENTS)
    await site.join()  # makes it anew
    with pytest.raises(LedgerConflict):
        await one.save(incident(), revision)

    remembered = await one.load(TARGET)
    assert remembered == Remembered(None, 0)
    await one.save(incident(), remembered.revision)

    assert one.is_open(TARGET)


async def test_a_bucket_that_was_made_anew_is_mirrored_although_its_revisions_began_again(site):
    one = await ledger(site)
    revision = 0
    for _ in range(5):
        revision = await one.save(incident(), revision)
    await site.remove(Bucket.INCIDENTS)
    await site.join()  # makes it anew
    await site.server.kill()
    await site.server.start()
    await until(lambda: not one.is_open(TARGET))

    await (await site.bucket(Bucket.INCIDENTS)).create(KEY, incident().model_dump_json().encode())

    await until(lambda: one.is_open(TARGET))
