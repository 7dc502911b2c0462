"""A small real filesystem fills up; collector and function, each a process of its own, bring it below its target."""

import gzip
import os

import pytest

from schemas.audit import Step
from schemas.settings.disk import df_percent
from tests.e2e.conftest import FUNCTION, MIB, Site, Volume, named, settings_for

LINES = b"2026-01-01T00:00:00Z web-1 GET /orders/4711 200 12 ms\n" * 20_000


async def heal(site: Site, volume: Volume, **changes):
    await volume.aged()
    await site.open(settings_for(volume, **changes))
    await site.start("run", FUNCTION)
    await site.start("collect", "disk.pressure")
    return await site.healed()


async def test_a_full_filesystem_is_brought_below_its_target_and_only_planned_files_are_gone(
    volume: Volume, site: Site
):
    volume.write("data/orders.db", 30 * MIB)
    logs = {str(volume.write(f"log/app.log.{number}", LINES, days_old=40 + number)) for number in range(1, 6)}
    volume.write("log/app.log", LINES[:5000])
    volume.fill(92)
    before, used, last_used = volume.files(), volume.used(), volume.last_used()

    healed = await heal(site, volume)

    assert volume.percent() <= 75
    records, after = await site.records(), volume.files()
    removed, compressed = named(records, "remove_files"), named(records, "compress_logs")
    assert set(compressed) <= logs
    assert set(before) - set(after) == {*removed, *compressed}
    assert set(after) - set(before) == {f"{log}.gz" for log in compressed}
    assert all(gzip.decompress(after[f"{log}.gz"]) == before[log] for log in compressed)
    assert all(after[path] == content for path, content in before.items() if path in after)
    assert removed == sorted(removed, key=lambda path: (last_used[path], path)), "what was used longest ago goes first"

    report = healed.report
    assert report is not None
    freed = sum(rung.freed.get("bytes", 0) for rung in report.rungs)
    assert freed == pytest.approx(used - volume.used(), rel=0.05)
    assert report.unexplained == ""


async def test_what_is_acted_on_is_the_plan_in_its_order_and_no_action_too_many(memory: Volume, site: Site):
    memory.write("data/orders.db", 30 * MIB)
    memory.fill(92)

    await heal(site, memory)

    steps = [record.step for record in await site.records()]
    assert steps[:3] == [Step.OPENED, Step.DEFERRED, Step.PLANNED], "alerted, and the grace has passed, before it acts"
    assert steps[-1] is Step.HEALED
    (planned,) = await site.records(Step.PLANNED)
    acting, acted = await site.records(Step.ACTING), await site.records(Step.ACTED)
    assert planned.plan is not None
    foretold = [action for rung in planned.plan.rungs for action in rung.actions]
    assert [record.position for record in acting] == list(range(len(acting)))
    for record in acting:
        assert record.position is not None
        assert record.action == foretold[record.position]
        assert record.items[: len(record.action.sample)] == record.action.sample
        assert len(record.items) == record.action.items
    assert [record.position for record in acted] == [record.position for record in acting]
    last = acted[-1].result
    assert last is not None
    room = os.statvfs(memory.point).f_bavail * os.statvfs(memory.point).f_frsize
    before_the_last = df_percent(int(memory.used() + last.freed["bytes"]), int(room - last.freed["bytes"])) or 0
    assert memory.percent() <= 75 < before_the_last, "without the last action the gap were still open"


async def test_exhausted_inodes_are_healed_too(volume: Volume, site: Site):
    for number in range(1850):
        volume.write(f"tmp/d{number % 7}/f{number}", b"")
    volume.write("data/kept", b"")
    before, used = set(volume.files()), volume.inodes_used()

    healed = await heal(site, volume)

    assert healed.target == f"inodes:{volume.point}"
    assert volume.inode_percent() <= 75
    gone = before - set(volume.files())
    assert gone == set(named(await site.records()))
    assert used - volume.inodes_used() == len(gone)
    assert healed.report is not None
    assert sum(rung.freed["inodes"] for rung in healed.report.rungs) == len(gone)
