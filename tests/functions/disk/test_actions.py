"""What each action says of itself, does, and takes back."""

from datetime import timedelta

import pytest

from functions.core.plan import LISTED
from functions.disk.actions import CleanPackageCache, RemoveImage, RotateLogs, VacuumJournal
from functions.disk.file_actions import CompressLogs, DecompressLogs, RemoveFiles
from functions.disk.free_space import REMEDY
from schemas.facts.files import FileItem, Root
from schemas.remediation import ActionResult, Outcome
from tests.functions.disk.world import DEVICE, MIB, NOW, World

ROOT = Root(path="/var/log", device=DEVICE, inode=2)


def item(path="a.1", allocated=MIB, **changes) -> FileItem:
    facts = {"device": DEVICE, "inode": 5, "mtime_ns": 1, "size": allocated, "allocated": allocated}
    return FileItem(path=path, **{**facts, **changes})


CLEAN = CleanPackageCache(
    manager="apt", mode="clean", directory="/var/cache/apt/archives", allocated=5 * MIB, files=3, at_most=False
)
VACUUM = VacuumJournal(directory="/var/log/journal/m", size=100 * MIB, keep_since=NOW, allocated=60 * MIB)
ROTATE = RotateLogs(configuration="/etc/logrotate.d/app", logs=("/var/log/a",), allocated=MIB)
COMPRESS = CompressLogs(root=ROOT, files=(item("a.1"), item("b.1", 3 * MIB)))
DECOMPRESS = DecompressLogs(root=ROOT, files=(item(),))
REMOVE = RemoveFiles(root=ROOT, files=(item("a.1"), item("b.1", 3 * MIB)), kind="rotated log")
IMAGE = RemoveImage(engine="docker", image="sha256:" + "a" * 64, tags=("app:1",), allocated=MIB)
ALL = [CLEAN, VACUUM, ROTATE, COMPRESS, DECOMPRESS, REMOVE, IMAGE]


def test_every_kind_of_action_of_the_remedy_is_looked_at_here():
    assert {type(action) for action in ALL} == set(REMEDY.actions)


@pytest.mark.parametrize("action", ALL, ids=lambda action: action.action)
def test_an_action_survives_being_stored_as_json_with_any_bytes_in_its_names(action):
    if isinstance(action, RemoveFiles | CompressLogs | DecompressLogs):
        action = action.model_copy(update={"files": (item("new\nline \udcff.1"),)})
    assert type(action).model_validate_json(action.model_dump_json()) == action


@pytest.mark.parametrize("action", ALL, ids=lambda action: action.action)
def test_an_action_says_its_risk_its_way_back_its_items_and_its_estimates(action):
    summary = action.told
    assert summary.undo
    assert summary.items == len(action.items()) > 0
    assert {estimate.unit for estimate in summary.estimates} <= {"bytes", "inodes"}
    assert action.repeatable


@pytest.mark.parametrize(
    ("action", "title"),
    [
        (CLEAN, "Let apt remove all downloaded packages from /var/cache/apt/archives (5.0 MiB)"),
        (VACUUM, "Vacuum the journal to 100 MiB (at most 60.0 MiB)"),
        (ROTATE, "Let logrotate rotate 1 log of /etc/logrotate.d/app (at most 1.0 MiB)"),
        (COMPRESS, "Compress 2 rotated logs below /var/log (about 3.0 MiB)"),
        (REMOVE, "Remove 2 rotated logs below /var/log (4.0 MiB)"),
        (IMAGE, "Remove docker image app:1 (at most 1.0 MiB)"),
        (IMAGE.model_copy(update={"tags": ()}), "Remove docker dangling image aaaaaaaaaaaa (at most 1.0 MiB)"),
    ],
)
def test_titles_have_figures_for_people(action, title):
    assert action.title() == title


