"""Vacuuming real journal files with the real journalctl."""

import os
import shutil
import socket
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from functions.core.ports import ToolError
from infra.adapters.journal import Journal, JournalVacuum
from schemas.probes import ProbeError
from schemas.remediation import Outcome
from tests.infra.adapters import journals
from tests.infra.adapters.journals import MACHINE
from tests.infra.adapters.tree import snapshot

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
FUTURE = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def usage(journal_directory):
    return Journal([str(journal_directory.parent)], MACHINE).usage


@pytest.fixture
def vacuum(journal_directory, tmp_path):
    tool = JournalVacuum([str(journal_directory.parent)], MACHINE, journald=str(tmp_path / "nobody"))
    return lambda size, keep_since: tool.vacuum(str(journal_directory), size, keep_since)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def archived(usage) -> list:
    return sorted((file for file in usage().files if file.archived), key=lambda file: file.head)


# ── what is seen ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_file_is_measured_and_told_archived_or_active(journal_directory, usage):
    seen = usage()

    assert seen.directory == str(journal_directory)
    assert seen.device == journal_directory.stat().st_dev
    assert {os.path.basename(file.path) for file in seen.files} == names(journal_directory)
    assert [os.path.basename(file.path) for file in seen.files if not file.archived] == ["system.journal"]
    assert all(file.allocated == Path(file.path).stat().st_blocks * 512 for file in seen.files)
    assert all(file.inode == Path(file.path).stat().st_ino for file in seen.files)


def test_heads_and_tails_are_those_of_the_entries(usage):
    files = archived(usage)

    assert len(files) == 6
    for file, following in pairwise(files):
        assert timedelta(hours=23) < file.tail - file.head < timedelta(hours=25)
        assert file.tail < following.head


def test_an_active_file_begins_after_the_archived_ones(usage):
    (active,) = (file for file in usage().files if not file.archived)

    assert all(file.head < active.head <= active.tail for file in archived(usage))


def test_the_boot_is_the_kernels(usage):
    uptime = float(Path("/proc/uptime").read_text().split()[0])

    assert abs(usage().boot.timestamp() - (time.time() - uptime)) < 3


def test_looking_writes_nothing(journal_directory, usage):
    before = snapshot(journal_directory)

    usage()

    assert snapshot(journal_directory) == before


def test_a_volatile_journal_is_found_where_no_persistent_one_is(journal_directory, tmp_path):
    seen = Journal([str(tmp_path / "none"), str(journal_directory.parent)], MACHINE).usage()

    assert seen.directory == str(journal_directory)


def test_a_machine_without_a_journal_has_none(tmp_path):
    assert Journal([str(tmp_path)], MACHINE).usage() is None


def test_other_machines_journals_are_not_ours(journal_directory):
    assert Journal([str(journal_directory.parent)], "2" * 32).usage() is None


def test_a_machine_id_that_is_none_is_an_error(tmp_path):
    with pytest.raises(ProbeError, match=r"holds no machine id but '\.\./\.\./etc'"):
        Journal([str(tmp_path)], "../../etc").usage()


def test_links_and_other_files_are_not_journal_files(journal_directory, usage):
    before = len(usage().files)
    (journal_directory / "user-1000.journal").symlink_to("/etc/passwd")
    (journal_directory / "notes.txt").write_text("x")

    assert len(usage().files) == before


def test_an_unreadable_boot_time_is_an_error(journal_directory, tmp_path):
    (tmp_path / "stat").write_text("cpu 1 2 3\n")

    with pytest.raises(ProbeError, match="there is no line btime"):
        Journal([str(journal_directory.parent)], MACHINE, processes=str(tmp_path)).usage()


