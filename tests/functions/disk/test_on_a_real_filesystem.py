"""Survey and plan with the machine's own files on a small filesystem; what the plan foretells is then done by hand."""

import os
import subprocess
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from functions.disk.facts import Found
from functions.disk.free_space import REMEDY
from infra.adapters.files.machine import MachineFiles
from schemas.facts.files import Resource
from schemas.health import Level
from schemas.settings.disk import df_percent
from tests.functions.disk.world import MIB, World, rungs, titles

pytestmark = pytest.mark.needs("root", "mounts")


@dataclass
class SmallMachine(World):
    """Real files; nothing else on it."""

    machine: MachineFiles | None = None

    @property
    def files(self):
        return self.machine


@pytest.fixture(params=["tmpfs", "ext4"])
def mounted(request, tmp_path):
    """An empty filesystem of 64 MiB."""
    point = tmp_path / "small"
    point.mkdir()
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", "size=64M,nr_inodes=2000", "none", point]
    else:
        request.getfixturevalue("loop")
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(64 * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-N", "2000", "-m", "5", image], check=True)
        command = ["mount", "-o", "loop", image, point]
    subprocess.run(command, check=True)
    yield point
    subprocess.run(["umount", point], check=True)


@pytest.fixture
def loop():
    from tests import components

    components.need("loop", "mkfs.ext4")


@pytest.fixture
def here(mounted, tmp_path):
    """Of all processes only this one is in its /proc: in a container or a sandbox others may not be looked into."""
    proc = tmp_path / "proc"
    proc.mkdir()
    for name in ("self", "locks", "swaps", str(os.getpid())):
        (proc / name).symlink_to(f"/proc/{name}")
    return SmallMachine(machine=MachineFiles(proc=str(proc)))


def write(path: Path, size: int, days_old: float = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))
    moment = datetime.now(UTC).timestamp() - days_old * 86400
    os.utime(path, (moment, moment))
    return path


def case_of(here, mounted: Path, resource: Resource = Resource.BYTES, **settings):
    """Looked at from ten days in the future: the times that no program can set, ctime, are then old enough."""
    cleanup = {
        "temp_directories": {str(mounted / "tmp"): None},
        "log_directories": (str(mounted / "log"),),
        "max_percent": 100,
        **settings,
    }
    case = here.case(f"{resource}:{mounted}", auto_cleanup=cleanup)
    return replace(case, now=datetime.now(UTC) + timedelta(days=10))


def used_and_available(mounted: Path) -> tuple[int, int]:
    stat = os.statvfs(mounted)
    return (stat.f_blocks - stat.f_bfree) * stat.f_frsize, stat.f_bavail * stat.f_frsize


def look(here, case):
    seen = REMEDY.observe(case, here)
    found: Found = REMEDY.survey(case, seen, here)
    return seen, REMEDY.plan(case, seen, found)


def settle(mounted: Path) -> None:
    """Ext4 allocates late: figures are those of the disk only after a sync."""
    subprocess.run(["sync", "-f", mounted], check=True)


def needed_files(plan, gap) -> list[str]:
    positions = plan.needed(gap)
    return [item for step in plan.steps() if step.position in positions for item in step.action.items()]


