"""The real logrotate, with configuration, state and logs below the test's own directory."""

import fcntl
import gzip
import os
from pathlib import Path

import pytest

from functions.core.ports import ToolError
from functions.disk.logs import any_of, owned
from infra.adapters.log_rotation import LogRotationReader, LogRotator
from schemas.probes import ProbeError
from schemas.remediation import Outcome
from tests.infra.adapters.programs import PYTHON
from tests.infra.adapters.tree import snapshot

pytestmark = pytest.mark.needs("logrotate")

MAIN = "# general\nweekly\nrotate 4\ncreate\ncompress\n\ninclude {base}/d\n"


class Logrotate:
    """logrotate's files of one test; `{log}` and `{base}` in a configuration stand for its directories."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.log = base / "log"
        self.state = base / "state"
        for directory in (base / "d", self.log):
            directory.mkdir(parents=True)
            directory.chmod(0o755)
        self.main = self.write("main.conf", MAIN)
        self.last_rotated("2020-1-1-0:0:0")

    def write(self, name: str, text: str) -> str:
        path = self.base / name
        path.write_text(text.replace("{base}", str(self.base)).replace("{log}", str(self.log)))
        path.chmod(0o644)
        return str(path)

    def last_rotated(self, when: str, *names: str) -> None:
        lines = [f'"{self.log / name}" {when}\n' for name in names]
        self.state.write_text("logrotate state -- version 2\n" + "".join(lines))
        self.state.chmod(0o640)

    def fill(self, *names: str, size: int = 200_000) -> None:
        for name in names:
            (self.log / name).write_bytes(b"a line of a log\n" * (size // 16))

    def rotation(self):
        return LogRotationReader(self.main, str(self.state)).rotation()

    def rotate(self, configuration: str, **environment: str):
        return LogRotator(self.main, str(self.state), environment).rotate(configuration)

    @property
    def names(self) -> set[str]:
        return {path.name for path in self.log.iterdir()}

    @property
    def allocated(self) -> int:
        return sum(path.stat().st_blocks * 512 for path in self.log.rglob("*") if path.is_file())


@pytest.fixture
def logrotate(tmp_path):
    tmp_path.chmod(0o755)
    return Logrotate(tmp_path / "rotation")


def only(rotation, name):
    (log,) = (log for log in rotation.logs if log.path.endswith(f"/{name}"))
    return log


# ── what is owned, and due ────────────────────────────────────────────────────────────────────────────────────────


def test_each_log_is_told_with_its_configuration_and_its_identity(logrotate):
    one = logrotate.write("d/one", "{log}/one.log {\n}\n")
    two = logrotate.write("d/two", "{log}/two*.log {\n}\n")
    logrotate.fill("one.log", "two-a.log", "two-b.log", "other.log")

    rotation = logrotate.rotation()

    assert {log.path: log.configuration for log in rotation.logs} == {
        str(logrotate.log / "one.log"): one,
        str(logrotate.log / "two-a.log"): two,
        str(logrotate.log / "two-b.log"): two,
    }
    seen = (logrotate.log / "one.log").stat()
    log = only(rotation, "one.log")
    assert (log.device, log.inode, log.allocated) == (seen.st_dev, seen.st_ino, seen.st_blocks * 512)
    assert rotation.problem == ""
    assert not rotation.locked


def test_due_is_what_the_real_state_says(logrotate):
    logrotate.write("d/app", "{log}/*.log {\n}\n")
    logrotate.fill("old.log", "new.log")
    logrotate.last_rotated("2020-1-1-0:0:0", "old.log")

    rotation = logrotate.rotation()

    assert only(rotation, "old.log").due
    assert not only(rotation, "new.log").due


def test_due_by_size_needs_no_state(logrotate):
    logrotate.write("d/app", "{log}/*.log {\n size 100k\n}\n")
    logrotate.fill("large.log")
    logrotate.fill("small.log", size=160)
    logrotate.state.unlink()

    rotation = logrotate.rotation()

    assert only(rotation, "large.log").due
    assert not only(rotation, "small.log").due


def test_looking_writes_nothing_at_all(logrotate):
    logrotate.write("d/app", "{log}/*.log {\n size 1k\n postrotate\n touch {base}/ran\n endscript\n}\n")
    logrotate.fill("app.log", "app.log.1")
    before = snapshot(logrotate.base)

    assert only(logrotate.rotation(), "app.log").due

    assert snapshot(logrotate.base) == before


def test_a_missing_state_is_not_made(logrotate):
    logrotate.write("d/app", "{log}/*.log {\n}\n")
    logrotate.fill("app.log")
    logrotate.state.unlink()

    logrotate.rotation()

    assert not logrotate.state.exists()


def test_settings_of_the_main_file_hold_for_what_it_includes(logrotate):
    logrotate.main = logrotate.write("main.conf", "size 1k\ncompress\ninclude {base}/d\n")
    logrotate.write("d/plain", "{log}/plain.log {\n nocompress\n}\n")
    logrotate.write("d/packed", "{log}/packed.log {\n}\n")
    logrotate.fill("plain.log", "packed.log")

    rotation = logrotate.rotation()

    assert {log.path.rpartition("/")[2]: (log.due, log.compresses) for log in rotation.logs} == {
        "plain.log": (True, False),
        "packed.log": (True, True),
    }


def test_settings_below_the_include_do_not_hold_for_it(logrotate):
    logrotate.main = logrotate.write("main.conf", "monthly\ninclude {base}/d\nsize 1k\n{log}/own.log {\n}\n")
    logrotate.write("d/app", "{log}/app.log {\n}\n")
    logrotate.fill("app.log", "own.log")

    rotation = logrotate.rotation()

    assert not only(rotation, "app.log").due
    assert only(rotation, "own.log").due


def test_blocks_of_the_main_file_belong_to_it(logrotate):
    logrotate.main = logrotate.write("main.conf", MAIN + "{log}/own.log {\n size 1k\n}\n")
    logrotate.fill("own.log")

    assert only(logrotate.rotation(), "own.log").configuration == logrotate.main


def test_a_braced_script_in_a_block_confuses_nothing(logrotate):
    script = '{log}/own.log {\n size 1k\n postrotate\n  f() {\n  echo "}" "include x"\n }\n endscript\n}\nmonthly\n'
    logrotate.main = logrotate.write("main.conf", script + "include {base}/d\n")
    logrotate.write("d/app", "{log}/app.log {\n}\n")
    logrotate.fill("own.log", "app.log")

    rotation = logrotate.rotation()

    assert only(rotation, "own.log").due
    assert not only(rotation, "app.log").due
    assert rotation.problem == ""


def test_several_patterns_quoted_and_on_lines_of_their_own(logrotate):
    logrotate.write(
        "d/app", '{log}/a*.log\n"{log}/with space.log"\n{log}/b.log {log}/c.log\n{\n missingok\n size 1k\n}\n'
    )
    logrotate.fill("a1.log", "with space.log", "b.log")

    rotation = logrotate.rotation()

    assert {log.path.rpartition("/")[2] for log in rotation.logs if log.due} == {"a1.log", "with space.log", "b.log"}
    for pattern in ("a*.log", "with space.log", "b.log", "c.log"):
        assert str(logrotate.log / pattern) in rotation.patterns


@pytest.mark.parametrize(
    "schedule",
    ["hourly", "daily", "weekly", "monthly", "yearly", "size 1k", "minsize 1k", "rotate -1", "rotate 0", "rotate 1000"],
)
@pytest.mark.parametrize("brace", ["{", " {", "\n{", "   {"])
def test_patterns_are_taken_apart_whatever_the_schedule_and_wherever_the_brace(logrotate, schedule, brace):
    logrotate.write("d/a", "{log}/a.log" + brace + "\n" + schedule + "\nolddir {log}/old\n}\n")
    logrotate.write("d/b", "{log}/b.log {\n size 1k\n}\n")
    (logrotate.log / "old").mkdir()
    logrotate.fill("a.log", "b.log")

    rotation = logrotate.rotation()

    assert {log.path.rpartition("/")[2] for log in rotation.logs} == {"a.log", "b.log"}
    assert str(logrotate.log / "a.log") in rotation.patterns
    assert str(logrotate.log / "old" / "a.log") in rotation.patterns


@pytest.mark.parametrize("shared", ["sharedscripts", "nosharedscripts"])
def test_which_logs_are_compressed_when_rotated(logrotate, shared):
    logrotate.write("d/app", "{log}/*.log {\n size 1k\n " + shared + "\n}\n")
    logrotate.write("d/late", "{log}/late {log}/first {\n size 1k\n delaycompress\n " + shared + "\n}\n")
    logrotate.fill("a.log", "b.log", "late", "late.1", "first")

    rotation = logrotate.rotation()

    compressed = {log.path.rpartition("/")[2] for log in rotation.logs if log.compresses}
    assert compressed == {"a.log", "b.log", "late"}


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ("", "app.log.7"),
        ("", "app.log.7.gz"),
        ("dateext", "app.log-20200101.gz"),
        ("dateext\n dateformat .%s", "app.log.1577836800"),
        ("dateext\n extension .log", "app-20200101.log"),
        ("olddir {base}/log/old", "old/app.log.1"),
        ("olddir old", "old/app.log.1.gz"),
    ],
)
def test_rotated_generations_are_owned_too(logrotate, settings, name):
    (logrotate.log / "old").mkdir()
    logrotate.write("d/app", "{log}/app.log {\n" + settings + "\n}\n")
    logrotate.fill("app.log", name)

    owns = any_of(logrotate.rotation().patterns)

    assert owned(str(logrotate.log / name), owns)
    assert not owned(str(logrotate.log / "other.log.1"), owns)


def test_a_link_is_no_log(logrotate, tmp_path):
    logrotate.write("d/app", "{log}/*.log {\n size 1k\n}\n")
    (tmp_path / "target").write_bytes(b"x" * 9000)
    (logrotate.log / "app.log").symlink_to(tmp_path / "target")

    assert logrotate.rotation().logs == ()


def test_logs_below_an_insecure_directory_are_owned_but_not_due(logrotate):
    logrotate.write("d/app", "{log}/app.log {\n size 1k\n}\n")
    logrotate.fill("app.log")
    logrotate.log.chmod(0o777)

    rotation = logrotate.rotation()

    assert not only(rotation, "app.log").due
    assert str(logrotate.log / "app.log") in rotation.patterns
    assert rotation.problem == ""


@pytest.mark.parametrize("broken", ["{log}/bad.log {\n frobnicate here\n rotate x\n}\n", "{log}/bad.log {\n}\n"])
def test_what_logrotate_leaves_out_is_still_somebodys(logrotate, broken):
    """A duplicate entry, an unknown word, a file that everybody may write: its logs are not ours for that."""
    logrotate.write("d/app", "{log}/app.log {\n size 1k\n}\n")
    path = logrotate.write("d/bad", broken)
    if "frobnicate" not in broken:
        os.chmod(path, 0o666)
    logrotate.fill("app.log", "bad.log", "bad.log.1")

    rotation = logrotate.rotation()

    assert rotation.problem == ""
    assert owned(str(logrotate.log / "bad.log.1"), any_of(rotation.patterns))
    assert [log.path for log in rotation.logs if log.due] == [str(logrotate.log / "app.log")]


def test_without_logrotate_nothing_is_owned(logrotate, tmp_path):
    rotation = LogRotationReader(logrotate.main, str(logrotate.state), {"PATH": str(tmp_path)}).rotation()

    assert (rotation.patterns, rotation.logs, rotation.problem) == ((), (), "")


def test_without_a_configuration_nothing_is_owned(logrotate, tmp_path):
    assert LogRotationReader(str(tmp_path / "none"), str(logrotate.state)).rotation().patterns == ()


def test_an_unreadable_state_is_an_error(logrotate, tmp_path):
    with pytest.raises(ProbeError, match=r"read logrotate's state .*: Is a directory"):
        LogRotationReader(logrotate.main, str(tmp_path)).rotation()


def test_the_default_state_is_asked_of_logrotate(logrotate):
    reader = LogRotationReader(logrotate.main)

    reader.rotation()

    assert reader._logrotate._state.startswith("/var/lib/logrotate/")


def test_a_log_with_a_name_of_any_bytes(logrotate):
    logrotate.write("d/app", "{log}/*.log {\n size 1k\n}\n")
    path = os.fsencode(logrotate.log) + b"/caf\xe9.log"
    with open(path, "wb") as file:
        file.write(b"x" * 9000)

    (log,) = logrotate.rotation().logs

    assert os.fsencode(log.path) == path
    assert log.due


# ── rotating ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_due_log_is_rotated_compressed_and_measured(logrotate):
    configuration = logrotate.write("d/app", "{log}/app.log {\n size 1k\n}\n")
    logrotate.fill("app.log")
    contents, before = (logrotate.log / "app.log").read_bytes(), logrotate.allocated

    result = logrotate.rotate(configuration)

    assert result.outcome is Outcome.DONE
    assert logrotate.names == {"app.log", "app.log.1.gz"}
    assert gzip.decompress((logrotate.log / "app.log.1.gz").read_bytes()) == contents
    assert result.freed == {"bytes": before - logrotate.allocated}
    assert result.freed["bytes"] > 150_000
    assert str(logrotate.log / "app.log") in logrotate.state.read_text()


def test_the_main_files_rotate_count_holds_so_no_log_is_lost(logrotate):
    """`logrotate FILE` alone keeps no old log: the one rotated would be gone."""
    configuration = logrotate.write("d/app", "{log}/app.log {\n size 1k\n}\n")
    logrotate.fill("app.log", "app.log.1", "app.log.2")

    logrotate.rotate(configuration)

    assert {"app.log.1.gz"} < logrotate.names


def test_only_the_one_configuration_runs(logrotate):
    one = logrotate.write("d/one", "{log}/one.log {\n size 1k\n}\n")
    logrotate.write("d/two", "{log}/two.log {\n size 1k\n}\n")
    logrotate.main = logrotate.write("main.conf", MAIN + "{log}/own.log {\n size 1k\n}\n")
    logrotate.fill("one.log", "two.log", "own.log")

    logrotate.rotate(one)

    assert logrotate.names == {"one.log", "one.log.1.gz", "two.log", "own.log"}


def test_the_main_file_runs_without_what_it_includes(logrotate):
    logrotate.write("d/two", "{log}/two.log {\n size 1k\n}\n")
    logrotate.main = logrotate.write("main.conf", MAIN + "{log}/own.log {\n size 1k\n}\n")
    logrotate.fill("two.log", "own.log")

    result = logrotate.rotate(logrotate.main)

    assert result.outcome is Outcome.DONE
    assert logrotate.names == {"two.log", "own.log", "own.log.1.gz"}


def test_copytruncate_counts_as_rotated(logrotate):
    configuration = logrotate.write("d/app", "{log}/app.log {\n size 1k\n copytruncate\n}\n")
    logrotate.fill("app.log")

    result = logrotate.rotate(configuration)

    assert result.outcome is Outcome.DONE
    assert (logrotate.log / "app.log").stat().st_size == 0


def test_generations_in_another_directory_are_measured_there(logrotate):
    (logrotate.log / "old").mkdir()
    configuration = logrotate.write("d/app", "{log}/app.log {\n size 1k\n nocompress\n olddir old\n}\n")
    logrotate.fill("app.log")

    result = logrotate.rotate(configuration)

    assert result.outcome is Outcome.DONE
    assert (logrotate.log / "old" / "app.log.1").exists()
    assert result.freed == {"bytes": 0}


def test_what_is_no_longer_due_is_skipped(logrotate):
    configuration = logrotate.write("d/app", "{log}/app.log {\n size 1k\n}\n")
    logrotate.fill("app.log")
    logrotate.rotate(configuration)
    before = logrotate.names

    result = logrotate.rotate(configuration)

    assert (result.outcome, result.reason) == (Outcome.SKIPPED, "nothing is due any more")
    assert logrotate.names == before


def test_another_logrotate_defers_and_is_seen_beforehand(logrotate):
    configuration = logrotate.write("d/app", "{log}/app.log {\n size 1k\n}\n")
    logrotate.fill("app.log")

    with logrotate.state.open("r+") as state:
        fcntl.flock(state, fcntl.LOCK_EX)
        locked = logrotate.rotation().locked
        result = logrotate.rotate(configuration)

    assert locked
    assert result.outcome is Outcome.DEFERRED
    assert logrotate.names == {"app.log"}
    assert not logrotate.rotation().locked


def test_one_that_starts_after_the_look_defers_too(logrotate, tmp_path):
    """The lock is taken between the look and the run, by what runs in logrotate's place; then the real one is run."""
    configuration = logrotate.write("d/app", "{log}/app.log {\n size 1k\n}\n")
    logrotate.fill("app.log")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "logrotate"
    program.write_text(
        f"{PYTHON}import fcntl, glob, os, subprocess, sys\n"
        "inherited = [int(fd) for fd in os.listdir('/proc/self/fd') if int(fd) > 2]\n"
        f"state = open({str(logrotate.state)!r}, 'r+')\n"
        "'-v' in sys.argv and fcntl.flock(state, fcntl.LOCK_EX)\n"
        "fds = [fd for fd in inherited if os.path.exists(f'/proc/self/fd/{fd}') and os.get_inheritable(fd)]\n"
        "sys.exit(subprocess.run(['/usr/sbin/logrotate', *sys.argv[1:]], pass_fds=fds).returncode)\n"
    )
    program.chmod(0o755)

    result = logrotate.rotate(configuration, PATH=f"{tmp_path}/bin:/usr/sbin:/usr/bin:/sbin:/bin")

    assert result.outcome is Outcome.DEFERRED
    assert logrotate.names == {"app.log"}


