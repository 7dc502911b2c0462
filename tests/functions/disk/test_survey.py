"""Looking for what could be cleaned on one filesystem."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.disk.candidates import TEMP_EXCLUDE
from schemas.facts.files import Mount
from schemas.facts.logs import LogRotation
from tests.functions.disk.world import (
    DEVICE,
    MIB,
    OTHER_DEVICE,
    File,
    World,
    cache,
    due_log,
    engine,
    held,
    image,
    journal,
    journal_file,
    titles,
)

DAY = timedelta(days=1)


def paths(found) -> list[str]:
    return [f"{below.root.path}/{file.path}" for below in found for file in below.files]


def world(*files: File, **changes) -> World:
    return World(files_here=list(files), **changes)


# ── temporary files ───────────────────────────────────────────────────────────────────────────────────────────────


def test_old_temporary_files_are_found_oldest_first():
    here = world(File("/tmp/b", age=8 * DAY), File("/tmp/a", age=9 * DAY), File("/tmp/young", age=6 * DAY))
    assert paths(here.survey().temp_files) == ["/tmp/a", "/tmp/b"]


def test_each_temporary_directory_has_its_own_age():
    here = world(File("/var/tmp/a", age=29 * DAY), File("/var/tmp/b", age=31 * DAY))
    assert paths(here.survey().temp_files) == ["/var/tmp/b"]


def test_an_unpacked_old_file_is_as_young_as_its_newest_time():
    assert paths(world(File("/tmp/a", age=900 * DAY, touched=DAY)).survey().temp_files) == []


@pytest.mark.parametrize(
    "changes", [{"links": 2}, {"allocated": 0}, {"path": "/tmp/systemd-private-x/f"}, {"path": "/tmp/a.pid"},
                {"path": "/tmp/x/.X11-unix/X0"}, {"path": "/tmp/db/cache.db-wal"}]
)  # fmt: skip
def test_a_temporary_file_stays_when(changes):
    assert paths(world(File(**{"path": "/tmp/a", **changes})).survey().temp_files) == []


def test_empty_files_free_inodes():
    here = world(File("/tmp/a", allocated=0))
    assert paths(here.survey(here.case("inodes:/")).temp_files) == ["/tmp/a"]


def test_files_in_use_are_no_candidates_and_are_told():
    here = world(File("/tmp/a"), File("/tmp/b"), open_files={"/tmp/a"})
    found = here.survey()
    assert paths(found.temp_files) == ["/tmp/b"]
    assert "passed by below /tmp: 1 in use" in titles(found.findings)


def test_names_to_exclude_come_from_the_settings_too_as_names_or_as_paths():
    here = world(File("/tmp/keep.me"), File("/tmp/dir/x"), File("/tmp/go"))
    case = here.case(auto_cleanup={"exclude": ("keep.*", "/tmp/dir/*")})
    assert paths(here.survey(case).temp_files) == ["/tmp/go"]


def test_what_systemd_tmpfiles_was_told_to_keep_stays():
    here = world(File("/tmp/podman-run-0/x", age=9 * DAY), File("/tmp/a", age=9 * DAY), kept=("/tmp/podman-run-*/*",))
    assert paths(here.survey().temp_files) == ["/tmp/a"]


def test_when_it_is_not_known_what_systemd_tmpfiles_keeps_no_temporary_file_is_a_candidate():
    here = world(File("/tmp/a", age=9 * DAY), broken={"kept_by_tmpfiles"})
    found = here.survey()
    assert paths(found.temp_files) == []
    assert any("systemd-tmpfiles" in title for title in titles(found.findings))


def test_when_it_is_not_known_what_is_in_use_no_file_is_a_candidate_and_that_is_told_once():
    here = world(File("/tmp/a"), File("/var/log/app.log.1"), broken={"in_use"}, caches_here=[cache()])
    found = here.survey()
    assert not found.temp_files
    assert not found.rotated_logs
    assert found.caches
    assert [title for title in titles(found.findings) if "in use" in title] == [
        "no temporary file and no log is cleaned: which files are in use is not known"
    ]


def test_a_directory_on_another_filesystem_is_not_looked_into():
    here = world(File("/tmp/a", device=OTHER_DEVICE))
    here.directories["/tmp"] = OTHER_DEVICE
    found = here.survey()
    assert not found.temp_files
    assert "walk /tmp" not in here.asked


def test_a_subvolume_of_the_same_btrfs_is_looked_into():
    here = world(File("/tmp/a", device=OTHER_DEVICE), fstype="btrfs")
    here.directories["/tmp"] = OTHER_DEVICE
    mount = {"mount_id": 2, "root": "/@tmp", "point": "/tmp", "options": ("rw",), "source": "/dev/x"}
    here.other_mounts = [Mount(device="8:1", fstype="btrfs", **mount)]
    assert paths(here.survey().temp_files) == ["/tmp/a"]
    here.other_mounts = [Mount(device="8:9", fstype="btrfs", **mount)]
    assert paths(here.survey().temp_files) == []


def test_of_too_many_files_the_oldest_are_kept_and_the_rest_is_told():
    here = world(*(File(f"/tmp/{days}", age=days * DAY) for days in range(10, 60)))
    found = here.survey(here.case(auto_cleanup={"max_files": 3}))
    assert paths(found.temp_files) == ["/tmp/59", "/tmp/58", "/tmp/57"]
    assert any(title.startswith("47 more temporary files (47.0 MiB) wait") for title in titles(found.findings))


def test_at_emergency_the_largest_are_kept_still_told_oldest_first():
    here = world(*(File(f"/tmp/{n}", age=(100 - n) * DAY, allocated=n * MIB) for n in range(1, 60)), used=970 * MIB)
    assert paths(here.survey(here.case(auto_cleanup={"max_files": 2})).temp_files) == ["/tmp/58", "/tmp/59"]


@given(
    ages=st.lists(st.integers(0, 60 * 24), max_size=40),
    limit=st.integers(1, 40),
    name=st.sampled_from(["f{}", "{}.pid", "d/{}", "tmux-0/{}", "x.db-wal"]),
)
def test_nothing_younger_than_the_age_and_nothing_excluded_is_ever_a_candidate(ages, limit, name):
    files = [File(f"/tmp/{n}-{name.format(n)}", age=timedelta(hours=hours)) for n, hours in enumerate(ages)]
    here = world(*files)
    found = here.survey(here.case(auto_cleanup={"temp_files_older_than": f"{limit} days"}))
    old = {file.path for file in files if file.age > limit * DAY}
    assert set(paths(found.temp_files)) <= old
    if not name.endswith((".pid", "-wal")):
        assert set(paths(found.temp_files)) == old


def test_session_and_service_names_are_excluded_as_the_notes_demand():
    wanted = {
        "systemd-private-*",
        ".X11-unix",
        ".ICE-unix",
        "lost+found",
        "aquota.*",
        "*.pid",
        "*.sock",
        "tmux-*",
        "ssh-*",
    }
    assert wanted <= set(TEMP_EXCLUDE)


@pytest.mark.parametrize(("place", "kept"), [("/tmp", ["/var/tmp/b"]), ("/var/log", ["/tmp/a", "/var/tmp/b"])])
def test_where_times_lie_in_the_future_no_age_is_believed(place, kept):
    here = world(File("/tmp/a"), File("/var/tmp/b"), File("/var/log/c.1"), File(f"{place}/future", age=-DAY))
    found = here.survey()
    assert paths(found.temp_files) == kept
    assert paths(found.rotated_logs) == ([] if place == "/var/log" else ["/var/log/c.1"])
    assert f"no file below {place} is cleaned: the times of some lie in the future" in titles(found.findings)


# ── logs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_old_rotated_logs_of_nobody_are_to_compress():
    here = world(
        File("/var/log/app.log.1", age=31 * DAY, touched=DAY),
        File("/var/log/app.log.2", age=40 * DAY),
        File("/var/log/app.log.3", age=29 * DAY),
        File("/var/log/app.log.4.gz"),
        File("/var/log/app.log"),
        File("/var/log/tiny.log.1", allocated=4096),
    )
    found = here.survey()
    assert paths(found.rotated_logs) == ["/var/log/app.log.2", "/var/log/app.log.1"]
    assert not found.old_logs


def test_logs_to_delete_are_not_compressed_before_and_compressed_ones_go_too():
    here = world(*(File(f"/var/log/app.log.{n}{z}", age=n * DAY) for n, z in ((40, ""), (95, ""), (99, ".gz"))))
    found = here.survey(here.case(auto_cleanup={"delete_logs_older_than": "90 days"}))
    assert paths(found.rotated_logs) == ["/var/log/app.log.40"]
    assert paths(found.old_logs) == ["/var/log/app.log.99.gz", "/var/log/app.log.95"]


def test_logs_can_be_deleted_and_never_compressed():
    here = world(File("/var/log/app.log.1", age=95 * DAY), File("/var/log/app.log.2", age=40 * DAY))
    case = here.case(auto_cleanup={"logs_older_than": False, "delete_logs_older_than": "90 days"})
    assert paths(here.survey(case).rotated_logs) == []
    assert paths(here.survey(case).old_logs) == ["/var/log/app.log.1"]


@pytest.mark.parametrize(
    "path",
    ["journal/m/system.1", "wtmp.1", "audit/audit.log.1", "mysql/mysql-bin.001", "pg_wal/a.1", "x-json.log.1"],
)
def test_database_logs_login_records_and_evidence_are_no_candidates(path):
    here = world(File(f"/var/log/{path}"))
    found = here.survey(here.case(auto_cleanup={"delete_logs_older_than": "90 days"}))
    assert not found.rotated_logs
    assert not found.old_logs


def test_a_log_directory_that_is_itself_never_to_be_touched_gives_nothing():
    here = world(File("/srv/pg_wal/a.1"), directories={"/srv/pg_wal": DEVICE})
    case = here.case(auto_cleanup={"log_directories": ("/srv/pg_wal",), "temp_files_older_than": False})
    assert not here.survey(case).rotated_logs


def test_rotated_siblings_of_logs_that_logrotate_owns_are_left_to_it_and_told():
    here = world(File("/var/log/syslog.1"), File("/var/log/syslog.2.gz"), File("/var/log/app.log.1"))
    here.logs_here = LogRotation(patterns=("/var/log/syslog",))
    found = here.survey(here.case(auto_cleanup={"delete_logs_older_than": "90 days"}))
    assert paths(found.old_logs) == ["/var/log/app.log.1"]
    assert any(title.startswith("2 old rotated logs (2.0 MiB) belong to logrotate") for title in titles(found.findings))


@pytest.mark.parametrize("broken", [True, False])
def test_when_ownership_is_not_known_no_log_is_a_candidate(broken):
    here = world(File("/var/log/app.log.1"), logs_here=LogRotation(logs=(due_log(),), problem="state file is broken"))
    if broken:
        here.broken = {"rotation"}
    found = here.survey()
    assert not found.rotated_logs
    assert not found.due_logs
    assert len([title for title in titles(found.findings) if "what logrotate owns" in title]) == 1


def test_logs_that_are_due_and_on_this_filesystem_are_for_logrotate():
    due = due_log()
    logs = (due, due_log("/var/log/b.log", due=False), due_log("/var/log/c.log", device=OTHER_DEVICE))
    here = world(logs_here=LogRotation(logs=logs))
    assert here.survey().due_logs == (due,)
    assert here.survey(here.case(auto_cleanup={"rotate_logs": False})).due_logs == ()


def test_while_another_logrotate_runs_nothing_is_due():
    found = world(logs_here=LogRotation(logs=(due_log(),), locked=True)).survey()
    assert found.due_logs == ()
    assert "1 log due for rotation: left alone while another logrotate runs" in titles(found.findings)


# ── caches, journal, engine, consumers ────────────────────────────────────────────────────────────────────────────


def test_only_what_takes_its_space_from_this_filesystem_is_found():
    here = world(caches_here=[cache(), cache(device=OTHER_DEVICE)])
    here.journal_here = journal(journal_file(3), device=OTHER_DEVICE)
    here.engine_here = engine(image(), device=OTHER_DEVICE)
    here.held_open = [held(MIB), held(MIB, device=OTHER_DEVICE)]
    found = here.survey()
    assert (len(found.caches), found.journal, found.engine, len(found.deleted_open)) == (1, None, None, 1)


@pytest.mark.parametrize(
    "part", ["mounts", "caches", "journal", "engine", "rotation", "deleted_open", "walk /tmp", "/var/tmp", "in_use"]
)
def test_a_part_that_cannot_be_read_is_told_and_the_rest_goes_on(part):
    here = world(File("/tmp/a"), caches_here=[cache()], journal_here=journal(journal_file(3)), broken={part})
    found = here.survey()
    told = [finding for finding in found.findings if "permission denied" in finding.title + finding.detail]
    assert len(told) == 1
    assert (found.caches != ()) is (part != "caches")
    assert (found.journal is not None) is (part != "journal")
    assert (found.temp_files != ()) is (part not in {"walk /tmp", "in_use"})


def test_what_is_switched_off_is_not_even_read():
    here = world(File("/tmp/a"), File("/var/log/a.1"))
    off = ("package_cache", "journal_size", "logs_older_than", "temp_files_older_than")
    here.survey(here.case(auto_cleanup=dict.fromkeys(off, False)))
    assert not {"caches", "journal", "in_use", "walk /tmp", "walk /var/log"} & set(here.asked)


@pytest.mark.parametrize(
    ("used", "files", "looked"),
    [(970, True, True), (920, True, False), (920, False, True), (850, False, True), (500, False, False)],
)
def test_the_largest_files_are_looked_for_at_emergency_or_when_nothing_can_be_cleaned(used, files, looked):
    here = world(*[File("/tmp/a")] * files, used=used * MIB)
    here.survey()
    assert ("largest" in here.asked) is looked
