"""From what was found to the ladder."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.core.plan import Plan
from functions.disk.actions import CleanPackageCache, RemoveImage, VacuumJournal
from functions.disk.facts import FilesBelow, Found, Seen
from functions.disk.file_actions import CompressLogs, RemoveFiles
from functions.disk.free_space import REMEDY
from schemas.facts.files import FileItem, LargeFile, Resource, Root
from schemas.health import Level
from schemas.remediation import UndoWhen
from tests.functions.disk.world import (
    DEVICE,
    MIB,
    NOW,
    World,
    cache,
    due_log,
    engine,
    held,
    image,
    journal,
    journal_file,
    names,
    rungs,
    titles,
    usage,
    volume,
)

CALM = ["package_cache", "journal", "rotate_logs", "compress_logs", "delete_logs", "temp_files", "dangling_images"]
PRESSED = [
    "package_cache", "journal", "delete_logs", "temp_files", "dangling_images", "unused_images", "rotate_logs",
    "compress_logs",
]  # fmt: skip
DELETING = {CleanPackageCache, RemoveFiles, RemoveImage}


def files(*sizes: int, path="/tmp", first=0) -> FilesBelow:
    return FilesBelow(
        root=Root(path=path, device=DEVICE, inode=2),
        files=tuple(
            FileItem(path=f"f{n}", device=DEVICE, inode=n, mtime_ns=n, size=size, allocated=size)
            for n, size in enumerate(sizes, first)
        ),
    )


def everything() -> Found:
    images = (image(1, (), 50), image(2, ("app:1",), 90), image(3, ("app:2",), 80), image(4, ("app:3",), 70))
    return Found(
        fstype="ext4", caches=(cache(),), journal=journal(*(journal_file(n, 50 * MIB) for n in range(5))),
        due_logs=(due_log(),), rotated_logs=(files(3 * MIB, MIB, path="/var/log"),),
        old_logs=(files(MIB, path="/var/log", first=10),), temp_files=(files(MIB, MIB, first=20),),
        engine=engine(*images, volumes=(volume(),)), deleted_open=(held(5 * MIB),),
    )  # fmt: skip


def make(
    found: Found, used: int = 920 * MIB, target="bytes:/", skip=frozenset(), seconds_to_full=None, **settings
) -> Plan:
    world = World()
    case = world.case(target, seconds_to_full, **settings)
    case = replace(case, skip_rungs=skip)
    seen = usage(used)
    if target.startswith("inodes"):
        seen = usage(500 * MIB, inodes_used=used)
    level, reason = case.settings.judge(seen, Resource(target.partition(":")[0]), seconds_to_full)
    return REMEDY.plan(case, Seen(usage=seen, resource=target.partition(":")[0], level=level, reason=reason), found)


# ── order, levels, grace ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("used", "seconds_to_full", "order", "grace", "advice"),
    [
        (500, None, CALM, 5, True),
        (850, None, CALM, 5, True),
        (920, None, CALM, 5, False),
        (960, None, PRESSED, 0, False),
        (850, 60, PRESSED, 0, False),
        (500, 60, CALM, 5, True),
    ],
)
def test_the_level_decides_the_order_the_grace_and_whether_it_is_advice(used, seconds_to_full, order, grace, advice):
    plan = make(everything(), used * MIB, seconds_to_full=seconds_to_full)
    assert [rung.name for rung in plan.rungs] == order
    assert plan.grace == timedelta(minutes=grace)
    assert bool(plan.advice) is advice


def test_advice_says_which_level_and_that_below_critical_nothing_is_done():
    assert make(everything(), 850 * MIB).advice == (
        "/ is 85 % full of bytes, at or above warning 80 %; below critical the plan is advice"
    )


def test_every_candidate_is_in_the_plan_of_a_healthy_machine():
    plan = rungs(make(everything(), 100 * MIB))
    assert names(plan["temp_files"]) == ["/tmp/f20", "/tmp/f21"]
    assert names(plan["compress_logs"]) == ["/var/log/f0", "/var/log/f1"]


def test_inode_plans_only_delete():
    plan = make(everything(), 9_600, "inodes:/")
    assert [rung.name for rung in plan.rungs] == [
        name for name in PRESSED if name not in {"journal", "rotate_logs", "compress_logs"}
    ]
    assert {type(action) for rung in plan.rungs for action in rung.actions} == DELETING


def test_a_rung_that_freed_nothing_lately_is_left_out_and_told():
    plan = make(everything(), skip=frozenset({"temp_files"}))
    assert "temp_files" not in rungs(plan)
    assert "left out: old temporary files, because it freed next to nothing lately" in titles(plan.findings)


def test_a_read_only_filesystem_gets_no_action_but_a_finding():
    world = World(read_only=True, caches_here=[cache()])
    plan = world.plan()
    assert plan.empty
    assert "/ is mounted read-only, so nothing can be cleaned" in titles(plan.findings)


def test_equal_facts_make_equal_hashes_and_other_files_another():
    assert make(everything()).hash == make(everything()).hash
    assert make(everything()).hash != make(everything().model_copy(update={"temp_files": ()})).hash


# ── package caches and the journal ────────────────────────────────────────────────────────────────────────────────


def test_the_cache_is_cleaned_exactly_by_apt_and_at_most_by_others_or_where_blocks_are_shared():
    def exact(fstype="ext4", **changes) -> list[bool]:
        plan = make(Found(fstype=fstype, caches=(cache(**changes),)))
        return [estimate.exact for action in rungs(plan)["package_cache"] for estimate in action.estimates()]

    assert exact() == [True, True]
    assert exact(manager="dnf") == [False, False]
    assert exact("xfs") == [False, False]
    assert exact("") == [False, False]


def test_auto_takes_only_what_is_obsolete_and_promises_at_most_that():
    found = Found(fstype="ext4", caches=(cache(obsolete=7 * MIB), cache(manager="dnf")))
    (action,) = rungs(make(found, auto_cleanup={"package_cache": "auto"}))["package_cache"]
    assert (action.mode, action.manager) == ("autoclean", "apt")
    assert (action.estimates()[0].amount, action.estimates()[0].exact) == (7 * MIB, False)


@pytest.mark.parametrize(
    ("changes", "settings", "told"),
    [
        ({"held_by": "apt-get (pid 7)"}, {}, "the apt cache (50.0 MiB) is left alone: apt-get (pid 7) holds its lock"),
        ({}, {"offline_host": True}, "the apt cache (50.0 MiB) stays: on an offline_host it is the only copy"),
        ({"allocated": 0}, {}, None),
        ({}, {"package_cache": False}, None),
    ],
)
def test_a_cache_is_left_alone_when(changes, settings, told):
    plan = make(Found(caches=(cache(**changes),)), auto_cleanup=settings)
    assert plan.empty
    assert titles(plan.findings) == ([told] if told else [])


def test_the_journal_is_vacuumed_oldest_first_down_to_its_size():
    found = Found(
        journal=journal(*(journal_file(n, 30 * MIB) for n in (1.5, 2, 3, 4)), journal_file(0, 30 * MIB, False))
    )
    (action,) = rungs(make(found))["journal"]
    assert action == VacuumJournal(
        directory="/var/log/journal/m", size=100 * MIB, keep_since=NOW - timedelta(days=1), allocated=60 * MIB
    )
    assert not action.estimates()[0].exact


def test_the_journal_of_this_boot_is_kept_and_that_is_told():
    plan = make(Found(journal=journal(journal_file(2, 300 * MIB), boot_days_ago=5)))
    assert plan.empty
    (told,) = titles(plan.findings)
    assert told.startswith("the journal takes 300 MiB, more than 100 MiB, but all of it is newer than 2026-02-24 12:00")


def test_a_small_journal_is_no_candidate():
    plan = make(Found(journal=journal(journal_file(9, 99 * MIB))))
    assert plan.empty
    assert plan.findings == ()


# ── logs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_logrotate_is_run_once_for_each_configuration():
    logs = (due_log("/var/log/a"), due_log("/var/log/b", compresses=False), due_log("/x/c", configuration="/etc/other"))
    first, second = rungs(make(Found(due_logs=logs)))["rotate_logs"]
    assert (first.logs, first.allocated) == (("/var/log/a", "/var/log/b"), 10 * MIB)
    assert second.configuration == "/etc/other"


def test_compressing_is_foretold_as_three_quarters_and_never_as_certain():
    plan = make(Found(rotated_logs=(files(8 * MIB, path="/var/log"),)))
    (estimate,) = plan.rungs[0].actions[0].estimates()
    assert (estimate.amount, estimate.exact) == (6 * MIB, False)


def test_at_emergency_the_smallest_logs_are_compressed_first():
    found = Found(rotated_logs=(files(9 * MIB, MIB, 5 * MIB, path="/var/log"),))
    assert names(rungs(make(found, 960 * MIB))["compress_logs"]) == ["/var/log/f1", "/var/log/f2", "/var/log/f0"]
    assert names(rungs(make(found, 920 * MIB))["compress_logs"]) == ["/var/log/f0", "/var/log/f1", "/var/log/f2"]


def test_a_log_whose_copy_has_no_room_is_left_and_told_and_deletions_before_make_room():
    log = files(40 * MIB, path="/var/log")
    plan = make(Found(fstype="ext4", rotated_logs=(log,)), 990 * MIB)
    assert plan.empty
    assert titles(plan.findings) == ["1 rotated logs (40.0 MiB) are not compressed: there is no room for the copies"]
    with_room = make(Found(fstype="ext4", rotated_logs=(log,), temp_files=(files(2 * MIB, first=9),)), 990 * MIB)
    assert names(rungs(with_room)["compress_logs"]) == ["/var/log/f0"]


# ── images, volumes, and what is only told ────────────────────────────────────────────────────────────────────────


def test_unused_images_go_at_emergency_only_and_are_told_before():
    calm, pressed = make(everything()), make(everything(), 960 * MIB)
    assert "unused_images" not in rungs(calm)
    assert "1 unused docker image (at most 10.0 MiB) would go at emergency" in titles(calm.findings)
    assert [action.tags for action in rungs(pressed)["unused_images"]] == [("app:1",)]


@pytest.mark.parametrize(("setting", "left"), [("dangling", ["dangling_images"]), (False, [])])
def test_the_setting_for_images_is_obeyed(setting, left):
    plan = make(everything(), 960 * MIB, auto_cleanup={"docker_images": setting})
    assert [name for name in rungs(plan) if name.endswith("images")] == left


def test_volumes_are_only_told_largest_first_and_used_ones_not_at_all():
    found = Found(engine=engine(volumes=(volume("a", 1), volume("b", 2), volume("c", 3, ("web",)), volume("d", None))))
    plan = make(found)
    assert plan.empty
    assert [finding.command[-1] for finding in plan.findings] == ["b", "a", "d"]


def test_deleted_files_held_open_are_told_by_process_with_what_a_person_can_do():
    found = Found(deleted_open=(held(MIB), held(MIB, inode=2), held(9 * MIB, 7, ""), held(1000, 8)))
    first, second = make(found).findings
    assert first.title == "app (pid 7) holds 1 deleted file open: 9.0 MiB come free when it closes them"
    assert second.title == "app (pid 42, app.service) holds 2 deleted files open: 2.0 MiB come free when it closes them"
    assert second.command == ("systemctl", "reload", "app.service")


def test_the_largest_files_are_told_and_unrotated_container_logs_named():
    logs = LargeFile(
        path="/var/lib/docker/containers/a/a-json.log", allocated=9 * MIB, modified=NOW - timedelta(hours=2)
    )
    told = titles(make(Found(engine=engine(), largest=(logs,))).findings)
    assert "large: /var/lib/docker/containers/a/a-json.log (9.0 MiB, written 2 h ago)" in told
    assert any("max-size and max-file" in title for title in told)
    assert len(make(Found(largest=(logs,))).findings) == 1


# ── how much ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_more_files_than_max_files_are_planned_over_all_rungs_and_the_rest_is_told():
    found = Found(old_logs=(files(MIB, MIB, MIB, path="/var/log"),), temp_files=(files(MIB, MIB, MIB, first=9),))
    plan = make(found, auto_cleanup={"max_files": 4})
    assert names(rungs(plan)["temp_files"]) == ["/tmp/f9"]
    assert "2 more temporary files (2.0 MiB) wait for the next plan: auto_cleanup.max_files is reached" in titles(
        plan.findings
    )


def test_no_more_of_the_filesystem_than_max_percent_is_removed():
    found = Found(temp_files=(files(150 * MIB, 60 * MIB, 40 * MIB),))
    plan = make(found)
    assert names(rungs(plan)["temp_files"]) == ["/tmp/f0", "/tmp/f2"]
    assert titles(plan.findings) == [
        "1 more temporary files (60.0 MiB) wait for the next plan: auto_cleanup.max_percent is reached"
    ]


def test_max_percent_counts_inodes_and_images_too():
    inodes = make(Found(temp_files=(files(*[0] * 3000),)), 9_600, "inodes:/")
    assert len(names(rungs(inodes)["temp_files"])) == 2000
    images = make(Found(engine=engine(image(1, (), 50, unique=150 * MIB), image(2, (), 40, unique=60 * MIB))))
    assert len(rungs(images)["dangling_images"]) == 1
    assert "1 more images (60.0 MiB) wait for the next plan: auto_cleanup.max_percent is reached" in titles(
        images.findings
    )


def test_a_file_met_below_two_roots_is_planned_once():
    found = Found(temp_files=(files(MIB), files(MIB, path="/tmp/inner")))
    assert names(rungs(make(found))["temp_files"]) == ["/tmp/f0"]


SIZES = st.lists(st.integers(0, 40), max_size=30)
USED = st.integers(760, 999)


def exact_found(cached: int, old: list[int], temp: list[int]) -> Found:
    return Found(
        fstype="ext4", caches=(cache(cached * MIB),), old_logs=(files(*(n * MIB for n in old), path="/var/log"),),
        temp_files=(files(*(n * MIB for n in temp), first=100), files(MIB, 2 * MIB, path="/var/tmp", first=200)),
    )  # fmt: skip


def gap_of(used: int, target: float):
    world = World(used=used * MIB)
    case = world.case("bytes:/")
    case = replace(case, settings=case.settings.model_copy(update={"target": target}))
    return case, REMEDY.gap(case, REMEDY.observe(case, world))


def needed_items(used: int, target: float, found: Found) -> tuple[list[str], float]:
    """What live would do if nothing interferes, and how much of the gap is then left."""
    case, gap = gap_of(used, target)
    plan = REMEDY.plan(case, REMEDY.observe(case, World(used=used * MIB)), found)
    positions = plan.needed(gap)
    actions = [step.action for step in plan.steps() if step.position in positions]
    return names(actions), gap.amount - sum(action.exact("bytes") for action in actions)


@given(USED, st.integers(0, 100), SIZES, SIZES)
def test_the_needed_part_closes_the_gap_or_is_everything_and_its_last_file_is_needed(used, cached, old, temp):
    found = exact_found(cached, old, temp)
    case, gap = gap_of(used, 75)
    plan = REMEDY.plan(case, REMEDY.observe(case, World(used=used * MIB)), found)
    positions = sorted(plan.needed(gap))
    assert positions == list(range(len(positions)))
    steps = list(plan.steps())
    left = gap.amount - sum(steps[position].action.exact("bytes") for position in positions)
    if left > 0:
        assert len(positions) == len(steps)
        return
    last = steps[positions[-1]].action
    if isinstance(last, RemoveFiles):
        assert left + last.files[-1].allocated > 0


@given(USED, st.integers(0, 100), SIZES, SIZES, st.integers(40, 70), st.integers(0, 9))
def test_a_higher_target_never_removes_anything_that_a_lower_one_would_not(used, cached, old, temp, low, more):
    found = exact_found(cached, old, temp)
    lower, _ = needed_items(used, low, found)
    higher, _ = needed_items(used, low + more, found)
    assert higher == lower[: len(higher)]


@given(SIZES, SIZES, st.integers(1, 40), st.integers(1, 30))
def test_no_plan_takes_more_than_its_settings_permit(old, temp, most, percent):
    found = exact_found(50, old, temp)
    plan = make(found, auto_cleanup={"max_files": most, "max_percent": percent})
    removals = [action for rung in plan.rungs for action in rung.actions if isinstance(action, RemoveFiles)]
    assert len(names(removals)) <= most
    assert sum(action.allocated for action in removals) <= 10 * MIB * percent


@given(USED)
def test_nothing_that_is_planned_is_taken_back_because_a_gap_did_not_shrink(used):
    plan = make(everything(), used * MIB)
    assert all(action.undo_when is UndoWhen.NEVER for rung in plan.rungs for action in rung.actions)
    assert not any(
        isinstance(action, CompressLogs) and len(action.files) > 50 for action in rungs(plan)["compress_logs"]
    )


def test_the_level_of_a_newer_event_counts_even_when_the_observation_was_shared():
    case = World().case("bytes:/", seconds_to_full=60)
    seen = Seen(usage=usage(850 * MIB), resource=Resource.BYTES, level=Level.WARNING, reason="read before")
    assert REMEDY.plan(case, seen, everything()).grace == timedelta(0)