def test_a_rotation_that_fails_is_told_in_logrotates_words(logrotate):
    configuration = logrotate.write("d/app", "{log}/app.log {\n size 1k\n prerotate\n exit 3\n endscript\n}\n")
    logrotate.fill("app.log")

    with pytest.raises(
        ToolError, match=r"rotated none of 1 logs that are due: error running .*prerotate script"
    ) as told:
        logrotate.rotate(configuration)

    assert "\n" not in str(told.value)
    assert logrotate.names == {"app.log"}


def test_a_part_that_fails_is_told_and_the_rest_is_measured(logrotate):
    configuration = logrotate.write(
        "d/app", "{log}/a.log {\n size 1k\n}\n{log}/b.log {\n size 1k\n prerotate\n exit 1\n endscript\n}\n"
    )
    logrotate.fill("a.log", "b.log")

    result = logrotate.rotate(configuration)

    assert result.outcome is Outcome.PARTIAL
    assert "1 of 2 logs were not rotated" in result.reason
    assert "b.log" in result.reason
    assert result.freed["bytes"] > 150_000
    assert logrotate.names == {"a.log", "a.log.1.gz", "b.log"}


def test_exit_status_0_is_no_evidence(logrotate, tmp_path):
    configuration = logrotate.write("d/app", "{log}/app.log {\n size 1k\n}\n")
    logrotate.fill("app.log")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "logrotate"
    program.write_text('#!/bin/sh\ncase "$*" in *-v*) exit 0;; esac\nexec /usr/sbin/logrotate "$@"\n')
    program.chmod(0o755)

    with pytest.raises(ToolError, match=r"rotated none of 1 logs that are due: no error was told \(status 0\)"):
        logrotate.rotate(configuration, PATH=f"{tmp_path}/bin:/usr/sbin:/usr/bin:/sbin:/bin")


def test_a_corrupt_state_is_told_beside_what_was_done(logrotate):
    configuration = logrotate.write("d/app", "{log}/app.log {\n size 1k\n}\n")
    logrotate.fill("app.log")
    logrotate.state.write_text("garbage\n")

    result = logrotate.rotate(configuration)

    assert result.outcome is Outcome.DONE
    assert result.reason == f"bad top line in state file {logrotate.state}"
    assert "app.log.1.gz" in logrotate.names


def test_a_file_that_logrotate_does_not_include_is_refused(logrotate):
    foreign = logrotate.write("foreign", "{log}/app.log {\n size 1k\n}\n")
    logrotate.fill("app.log")

    with pytest.raises(ToolError, match=r"foreign: .*main\.conf does not include it"):
        logrotate.rotate(foreign)

    assert logrotate.names == {"app.log"}


def test_a_missing_logrotate_names_its_package(logrotate, tmp_path):
    with pytest.raises(ToolError, match="logrotate is not installed; install the package logrotate"):
        logrotate.rotate(logrotate.main, PATH=str(tmp_path))
