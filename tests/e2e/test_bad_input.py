"""What can't be understood is kept, what is not allowed is refused, what is not possible is said; the rest is done."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bus import subjects
from bus.port import Rejected, StreamName
from schemas.audit import Step
from schemas.disk import DiskPressure
from schemas.envelope import Event
from schemas.facts.files import Resource
from schemas.health import Level
from schemas.remediation import Outcome
from schemas.trigger import Asked
from tests.e2e.conftest import FUNCTION, HOST, MIB, Process, Site, Volume, named, settings_for
from tests.waiting import until


def pressure(volume: Volume, time: datetime) -> Event[DiskPressure]:
    target = f"bytes:{volume.point}"
    health = DiskPressure(
        target=target, level=Level.CRITICAL, reason="too full", observed_at=time, mount=str(volume.point),
        resource=Resource.BYTES,
    )  # fmt: skip
    return Event[DiskPressure](source="/test", type=DiskPressure.type_name(), subject=target, time=time, data=health)


# ── messages ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_can_not_be_understood_is_a_dead_letter_and_the_consumer_goes_on(memory: Volume, site: Site):
    memory.write("data/orders.db", 30 * MIB)
    memory.fill(92)
    await memory.aged()
    await site.open(settings_for(memory))
    up = await site.start("up")
    now = datetime.now(UTC)
    good = pressure(memory, now).body()
    health = subjects.health(HOST, "disk", "pressure", f"bytes:{memory.point}")
    trigger = subjects.trigger(HOST, FUNCTION)
    wrong = [
        (health, b'{"specversion": "1.0", ', "JSON"),
        (health, b'"just text"', "message"),
        (health, re.sub(rb'"level":"critical"', b'"level":["critical"]', good), "data.level"),
        (
            health,
            good.replace(b"ansai.health.disk.pressure.v1", b"ansai.health.disk.pressure.v99"),
            ".v1 is understood",
        ),
        (health, pressure(memory, now + timedelta(days=36_500)).body(), "in the future"),
        (health, b"\xff\xfe" * 300_000, "JSON"),
        (trigger, b"[1, 2", "no JSON"),
        (trigger, b'{"target": 7}', "target"),
        (trigger, b'{"target": "/var", "mod": "live"}', "mod"),
        (subjects.trigger(HOST, "disk.free_spaec"), b"{}", "no function disk.free_spaec runs here"),
    ]

    for subject, body, _ in wrong:
        await site.bus.publish(subject, body)

    async def letters():
        found = await site.stored(StreamName.DLQ)
        return found if len(found) >= len(wrong) else None

    found = {(letter.headers["Ansai-Subject"], letter.body): letter for letter in await until(letters)}
    assert len(found) == len(wrong)
    for subject, body, why in wrong:
        letter = found[subject, body[: 512 * 1024]]
        assert why in letter.headers["Ansai-Error"]
        assert letter.headers["Ansai-Length"] == str(len(body))
    await site.healed()
    assert (await site.ask(f"bytes:{memory.point}"))[-1].outcome is Outcome.DONE
    assert "Traceback" not in up.said


async def test_an_event_of_1970_is_dropped_and_told_and_heals_nothing(memory: Volume, site: Site):
    memory.write("data/orders.db", 30 * MIB)
    before = memory.fill(92)
    await memory.aged()
    await site.open(settings_for(memory))
    await site.start("run", FUNCTION)

    old = pressure(memory, datetime(1970, 1, 1, tzinfo=UTC))
    await site.bus.publish(subjects.health(HOST, "disk", "pressure", old.data.target), old.body())

    (stale,) = await until(lambda: site.records(Step.STALE))
    assert stale.seen == "1"
    assert [record.step for record in await site.records()] == [Step.STALE]
    assert all(Path(path).exists() for path in before)


async def test_a_message_of_10_megabytes_is_refused_where_it_is_published(memory: Volume, site: Site):
    await site.open(settings_for(memory))

    with pytest.raises(Rejected) as refused:
        await site.bus.publish(subjects.trigger(HOST, FUNCTION), b" " * 10 * MIB)

    assert "\n" not in str(refused.value)
    assert re.search(r"10\.0 MiB|10485760|10,485,760", str(refused.value))
    await site.bus.publish(subjects.trigger(HOST, FUNCTION), b"{}")


async def test_an_order_about_a_protected_or_an_unknown_target_is_refused_with_the_rule(memory: Volume, site: Site):
    memory.write("data/orders.db", 30 * MIB)
    before = memory.fill(92)
    await memory.aged()
    target = f"bytes:{memory.point}"
    await site.open(settings_for(memory, policy={"protected_targets": [f"{target[:12]}*"]}))
    await site.start("run", FUNCTION)

    protected = (await site.ask(target, Asked.LIVE))[-1]
    unknown = (await site.ask("bytes:/nowhere", Asked.LIVE))[-1]

    assert protected.outcome is unknown.outcome is Outcome.REFUSED
    refusals = {record.rule: record for record in await site.records(Step.REFUSED)}
    assert refusals["protected_targets"].seen == target
    assert refusals["target"].seen == "no such target"
    assert target in refusals["target"].limit
    assert all(Path(path).exists() for path in before)


async def test_a_trigger_can_not_grant_what_the_policy_does_not(memory: Volume, site: Site):
    memory.write("data/orders.db", 30 * MIB)
    before = memory.fill(92)
    settings = settings_for(memory)
    settings["policy"]["mode"] = "dry_run"
    await memory.aged()
    await site.open(settings)
    await site.start("run", FUNCTION)

    asked = (await site.ask(f"bytes:{memory.point}", Asked.LIVE))[-1]

    assert asked.outcome is Outcome.REFUSED
    assert "a trigger can't grant live" in asked.text
    assert all(Path(path).exists() for path in before)


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "arguments", [("up",), ("run", FUNCTION), ("collect", "disk.pressure"), ("plan",)], ids=lambda words: words[0]
)
async def test_a_mistake_in_the_settings_stops_the_start(arguments: tuple[str, ...], site: Site):
    (site.directory / "ansai.yaml").write_text("host: web-1\ndisk_monitoring:\n  tresholds:\n    warning: 70\n")

    ended = await site.run(*arguments)

    assert ended.code == 78
    assert ended.out == ""
    (line,) = ended.err.splitlines()
    assert "ansai.yaml:3" in line
    assert "tresholds" in line
    assert "thresholds" in line.replace("tresholds", "")


# ── a machine that does not cooperate ─────────────────────────────────────────────────────────────────────────────


async def test_a_full_disk_under_state_and_spool_stops_no_healing(memory: Volume, site: Site):
    memory.write("data/orders.db", 30 * MIB)
    memory.fill(92)
    before = memory.files()
    await memory.aged()
    await site.open(settings_for(memory))
    with mounted(site.directory / "full", "-t", "tmpfs", "-o", "size=64k", "none") as full:
        with pytest.raises(OSError), (full / "ballast").open("wb", buffering=0) as ballast:  # noqa: PT012
            while True:
                ballast.write(bytes(4096))
        function = await site.start("run", FUNCTION, XDG_STATE_HOME=str(full))
        collector = await site.start("collect", "disk.pressure", XDG_STATE_HOME=str(full))
        await site.healed()
        assert await function.stop() == 0
        assert await collector.stop() == 0

    assert memory.percent() <= 75
    assert before.keys() - memory.files().keys() == set(named(await site.records()))
    assert "No space left" in function.said + collector.said or "full" in function.said + collector.said
    assert "Traceback" not in function.said + collector.said


async def test_a_directory_that_became_read_only_fails_in_one_line_and_the_rest_is_done(memory: Volume, site: Site):
    memory.write("data/orders.db", 28 * MIB)
    locked = memory.fill(75, directory="locked")
    memory.fill(92)
    await memory.aged()
    temp = {f"{memory.point}/locked": "1 s", f"{memory.point}/tmp": "1 s"}
    await site.open(settings_for(memory, cleanup={"temp_directories": temp}))
    with mounted(memory.point / "locked", "--bind", str(memory.point / "locked")) as point:
        subprocess.run(["mount", "-o", "remount,bind,ro", point], check=True)
        function = await site.start("run", FUNCTION)
        await site.start("collect", "disk.pressure")
        healed = await site.healed()

    assert memory.percent() <= 75
    assert all(Path(path).exists() for path in locked)
    assert "Traceback" not in function.said
    assert healed.report is not None
    left = [item for rung in healed.report.rungs for item in rung.not_done]
    assert left
    assert all(item.outcome is Outcome.FAILED and "the filesystem is read-only" in item.reason for item in left)


async def test_a_file_that_can_not_be_removed_is_told_and_the_others_go(memory: Volume, site: Site):
    memory.write("data/orders.db", 30 * MIB)
    oldest = memory.write("tmp/oldest", MIB)
    subprocess.run(["chattr", "+i", oldest], check=True)
    try:
        memory.fill(92)
        await memory.aged()
        await site.open(settings_for(memory))
        await site.start("run", FUNCTION)
        await site.start("collect", "disk.pressure")
        healed = await site.healed()
    finally:
        subprocess.run(["chattr", "-i", oldest], check=True)

    assert memory.percent() <= 75
    assert oldest.exists()
    assert healed.report is not None
    (left,) = [item for rung in healed.report.rungs for item in rung.not_done]
    assert os.path.basename(left.name) == oldest.name
    assert left.outcome is Outcome.FAILED
    assert "not permitted" in left.reason


async def test_a_directory_that_may_not_be_read_is_told_and_the_rest_is_done(memory: Volume, site: Site):
    """Root without the right to look into everybody's directories."""
    memory.write("data/orders.db", 30 * MIB)
    memory.fill(92)
    memory.write("secret/f", MIB // 2)
    os.chown(memory.point / "secret", 65534, 65534)
    (memory.point / "secret").chmod(0o700)
    await memory.aged()
    temp = {f"{memory.point}/{name}": "1 s" for name in ("missing", "secret", "tmp")}
    await site.open(settings_for(memory, cleanup={"temp_directories": temp}))
    function = await bounded(site, "run", FUNCTION)
    await site.start("collect", "disk.pressure")
    healed = await site.healed()

    assert memory.percent() <= 75
    assert (memory.point / "secret" / "f").exists()
    assert healed.report is not None
    told = " ".join(finding.title for finding in healed.report.findings)
    assert f"could not look at {memory.point}/secret" in told
    assert "Permission denied" in told
    assert "Traceback" not in function.said


async def bounded(site: Site, *arguments: str) -> Process:
    less = "-dac_override,-dac_read_search"
    process = await site.spawn(
        "setpriv", "--bounding-set", less, "--inh-caps", less, sys.executable, "-m", "infra.cli.main", *arguments
    )
    await process.says("running on")
    return process


async def test_a_mount_that_vanishes_leaves_its_target_unknown_and_the_others_are_healed(
    memory: Volume, site: Site, tmp_path: Path
):
    memory.write("data/orders.db", 30 * MIB)
    memory.fill(92)
    await memory.aged()
    with mounted(tmp_path / "gone", "-t", "tmpfs", "-o", "size=8M", "none") as point:
        other = Volume(point, "tmpfs")
        other.fill(96)
        settings = settings_for(memory)
        settings["disk_monitoring"]["only_mounts"] = [str(memory.point), str(point)]
        await site.open(settings)
        function = await site.start("run", FUNCTION)
        subprocess.run(["nsenter", "--mount", "--target", str(await function.pid()), "umount", str(point)], check=True)
        event = pressure(other, datetime.now(UTC))
        await site.bus.publish(subjects.health(HOST, "disk", "pressure", event.data.target), event.body())
        event = pressure(memory, datetime.now(UTC))
        await site.bus.publish(subjects.health(HOST, "disk", "pressure", event.data.target), event.body())
        healed = await site.healed()

        assert healed.target == f"bytes:{memory.point}"
        await function.says("the truth is unknown, so nothing is done")
        assert {record.target for record in await site.records()} == {healed.target}
        assert other.percent() >= 96
        assert "Traceback" not in function.said


@contextmanager
def mounted(point: Path, *how: str):
    point.mkdir(exist_ok=True)
    subprocess.run(["mount", *how, point], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "--lazy", point], check=True)