# ── vacuum ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kept", [0, 1, 3, 5])
def test_the_oldest_archived_files_go_until_all_files_together_fit(journal_directory, usage, vacuum, kept):
    files = archived(usage)
    active = sum(file.allocated for file in usage().files if not file.archived)
    size = active + sum(file.allocated for file in files[len(files) - kept :])
    entries = journals.messages(journal_directory)

    result = vacuum(size, FUTURE)

    going = files[: len(files) - kept]
    assert result.outcome is Outcome.DONE
    assert result.freed == {"bytes": sum(file.allocated for file in going), "inodes": len(going)}
    assert archived(usage) == files[len(files) - kept :]
    assert journals.messages(journal_directory) == entries - len(going) * journals.ENTRIES_A_FILE


def test_history_that_is_to_be_kept_stays_above_the_size(usage, vacuum):
    files = archived(usage)

    result = vacuum(1, files[2].tail)

    assert result.outcome is Outcome.DONE
    assert archived(usage) == files[2:]


def test_a_journal_that_fits_is_left_alone(usage, vacuum, journal_directory):
    before = names(journal_directory)

    result = vacuum(2**40, FUTURE)

    assert result.outcome is Outcome.SKIPPED
    assert "at most 1024.0 GiB is wanted" in result.reason or "TiB is wanted" in result.reason
    assert names(journal_directory) == before


def test_only_kept_history_is_skipped_with_that_reason(journal_directory, vacuum):
    before = names(journal_directory)

    result = vacuum(1, LONG_AGO)

    assert result.outcome is Outcome.SKIPPED
    assert result.reason == "its oldest archived file has entries after 2000-01-01 00:00 UTC"
    assert names(journal_directory) == before


def test_the_active_file_is_never_removed(journal_directory, vacuum):
    vacuum(1, FUTURE)

    assert names(journal_directory) == {"system.journal"}
    assert vacuum(1, FUTURE).reason.endswith("all of it in active files")


def test_a_file_set_aside_after_a_crash_goes_in_its_order(journal_directory, usage, vacuum):
    """journalctl treats `…@time-random.journal~` like an archived file; so does the plan."""
    oldest = Path(archived(usage)[0].path)
    microseconds = oldest.name.removesuffix(".journal").rpartition("-")[2]
    aside = oldest.with_name(f"system@{microseconds}-{'a' * 16}.journal~")
    times = oldest.stat()
    oldest.rename(aside)
    os.utime(aside, ns=(times.st_atime_ns, times.st_mtime_ns))
    files = archived(usage)

    result = vacuum(sum(file.allocated for file in usage().files) - 1, FUTURE)

    assert files[0].path == str(aside)
    assert result.freed["inodes"] == 1
    assert archived(usage) == files[1:]


@pytest.mark.parametrize("size", [0, -1])
def test_zero_means_no_limit_to_journalctl_and_is_refused(journal_directory, vacuum, size):
    before = names(journal_directory)

    with pytest.raises(ToolError, match="0 means no limit to journalctl"):
        vacuum(size, FUTURE)

    assert names(journal_directory) == before


def test_other_machines_journals_are_refused_and_stay(journal_directory, vacuum, tmp_path):
    foreign = journal_directory.with_name("2" * 32)
    shutil.copytree(journal_directory, foreign)
    before = names(foreign)
    tool = JournalVacuum([str(journal_directory.parent)], MACHINE, journald=str(tmp_path / "nobody"))

    vacuum(1, FUTURE)
    with pytest.raises(ToolError, match="not a journal of this machine"):
        tool.vacuum(str(foreign), 1, FUTURE)

    assert names(foreign) == before


@pytest.fixture
def instead_of_journalctl(journal_directory, tmp_path):
    """A vacuum whose `journalctl` is a script that may call the real one."""

    def make(script: str, journald: Path = tmp_path / "nobody") -> JournalVacuum:
        (tmp_path / "bin").mkdir()
        program = tmp_path / "bin" / "journalctl"
        program.write_text(f"#!/bin/bash\n{script}\n")
        program.chmod(0o755)
        environment = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
        return JournalVacuum([str(journal_directory.parent)], MACHINE, str(journald), environment)

    return make


