"""A dry run writes nothing of any kind, and live does a beginning of what the dry run told."""

import asyncio
import hashlib
import os
import stat as modes
import subprocess
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from functions import registry
from functions.core.plan import Plan
from functions.core.remedy import Case
from infra.adapters.containers import ContainerCleaner, Containers
from infra.adapters.files.machine import MachineFiles
from infra.adapters.files.tools import MachineFileTools
from infra.adapters.journal import Journal, JournalVacuum
from infra.adapters.log_rotation import LogRotationReader, LogRotator
from infra.adapters.packages import PackageCleaner, Packages
from infra.hosts.function_host import Machine
from infra.hosts.local import LocalProbes, LocalTools
from infra.hosts.station import station
from infra.simulate.disk_full import fill_package_cache
from schemas.audit import ActionEvent, AuditRecord, Step
from schemas.remediation import Mode, Report
from schemas.settings.root import Configuration
from schemas.trigger import Asked
from tests import components
from tests.docker_engine import DockerEngine, docker_engine
from tests.e2e.conftest import FUNCTION, HOST, MIB, Site, Volume, settings_for, small_filesystem
from tests.infra.adapters import journals

ACCESSED = 9
"""Where in an entry of a picture the access time is."""
LINES = b"2026-01-01T00:00:00Z web-1 GET /orders/4711 200 12 ms\n" * 20_000


# ── a picture of everything ───────────────────────────────────────────────────────────────────────────────────────


def picture(*tops: Path) -> dict[str, tuple[Any, ...]]:
    """Every name with all that any write, and any read that leaves a trace, would change. Leaves no trace itself."""
    return {path: entry for top in tops for path, entry in _look(str(top))}


def unread(seen: dict[str, tuple[Any, ...]], *read: Path) -> dict[str, tuple[Any, ...]]:
    """Without the access times below *read*: apt, logrotate and dockerd read what is theirs when they are asked."""
    return {
        path: (*entry[:ACCESSED], *entry[ACCESSED + 1 :]) if any(path.startswith(str(top)) for top in read) else entry
        for path, entry in seen.items()
    }


def _look(path: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    stat = os.lstat(path)
    if modes.S_ISDIR(stat.st_mode):
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOATIME)
        try:
            names = sorted(os.listdir(directory))
        finally:
            os.close(directory)
        for name in names:
            yield from _look(f"{path}/{name}")
    content = ""
    if modes.S_ISREG(stat.st_mode):
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOATIME), "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    elif modes.S_ISLNK(stat.st_mode):
        content = os.readlink(path)
    attributes = tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in _attributes(path))
    yield path, (
        stat.st_mode, stat.st_ino, stat.st_nlink, stat.st_uid, stat.st_gid, stat.st_size, stat.st_blocks,
        stat.st_mtime_ns, stat.st_ctime_ns, stat.st_atime_ns, attributes, content,
    )  # fmt: skip


def _attributes(path: str) -> list[str]:
    return sorted(os.listxattr(path, follow_symlinks=False))


# ── a machine whose parts all lie on one small filesystem ─────────────────────────────────────────────────────────


@dataclass
class World:
    """What the functions of this host may read and change, and the directories beside the filesystem that matter."""

    volume: Volume
    machine: Machine
    beside: list[Path] = field(default_factory=list)


@pytest.fixture
def world(memory: Volume, tmp_path: Path) -> World:
    """Of all processes only this one is in its /proc: in a container or a sandbox others may not be looked into."""
    return world_of(memory, tmp_path)


def world_of(volume: Volume, directory: Path) -> World:
    proc = directory / "proc"
    proc.mkdir()
    for name in ("self", "locks", "swaps", "stat", str(os.getpid())):
        (proc / name).symlink_to(f"/proc/{name}")
    probes, tools = LocalProbes(), LocalTools()
    probes.files, tools.files = MachineFiles(proc=str(proc)), MachineFileTools(proc=str(proc))
    return World(volume, Machine(HOST, probes, tools))  # type: ignore[arg-type]


@asynccontextmanager
async def running(configuration: Configuration, machine: Machine):
    async with station(configuration, HOST, [registry.load(FUNCTION)], (), machine=machine) as found:
        yield found


async def plan_of(configuration: Configuration, machine: Machine, target: str) -> tuple[Plan, set[int]]:
    """The plan that a dry run makes, and the actions of it that it foretells."""
    remedy, now = registry.load(FUNCTION), datetime.now(UTC)
    case = Case(HOST, target, configuration.disk_monitoring, now)

    def look() -> tuple[Plan, set[int]]:
        seen = remedy.observe(case, machine.probes)
        plan = remedy.plan(case, seen, remedy.survey(case, seen, machine.probes))
        return plan, plan.needed(remedy.gap(case, seen))

    return await asyncio.to_thread(look)


