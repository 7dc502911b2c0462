"""The collector on this machine's own mounts, and on a small filesystem that is really filled."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from collectors.core.run import CollectorRun
from collectors.disk.pressure import COLLECTOR
from infra.adapters.files.machine import MachineFiles
from schemas.facts.mounts import real_filesystems
from schemas.health import Level
from schemas.settings.disk import DiskMonitoring
from tests import components
from tests.fakes import FakeClock, FakeOutlet

MIB = 2**20
TOP = Path(__file__).parents[3]


def run_with(outlet, directory=None, **settings):
    probes = SimpleNamespace(files=MachineFiles())
    settings = DiskMonitoring(**settings)
    return CollectorRun(COLLECTOR, settings, probes, outlet, "web-1", directory=directory, clock=FakeClock())


@pytest.fixture
def outlet():
    return FakeOutlet()


@pytest.fixture
def tmpfs(tmp_path):
    """A tmpfs of 10 MiB and 1,000 inodes, unmounted at the end."""
    components.need("root", "mounts")
    point = tmp_path / "small"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10M,nr_inodes=1000", "ansai-test", point], check=True)
    yield point
    subprocess.run(["umount", point], check=True)


async def test_the_machines_own_filesystems_are_told_as_df_tells_them(outlet, tmp_path):
    run = run_with(outlet, tmp_path)
    events = {event.target: event for event in await run.look()}
    points = [mount.point for mount in real_filesystems(MachineFiles().mounts(), DiskMonitoring())]
    assert points
    assert {f"bytes:{point}" for point in points} <= set(events)
    for point in points:
        event, stat = events[f"bytes:{point}"], os.statvfs(point)
        assert event.level is not Level.UNKNOWN
        assert event.total == stat.f_blocks * stat.f_frsize
        told = int(subprocess.run(
            ["df", "--output=pcent", point], capture_output=True, text=True, check=True
        ).stdout.split()[-1].rstrip("%"))  # fmt: skip
        assert abs(event.percent - told) <= 1  # others write meanwhile
        assert f"inodes:{point}" in events or stat.f_files == 0
    assert {event.data.target for event in outlet.events} == set(events)


async def test_a_small_filesystem_is_followed_up_and_down_in_bytes_and_in_inodes(outlet, tmpfs):
    held, counted = f"bytes:{tmpfs}", f"inodes:{tmpfs}"
    run = run_with(outlet, only_mounts=(str(tmpfs),), confirm=1)

    async def levels():
        await run.look()
        return {event.target: event.level.value for event in outlet.take()}

    assert await levels() == {held: "ok", counted: "ok"}

    log = tmpfs / "log"
    log.write_bytes(b"x" * int(8.5 * MIB))
    assert await levels() == {held: "warning"}
    log.write_bytes(b"x" * int(9.2 * MIB))
    assert await levels() == {held: "critical"}
    log.write_bytes(b"x" * int(9.9 * MIB))
    assert await levels() == {held: "emergency"}
    log.unlink()
    assert await levels() == {held: "ok"}

    for number in range(960):
        (tmpfs / str(number)).touch()
    assert await levels() == {counted: "emergency"}
    for number in range(960):
        (tmpfs / str(number)).unlink()
    assert await levels() == {counted: "ok"}


HOLD_AND_LOOK = f"""
import asyncio, json, os, sys, tempfile
from tests.collectors.disk.test_real_filesystems import run_with
from tests.fakes import FakeOutlet

async def main(point):
    with tempfile.TemporaryFile(dir=point) as file:
        file.write(b"x" * {9 * MIB})
        file.flush()
        events = await run_with(FakeOutlet(), only_mounts=(point,)).look()
    print(json.dumps([os.getpid(), events[0].model_dump(mode="json")]))

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.needs("unshare")
def test_a_deleted_file_that_is_still_open_is_found_with_its_holder(tmpfs):
    """In a process namespace of its own: elsewhere there may be processes that even root may not look into."""
    private = ["unshare", "--mount", "--pid", "--fork", "--mount-proc"]
    done = subprocess.run(
        [*private, sys.executable, "-c", HOLD_AND_LOOK, tmpfs], cwd=TOP, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    pid, event = json.loads(done.stdout)
    assert event["level"] == "critical"
    assert event["deleted_open_bytes"] == 9 * MIB
    (finding,) = event["findings"]
    assert finding.startswith(f"9.0 MiB held by deleted files: pid {pid} (")


async def test_an_unmounted_filesystem_is_told_as_gone(outlet, tmp_path, tmpfs):
    run = run_with(outlet, only_mounts=(str(tmpfs),))
    await run.look()
    outlet.take()
    subprocess.run(["umount", tmpfs], check=True)
    try:
        await run.look()
    finally:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "ansai-test", tmpfs], check=True)
    events = outlet.take()
    assert {event.target for event in events} == {f"bytes:{tmpfs}", f"inodes:{tmpfs}"}
    assert all(event.level is Level.UNKNOWN and "is gone" in event.reason for event in events)


async def test_on_a_full_disk_the_memory_saved_before_stays_whole_and_nothing_is_left(outlet, tmpfs, caplog):
    state = tmpfs / "state"
    await save(run_with(outlet, state))
    before = (state / "disk.pressure.json").read_bytes()
    with open(tmpfs / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 65536)
    await save(run_with(outlet, state))
    assert "can't be saved (No space left on device)" in caplog.text
    assert (state / "disk.pressure.json").read_bytes() == before
    assert os.listdir(state) == ["disk.pressure.json"]


async def save(run):
    run.start()
    await run._clock.until_asleep(2)
    await run.stop()
