"""The server is away for a while: the collector loses nothing, and healing goes on when it is back."""

import asyncio
import sqlite3
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from bus import subjects
from bus.port import StreamName
from schemas.disk import DiskPressure
from schemas.envelope import Event
from schemas.heartbeat import ComponentState, Heartbeat
from tests.e2e.conftest import FUNCTION, HOST, MIB, Site, Volume, named, settings_for
from tests.waiting import until

AWAY = 20
"""Seconds."""
EVERY_READ = {"steady_every": "1 ms"}
"""Each read is told."""


async def test_a_server_that_is_away_for_20_seconds_costs_no_event_and_healing_goes_on(memory: Volume, site: Site):
    target = f"bytes:{memory.point}"
    memory.write("data/orders.db", 30 * MIB)
    await site.open(settings_for(memory, policy={"cooldown": "1 s"}, **EVERY_READ))
    await site.start("run", FUNCTION)
    collector = await site.start("collect", "disk.pressure")
    await until(lambda: site.pressures(target))

    await site.server.stop()
    left, began = datetime.now(UTC), time.monotonic()
    memory.fill(92)
    before = memory.files()
    await collector.says("trying again until it is back")
    await until(lambda: time.monotonic() - began >= AWAY)
    back = datetime.now(UTC)
    await site.server.start()
    await site.healed()

    assert memory.percent() <= 75
    assert before.keys() - memory.files().keys() == set(named(await site.records()))
    last = await last_words(site, collector, target)
    events = await site.pressures(target)
    away = [event for event in events if left < event.data.observed_at < back]
    assert len(away) >= 10
    assert len({event.id for event in events}) == len(events), "none is stored twice"
    assert all(earlier.data.observed_at < later.data.observed_at for earlier, later in pairwise(events))
    assert last.failures == 0
    assert last.handled == len(events), "every read was told, and every event is there"


async def last_words(site: Site, collector, target: str) -> Heartbeat:
    """Stop the collector just after it told something; what it says when it goes."""
    heard = site.bus.listen("ansai.heartbeat.>")
    told = site.bus.listen(subjects.health(HOST, "disk", "pressure", target))
    await heard.ready()
    await told.ready()
    await told.__anext__()
    assert await collector.stop() == 0
    async with asyncio.timeout(30):
        async for _, body in heard:
            beat = Event[Heartbeat].model_validate_json(body).data
            if beat.component == "disk.pressure" and beat.state is ComponentState.STOPPING:
                return beat
    raise AssertionError("no farewell")


async def test_what_a_killed_collector_left_in_its_spool_is_delivered_by_the_next_one(memory: Volume, site: Site):
    target = f"bytes:{memory.point}"
    await site.open(settings_for(memory, **EVERY_READ, every="100 ms"))
    collector = await site.start("collect", "disk.pressure")
    await until(lambda: site.pressures(target))

    await site.server.stop()
    await collector.says("trying again until it is back")
    (spool,) = (Path(site.environment["XDG_STATE_HOME"]) / "ansai" / "spool").glob("*.sqlite")
    log = spool.with_name(f"{spool.name}-wal")
    size = log.stat().st_size
    await until(lambda: log.stat().st_size > size + 50_000)
    await collector.kill()
    kept = spooled(spool)
    await site.server.start()
    await site.start("collect", "disk.pressure")

    assert len(kept) >= 5
    await until(lambda: all_are_stored(site, kept))


def spooled(path: Path) -> list[str]:
    database = sqlite3.connect(path)
    try:
        return [row[0] for row in database.execute("SELECT message_id FROM events ORDER BY position")]
    finally:
        database.close()


async def all_are_stored(site: Site, kept: list[str]) -> bool:
    """Each of *kept* once, and in this order for each target."""
    stored = [Event[DiskPressure].model_validate_json(each.body) for each in await site.stored(StreamName.HEALTH)]
    found = [event.id for event in stored if event.id in kept]
    assert len(found) == len(set(found))
    by_time: dict[str, list[datetime]] = {}
    for event in stored:
        by_time.setdefault(event.data.target, []).append(event.data.observed_at)
    assert all(times == sorted(times) for times in by_time.values())
    return set(found) == set(kept)