def things(plan: Plan, positions: set[int] | None = None) -> list[tuple[str, tuple[str, ...]]]:
    return [
        (step.action.action, tuple(step.action.items()))
        for step in plan.steps()
        if positions is None or step.position in positions
    ]


def acted_on(records: list[AuditRecord]) -> list[tuple[str, tuple[str, ...]]]:
    return [(each.action.action, each.items) for each in records if each.step is Step.ACTING and each.action]


def report_in(events: list[ActionEvent]) -> Report:
    assert events[-1].report is not None, events
    return events[-1].report


# ── temporary files only: every estimate is exact ─────────────────────────────────────────────────────────────────


async def test_where_estimates_are_exact_live_does_what_the_dry_run_foretold(
    world: World, site: Site, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_STATE_HOME", site.environment["XDG_STATE_HOME"])
    volume, target = world.volume, f"bytes:{world.volume.point}"
    volume.write("data/orders.db", 30 * MIB)
    volume.fill(92)
    await volume.aged()
    configuration = await site.open(settings_for(volume))
    before = picture(volume.point)

    async with running(configuration, world.machine):
        dry = report_in(await site.ask(target))
        plan, foretold = await plan_of(configuration, world.machine, target)
        assert picture(volume.point) == before
        live = report_in(await site.ask(target, Asked.LIVE))

    records = await site.records()
    assert (dry.mode, live.mode) == (Mode.DRY_RUN, Mode.AUTO)
    assert [record.plan_hash for record in records if record.step is Step.PLANNED] == [plan.hash, plan.hash]
    assert acted_on(records) == things(plan, foretold)
    assert things(plan, foretold) == things(plan)[: len(foretold)], "a beginning of the plan"
    assert len(foretold) < plan.size
    for told, done in zip(dry.rungs, live.rungs, strict=True):
        assert (told.rung, told.done, told.freed) == (done.rung, done.done, done.freed)
    assert dry.gap_after.amount == live.gap_after.amount


# ── every rung ────────────────────────────────────────────────────────────────────────────────────────────────────


def old_logs(volume: Volume) -> None:
    for number in range(1, 4):
        volume.write(f"log/app.log.{number}", LINES, days_old=40 + number)
    for number in range(2):
        volume.write(f"log/ancient.log.{number + 1}.gz", MIB, days_old=200 + number)
    volume.write("log/app.log", LINES)


def due_logs(world: World, directory: Path) -> None:
    """A logrotate of its own, that finds one log due."""
    components.need("logrotate")
    log = world.volume.write("rotated/due.log", LINES * 2, days_old=1)
    log.parent.chmod(0o755)
    directory.mkdir()
    directory.chmod(0o755)
    main, state = directory / "logrotate.conf", directory / "state"
    main.write_text(f"weekly\nrotate 4\ncreate\ncompress\n{log} {{\n}}\n")
    main.chmod(0o644)
    state.write_text(f'logrotate state -- version 2\n"{log}" 2020-1-1-0:0:0\n')
    state.chmod(0o640)
    probes, tools = world.machine.probes, world.machine.tools
    probes.log_rotation = LogRotationReader(str(main), str(state))  # type: ignore[misc]
    tools.log_rotation = LogRotator(str(main), str(state))  # type: ignore[misc]
    world.beside.append(directory)


def package_cache(world: World, directory: Path) -> None:
    components.need("apt-get")
    environment = fill_package_cache(world.volume.point, directory)
    world.machine.probes.packages = Packages(environment, obsolete=False)  # type: ignore[misc]
    world.machine.tools.packages = PackageCleaner(environment)  # type: ignore[misc]
    world.beside.append(directory)


def journal(world: World, directory: Path) -> None:
    components.need("journalctl", "journal-remote")
    directory.mkdir()
    built = journals.build(directory, days=4)
    place = world.volume.point / "journal"
    place.mkdir()
    journals.copy(built, place / journals.MACHINE)
    world.machine.probes.journal = Journal([str(place)], journals.MACHINE)  # type: ignore[misc]
    world.machine.tools.journal = JournalVacuum(  # type: ignore[misc]
        [str(place)], journals.MACHINE, journald=str(directory / "nobody")
    )


def images(world: World, engine: DockerEngine) -> None:
    engine.import_busybox(extra=b"one" * 10_000)
    engine.import_busybox("ours:1", extra=b"two" * 10_000)
    world.machine.probes.containers = Containers(engine.url)  # type: ignore[misc]
    world.machine.tools.containers = ContainerCleaner(engine.url)  # type: ignore[misc]


@pytest.fixture
def engine(short_directory: Path) -> Iterator[tuple[DockerEngine, Volume]]:
    """A dockerd whose images lie on a small filesystem."""
    components.need("root", "mounts")
    with small_filesystem(short_directory, "tmpfs", size=256, inodes=20_000) as volume, docker_engine() as engine:
        engine.stop()
        engine.root = volume.point / "docker"
        engine.start()
        yield engine, volume
        engine.stop()


EVERY_RUNG = {
    "delete_logs_older_than": "90 days", "rotate_logs": True, "package_cache": True, "docker_images": "unused",
    "image_min_age": "1 s", "journal_size": "1M",
}  # fmt: skip
LADDER = [
    "disk.clean_package_cache", "disk.vacuum_journal", "disk.rotate_logs", "disk.compress_logs", "disk.remove_files",
    "disk.remove_image",
]  # fmt: skip


async def test_a_dry_run_of_every_action_writes_nothing_and_live_takes_the_same_ones_in_the_same_order(
    engine, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_STATE_HOME", site.environment["XDG_STATE_HOME"])
    docker, volume = engine
    world, target = world_of(volume, tmp_path), f"bytes:{volume.point}"
    old_logs(volume)
    due_logs(world, tmp_path / "rotation")
    package_cache(world, tmp_path / "packages")
    journal(world, tmp_path / "journal")
    images(world, docker)
    for number in range(6):
        volume.write(f"tmp/d/f{number}", MIB)
    volume.fill(91, size=4 * MIB, directory="data")
    await volume.aged()
    settings = settings_for(volume, cleanup=EVERY_RUNG, target=1)
    settings["policy"]["ineffective_share"] = 0  # much is wanted, and some rungs free little
    configuration = await site.open(settings)
    theirs = (*world.beside, docker.root)

    def everything() -> dict[str, tuple[Any, ...]]:
        return unread(picture(volume.point, *world.beside), *theirs)

    before, known = everything(), known_images(docker)

    async with running(configuration, world.machine):
        dry = report_in(await site.ask(target))
        plan, foretold = await plan_of(configuration, world.machine, target)
        assert everything() == before
        assert known_images(docker) == known
        live = report_in(await site.ask(target, Asked.LIVE))

    assert list(dict.fromkeys(kind for kind, _ in things(plan))) == LADDER
    assert foretold == set(range(plan.size)), "so much is wanted that all of it is foretold"
    assert [rung.rung for rung in dry.rungs] == [rung.rung for rung in live.rungs]
    assert all(rung.outcome == "would" for rung in dry.rungs)
    assert acted_on(await site.records()) == things(plan)
    assert [(rung.rung, rung.outcome, rung.not_done) for rung in live.rungs] == [
        (rung.rung, "done", ()) for rung in dry.rungs
    ]
    after = everything()
    assert after != before
    assert all(after[path][-1] == entry[-1] for path, entry in before.items() if "/data/" in path)
    assert known_images(docker) < known


def known_images(engine: DockerEngine) -> set[str]:
    with engine.client() as client:
        return {image.id for image in client.images.list(all=True)}


async def test_live_stops_earlier_than_foretold_where_more_comes_free_than_surely_known(
    world: World, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_STATE_HOME", site.environment["XDG_STATE_HOME"])
    volume, target = world.volume, f"bytes:{world.volume.point}"
    old_logs(volume)
    package_cache(world, tmp_path / "packages")
    volume.write("data/orders.db", 26 * MIB)
    volume.fill(92)
    await volume.aged()
    cleanup = {"package_cache": True, "delete_logs_older_than": "90 days"}
    configuration = await site.open(settings_for(volume, cleanup=cleanup))
    before = unread(picture(volume.point, *world.beside), *world.beside)

    async with running(configuration, world.machine):
        dry = report_in(await site.ask(target))
        plan, foretold = await plan_of(configuration, world.machine, target)
        assert unread(picture(volume.point, *world.beside), *world.beside) == before
        live = report_in(await site.ask(target, Asked.LIVE))

    done = acted_on(await site.records())
    assert live.gap_after.closed
    assert done == things(plan)[: len(done)]
    assert len(done) < len(foretold), "compressing freed something, of which a dry run counts nothing"
    assert sum(rung.done for rung in dry.rungs) > sum(rung.done for rung in live.rungs)


@pytest.mark.needs("root", "mounts")
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
async def test_a_dry_run_by_the_command_line_leaves_not_even_access_times(kind: str, site: Site, tmp_path: Path):
    with small_filesystem(tmp_path, kind) as volume:
        subprocess.run(["mount", "-o", "remount,strictatime", volume.point], check=True)
        old_logs(volume)
        volume.fill(92)
        await volume.aged()
        volume.settle()
        await site.open(settings_for(volume, cleanup={"delete_logs_older_than": "90 days"}))
        before = picture(volume.point)

        planned = await site.run("plan", "--json", "--all")

        assert planned.code == 0, planned.err
        assert picture(volume.point) == before