@pytest.mark.parametrize(
    ("action", "done"),
    [
        (CLEAN, [("clean", ("apt", "clean", "/var/cache/apt/archives"))]),
        (VACUUM, [("vacuum", ("/var/log/journal/m", 100 * MIB, NOW))]),
        (ROTATE, [("rotate", "/etc/logrotate.d/app")]),
        (COMPRESS, [("compress", "/var/log/a.1"), ("compress", "/var/log/b.1")]),
        (DECOMPRESS, [("decompress", "/var/log/a.1")]),
        (REMOVE, [("remove", "/var/log/a.1"), ("remove", "/var/log/b.1")]),
        (IMAGE, [("remove_image", ("docker", "sha256:" + "a" * 64, ("app:1",)))]),
    ],
)
def test_applying_asks_the_tool_for_just_that(action, done):
    world = World()
    result = action.apply(world)
    assert world.done == done
    assert (result.outcome, result.done) == (Outcome.DONE, len(done))


def test_what_was_freed_is_summed_and_what_was_not_done_is_named():
    world = World(refuse={"b.1": Outcome.SKIPPED})
    result = REMOVE.apply(world)
    assert result.freed == {"bytes": MIB, "inodes": 1}
    assert [(one.name, one.outcome) for one in result.not_done] == [("b.1", Outcome.SKIPPED)]


def test_a_held_lock_is_a_deferred_action():
    assert CLEAN.apply(World(refuse={"/var/cache/apt/archives": Outcome.DEFERRED})).outcome is Outcome.DEFERRED


def test_removing_is_exact_for_single_files_and_at_most_where_blocks_are_shared():
    assert (REMOVE.exact("bytes"), REMOVE.exact("inodes")) == (4 * MIB, 2)
    shared = REMOVE.model_copy(update={"shares_blocks": True})
    assert (shared.exact("bytes"), shared.exact("inodes")) == (0, 2)
    linked = REMOVE.model_copy(update={"files": (item(), item("b.1", links=2))})
    assert (linked.exact("bytes"), linked.exact("inodes")) == (0, 0)


def test_compressing_keeps_which_name_became_which():
    result = COMPRESS.apply(World(refuse={"a.1": Outcome.SKIPPED}))
    assert result.kept == {"/var/log/b.1": "/var/log/b.1.gz"}


def test_only_what_was_compressed_is_decompressed_again():
    world = World(refuse={"a.1": Outcome.FAILED})
    inverse = COMPRESS.inverse(COMPRESS.apply(world))
    assert inverse == DecompressLogs(root=ROOT, files=(item("b.1", 3 * MIB),))
    inverse.apply(world)
    assert world.done[-1] == ("decompress", "/var/log/b.1")


def test_when_it_is_not_known_how_far_compressing_got_all_files_are_looked_at_again():
    assert COMPRESS.inverse(None) == DecompressLogs(root=ROOT, files=COMPRESS.files)


def test_nothing_is_taken_back_when_nothing_was_compressed_or_it_is_not_known_what():
    world = World(refuse={"a.1": Outcome.FAILED, "b.1": Outcome.SKIPPED})
    assert COMPRESS.inverse(COMPRESS.apply(world)) is None
    assert COMPRESS.inverse(ActionResult(outcome=Outcome.PARTIAL, not_done_more=1)) is None


def test_a_compression_is_small_enough_that_every_file_not_done_is_listed():
    from tests.functions.disk.test_planning import Found, files, make, rungs

    plan = make(Found(rotated_logs=(files(*[MIB] * 300, path="/var/log"),)))
    assert max(len(action.files) for action in rungs(plan)["compress_logs"]) <= LISTED


@pytest.mark.parametrize("action", [CLEAN, VACUUM, ROTATE, REMOVE, IMAGE], ids=lambda action: action.action)
def test_what_cannot_be_taken_back_says_so(action):
    assert action.inverse(None) is None
    assert action.inverse(action.apply(World())) is None
    assert any(word in action.undo for word in ("no way back", "not taken back"))


def test_the_journal_keeps_what_the_plan_said_and_not_what_the_day_says():
    action = VACUUM.model_copy(update={"keep_since": NOW - timedelta(days=3)})
    world = World()
    action.apply(world)
    assert world.done[0][1][2] == NOW - timedelta(days=3)