@pytest.fixture
def listening(tmp_path):
    """The socket of a journald."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        yield path


ROTATE = 'if [ "$1" != --rotate ]; then exec /usr/bin/journalctl "$@"; fi\n'


def test_what_the_rotation_archives_can_go_at_once(journal_directory, usage, instead_of_journalctl, listening):
    new = journal_directory / f"system@{'4' * 32}-0000000000000001-{int(time.time() * 1e6):016x}.journal"
    tool = instead_of_journalctl(f"{ROTATE}mv {journal_directory}/system.journal {new}", listening)
    total = sum(file.allocated for file in usage().files)

    result = tool.vacuum(str(journal_directory), 1, FUTURE)

    assert result.freed["bytes"] == total
    assert names(journal_directory) == set()


def test_a_rotation_that_fails_is_told_and_archived_files_still_go(
    journal_directory, usage, instead_of_journalctl, listening
):
    count = len(archived(usage))
    tool = instead_of_journalctl(f"{ROTATE}echo 'Failed to connect to journald' >&2; exit 1", listening)

    result = tool.vacuum(str(journal_directory), 1, FUTURE)

    assert result.outcome is Outcome.DONE
    assert result.freed["inodes"] == count
    assert result.reason == "journalctl --rotate failed: Failed to connect to journald"


def test_a_file_archived_meanwhile_costs_no_file_that_is_kept(journal_directory, usage, instead_of_journalctl):
    """Between the look and the vacuum journald archives one more file: the size given leaves room for it."""
    files = archived(usage)
    late = journal_directory / f"system@{'5' * 32}-0000000000000001-{int(time.time() * 1e6):016x}.journal"
    tool = instead_of_journalctl(f'head -c 300000 "{files[-1].path}" > "{late}"\nexec /usr/bin/journalctl "$@"')

    tool.vacuum(str(journal_directory), 1, files[2].tail)

    assert set(files[2:]) <= set(archived(usage))


def test_an_older_journalctl_that_counts_archived_files_only_removes_the_same(
    journal_directory, usage, instead_of_journalctl
):
    """The real one is newer: it is given the active file's size on top, which makes it behave like the older one."""
    files = archived(usage)
    active = sum(file.allocated for file in usage().files if not file.archived)
    tool = instead_of_journalctl(f'exec /usr/bin/journalctl "$1" "$2" --vacuum-size=$(( ${{3#*=}} + {active} ))')

    result = tool.vacuum(str(journal_directory), 1, files[2].tail)

    assert result.outcome is Outcome.DONE
    assert archived(usage) == files[2:]


def test_a_vacuum_that_removes_nothing_is_an_error_with_its_own_words(journal_directory, instead_of_journalctl):
    before = names(journal_directory)
    tool = instead_of_journalctl("echo 'Failed to vacuum: Read-only file system' >&2; exit 1")

    with pytest.raises(ToolError, match="removed none of 6 files: Failed to vacuum: Read-only file system"):
        tool.vacuum(str(journal_directory), 1, FUTURE)

    assert names(journal_directory) == before


def test_what_stays_is_told(journal_directory, usage, instead_of_journalctl):
    oldest = archived(usage)[0]
    tool = instead_of_journalctl(f"rm '{oldest.path}'; echo 'Failed to delete the others' >&2")

    result = tool.vacuum(str(journal_directory), 1, FUTURE)

    assert result.outcome is Outcome.PARTIAL
    assert result.freed == {"bytes": oldest.allocated, "inodes": 1}
    assert result.reason == "5 of 6 files stayed: Failed to delete the others"


def test_a_missing_journalctl_names_its_package(journal_directory, tmp_path):
    tool = JournalVacuum([str(journal_directory.parent)], MACHINE, str(tmp_path / "none"), {"PATH": str(tmp_path)})

    with pytest.raises(ToolError, match="journalctl is not installed; install the package systemd"):
        tool.vacuum(str(journal_directory), 1, FUTURE)
