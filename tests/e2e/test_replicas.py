"""The same event, ten times at once, to three replicas of the function: one plan, one set of actions."""

import asyncio
from datetime import UTC, datetime

import nats

from bus import subjects
from schemas.audit import Step
from schemas.disk import DiskPressure
from schemas.envelope import Event
from schemas.facts.files import Resource
from schemas.health import Level
from tests.e2e.conftest import FUNCTION, HOST, MIB, Site, Volume, named, settings_for
from tests.waiting import until

DURABLE = "web-1-disk-free_space"


def pressure(volume: Volume) -> Event[DiskPressure]:
    target = f"bytes:{volume.point}"
    health = DiskPressure(
        target=target, level=Level.CRITICAL, reason=f"{target} is too full", observed_at=datetime.now(UTC),
        mount=str(volume.point), resource=Resource.BYTES,
    )  # fmt: skip
    return Event[DiskPressure](source="/test", type=DiskPressure.type_name(), subject=target, data=health)


async def test_ten_copies_at_three_replicas_are_one_plan_and_one_set_of_actions(memory: Volume, site: Site):
    memory.write("data/orders.db", 30 * MIB)
    memory.fill(92)
    await memory.aged()
    await site.open(settings_for(memory, policy={"settle": "50 ms"}))
    before = memory.files()
    names = [f"replica-{number}" for number in range(3)]
    await asyncio.gather(*(site.start("run", FUNCTION, XDG_STATE_HOME=str(site.directory / name)) for name in names))

    event = pressure(memory)
    subject = subjects.health(HOST, "disk", "pressure", event.data.target)
    await asyncio.gather(*(site.bus.publish(subject, event.body()) for _ in range(10)))
    await site.healed()
    await until(lambda: all_are_answered(site))

    assert len(await site.pressures(event.data.target)) == 10
    records = await site.records()
    story = [record.step for record in records]
    assert (story.count(Step.OPENED), story.count(Step.PLANNED), story.count(Step.HEALED)) == (1, 1, 1)
    actors = {record.emitter for record in records if record.step in {Step.PLANNED, Step.ACTING, Step.ACTED}}
    assert len({record.incident for record in records}) == 1
    assert len(actors) <= 2, "one plans and acts; when the grace is over it may be another than the one that planned"
    removed = named(records, "remove_files")
    assert len(removed) == len(set(removed))
    assert before.keys() - memory.files().keys() == set(removed)
    assert sum(record.result.done for record in records if record.result is not None) == len(removed)
    for process in site.processes:
        assert await process.stop() == 0
        assert "Traceback" not in process.said


async def all_are_answered(site: Site) -> bool:
    """Every copy was delivered and acknowledged."""
    connection = await nats.connect(site.server.url)
    try:
        told = await connection.jetstream().consumer_info("HEALTH", DURABLE)
        return told.num_pending == 0 and told.num_ack_pending == 0
    finally:
        await connection.close()
