"""kill -9 of the function, at the beginning of an action and between two: nothing is done twice, the incident ends."""

import gzip

import pytest

from bus.port import Bucket, StreamName
from schemas.alert import Alert
from schemas.audit import ActionEvent, AuditRecord, Step
from schemas.envelope import Event
from schemas.trigger import Asked
from tests.e2e.conftest import FUNCTION, MIB, Process, Site, Volume, named, settings_for
from tests.waiting import until

POLICY = {"settle": "50 ms"}
"""A window between two actions."""


async def killed(site: Site, step: Step, number: int) -> None:
    """Start the function, and kill it at the *number*th *step* that it tells."""
    listening = site.bus.listen("ansai.action.>")
    await listening.ready()
    function = await site.start("run", FUNCTION)
    heard = 0
    try:
        async for _, body in listening:
            heard += Event[ActionEvent].model_validate_json(body).data.step is step
            if heard == number:
                await function.kill()
                return
    finally:
        await listening.aclose()


async def lease_is_gone(site: Site) -> bool:
    """That of the dead runs out by itself; who starts earlier comes back to it some seconds later."""
    return not await (await site.bus.bucket(Bucket.LEASES)).keys()


async def begin(site: Site, volume: Volume, **changes) -> None:
    """An incident waits for the function: the filesystem is full, and the collector has said so."""
    await volume.aged()
    await site.open(settings_for(volume, policy=POLICY, **changes))
    collector = await site.start("collect", "disk.pressure")
    await until(lambda: site.pressures(f"bytes:{volume.point}"))
    await collector.stop()


def attempts(records: list[AuditRecord]) -> list[tuple[AuditRecord, AuditRecord | None]]:
    """Each `acting` with what came of it; None when it was cut off."""
    ends = {(record.emitter, record.position): record for record in records if record.step is Step.ACTED}
    return [(each, ends.get((each.emitter, each.position))) for each in records if each.step is Step.ACTING]


def check_that_nothing_was_done_twice(records: list[AuditRecord], gone: set[str]) -> None:
    """Every file that is gone was done by one action; only what was cut off may be named again."""
    done: list[str] = []
    cut_off: list[set[str]] = []
    for acting, acted in attempts(records):
        assert not set(done) & set(acting.items), "what was done is not planned again"
        if acted is None:
            cut_off.append(set(acting.items))
            continue
        assert acted.result is not None
        left = {item.name for item in acted.result.not_done}
        certain = [item for item in acting.items if not any(item.endswith(name) for name in left)]
        assert acted.result.done == len(certain)
        done += certain
    assert len(done) == len(set(done))
    assert set(done) <= gone
    assert gone - set(done) <= set().union(*cut_off)


@pytest.mark.parametrize(("step", "number"), [(Step.ACTING, 1), (Step.ACTED, 3), (Step.ACTING, 5)], ids=str)
async def test_a_killed_function_does_nothing_twice_and_ends_its_incident(
    memory: Volume, site: Site, step: Step, number: int
):
    memory.write("data/orders.db", 30 * MIB)
    memory.fill(92)
    before = memory.files()
    await begin(site, memory)

    await killed(site, step, number)
    halfway = before.keys() - memory.files().keys()
    await until(lambda: lease_is_gone(site))
    function = await site.start("run", FUNCTION)
    await site.healed()
    await function.stop()

    records = await site.records()
    gone = before.keys() - memory.files().keys()
    assert halfway < gone
    check_that_nothing_was_done_twice(records, gone)
    assert memory.percent() <= 75
    story = [record.step for record in records]
    assert (story.count(Step.OPENED), story.count(Step.RECOVERED), story.count(Step.HEALED)) == (1, 1, 1)
    assert len({record.incident for record in records}) == 1
    recovered = story.index(Step.RECOVERED)
    first_again = next(each for each in records[recovered:] if each.step is Step.ACTING)
    assert not halfway & set(first_again.items), "what went before the crash is not planned again"
    await ends_closed(site)


async def ends_closed(site: Site) -> None:
    alerts = [Event[Alert].model_validate_json(each.body).data for each in await site.stored(StreamName.ALERT)]
    assert [alert.state for alert in alerts] == ["opened", "resolved"]


async def test_a_log_whose_compression_was_cut_off_is_whole_in_one_place(memory: Volume, site: Site):
    line = b"2026-01-01T00:00:00Z web-1 GET /orders/%d 200 %d ms\n"
    text = b"".join(line % (number, number * number % 997) for number in range(100_000))
    logs = {str(memory.write(f"log/app.log.{number}", text, days_old=40 + number)) for number in range(1, 7)}
    memory.write("data/orders.db", 26 * MIB)
    memory.write("tmp/kept", 1)
    assert 90 <= memory.percent() < 95
    before = memory.files()
    await begin(site, memory)

    await killed(site, Step.ACTING, 2)
    await until(lambda: lease_is_gone(site))
    function = await site.start("run", FUNCTION)
    await site.healed()
    await function.stop()

    after = memory.files()
    compressed = {log for log in logs if log not in after}
    assert after.keys() - before.keys() == {f"{log}.gz" for log in compressed}, "no draft is left behind"
    assert all(gzip.decompress(after[f"{log}.gz"]) == text for log in compressed)
    assert all(after[log] == text for log in logs - compressed)
    assert set(named(await site.records(), "compress_logs")) >= compressed


async def test_a_function_that_dies_three_times_in_one_incident_hands_it_to_a_person_who_can_lift_it(
    memory: Volume, site: Site
):
    memory.write("data/orders.db", 30 * MIB)
    memory.fill(92)
    before = memory.files()
    await begin(site, memory)

    for _ in range(3):
        await killed(site, Step.ACTED, 1)
    function = await site.start("run", FUNCTION)
    await until(lambda: stuck(site), lambda: function.said)
    still_there = memory.files().keys()
    answer = await site.ask(f"bytes:{memory.point}", Asked.LIVE)

    assert answer[-1].step is Step.HEALED
    records = await site.records()
    stuck_at = [record.step for record in records].index(Step.STUCK)
    assert all(set(record.items) <= still_there for record in records[stuck_at:])
    check_that_nothing_was_done_twice(records, before.keys() - memory.files().keys())
    assert memory.percent() <= 75


async def stuck(site: Site) -> bool:
    return bool(await site.records(Step.STUCK))


async def test_a_function_that_is_stopped_between_two_actions_goes_on_at_its_next_start(memory: Volume, site: Site):
    memory.write("data/orders.db", 30 * MIB)
    memory.fill(92)
    before = memory.files()
    await begin(site, memory)

    function: Process = await site.start("run", FUNCTION)
    await until(lambda: site.records(Step.ACTED))
    assert await function.stop() == 0
    assert not await site.records(Step.HEALED)
    await site.start("run", FUNCTION)
    await site.healed()

    records = await site.records()
    check_that_nothing_was_done_twice(records, before.keys() - memory.files().keys())
    assert all(acted is not None for _, acted in attempts(records)), "a running action is finished first"