def test_the_needed_files_and_no_more_bring_a_full_filesystem_exactly_to_its_target(here, mounted):
    write(mounted / "data", 5 * MIB)
    case = case_of(here, mounted)
    number = 0
    while df_percent(*used_and_available(mounted)) < 92:
        write(mounted / "tmp" / f"f{number:03}", MIB // 2, days_old=300 - number)
        settle(mounted)
        number += 1
    seen, plan = look(here, case)
    assert seen.level.rank >= Level.CRITICAL.rank
    gap = REMEDY.gap(case, seen)
    files = needed_files(plan, gap)
    assert files == [str(mounted / "tmp" / f"f{number:03}") for number in range(len(files))]

    foretold = sum(os.stat(path).st_blocks * 512 for path in files)
    for path in files[:-1]:
        os.unlink(path)
    settle(mounted)
    assert not REMEDY.gap(case, REMEDY.observe(case, here)).closed
    os.unlink(files[-1])
    settle(mounted)
    after = REMEDY.observe(case, here)
    assert REMEDY.gap(case, after).closed
    assert seen.usage.used - after.usage.used == pytest.approx(foretold, rel=0.05)
    assert (mounted / "data").exists()


def test_a_filesystem_without_free_inodes_is_brought_to_its_target_by_deleting_empty_files_too(here, mounted):
    for number in range(1850):
        write(mounted / "tmp" / f"d{number % 7}" / f"f{number}", 0)
    settle(mounted)
    case = case_of(here, mounted, Resource.INODES)
    seen, plan = look(here, case)
    assert seen.level.rank >= Level.CRITICAL.rank
    files = needed_files(plan, REMEDY.gap(case, seen))
    for path in files:
        os.unlink(path)
    settle(mounted)
    after = REMEDY.observe(case, here)
    assert REMEDY.gap(case, after).closed
    assert seen.usage.inodes_used - after.usage.inodes_used == len(files)


def test_what_is_open_linked_twice_sparse_excluded_or_on_another_mount_is_not_planned(here, mounted):
    temp = mounted / "tmp"
    taken = write(temp / "new\nline \udcff", MIB)
    os.link(write(temp / "twice", MIB), temp / "other-name")
    write(temp / "systemd-private-1" / "tmp" / "f", MIB)
    (temp / "link").symlink_to("/etc/passwd")
    with (temp / "sparse").open("wb") as sparse:
        sparse.truncate(1000 * MIB)
    write(temp / "elsewhere" / "hidden", MIB)
    write(mounted / "outside" / "f", MIB)
    subprocess.run(["mount", "--bind", mounted / "outside", temp / "elsewhere"], check=True)
    try:
        with write(temp / "open", MIB).open("rb"):
            _, plan = look(here, case_of(here, mounted))
    finally:
        subprocess.run(["umount", temp / "elsewhere"], check=True)
    assert [item for action in rungs(plan)["temp_files"] for item in action.items()] == [str(taken)]
    told = " ".join(titles(plan.findings))
    assert all(reason in told for reason in ("1 another mount", "2 hard link", "1 in use"))


def test_rotated_logs_are_found_by_their_own_age_and_database_logs_are_not(here, mounted):
    log = mounted / "log"
    wanted = [write(log / "app" / "app.log.2", MIB, 60), write(log / "app.log.1", MIB, 40)]
    write(log / "app.log.3.gz", MIB, 60)
    write(log / "young.log.1", MIB, 5)
    write(log / "mysql" / "mysql-bin.001", MIB, 60)
    write(log / "journal" / "m" / "system.1", MIB, 60)
    _, plan = look(here, case_of(here, mounted))
    assert [item for action in rungs(plan)["compress_logs"] for item in action.items()] == [
        str(path) for path in wanted
    ]


def test_looking_changes_nothing_not_even_an_access_time(here, mounted):
    for number in range(20):
        write(mounted / "tmp" / "d" / f"f{number}", 5000)
        write(mounted / "log" / f"a.log.{number}", 9000)

    def everything():
        settle(mounted)
        return {
            path: (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_atime_ns, stat.st_size)
            for path in sorted(mounted.rglob("*"))
            for stat in [path.lstat()]
        }

    before = everything()
    _, plan = look(here, case_of(here, mounted))
    assert plan.size >= 2
    assert everything() == before


def test_an_unmounted_filesystem_is_an_unknown_truth(here, tmp_path):
    from schemas.probes import ProbeError

    with pytest.raises(ProbeError, match="nothing is mounted there"):
        REMEDY.observe(here.case(f"bytes:{tmp_path}"), here)
