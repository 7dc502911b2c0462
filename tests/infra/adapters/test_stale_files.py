"""Pid, lock and socket files that real processes left, or did not leave."""

import os
import signal
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.adapters.process_files import process_files
from infra.adapters.process_signals import ProcessSignals
from infra.adapters.stale_files import numbers_in
from schemas.remediation import Outcome
from tests.infra.adapters.children import IDLE, children

NOWHERE = ("/ansai-test-nowhere.slice",)

HOLDER = """
import fcntl, os, signal, socket, struct, sys
how, path = sys.argv[1:]
if how in ("stream", "bound", "datagram"):
    kind = socket.SOCK_DGRAM if how == "datagram" else socket.SOCK_STREAM
    held = socket.socket(socket.AF_UNIX, kind)
    held.bind(path)
    if how == "stream":
        held.listen()
else:
    held = open(path, "r+")
    if how == "flock":
        fcntl.flock(held, fcntl.LOCK_EX)
    elif how == "shared":
        fcntl.flock(held, fcntl.LOCK_SH)
    elif how == "record":
        fcntl.lockf(held, fcntl.LOCK_EX)
    elif how == "open file":
        fcntl.fcntl(held, fcntl.F_OFD_SETLK, struct.pack("hhqqi0q", fcntl.F_WRLCK, 0, 0, 0, 0))
print("ready", flush=True)
signal.pause()
"""


@pytest.fixture
def start():
    with children() as start:
        yield start


@pytest.fixture
def ended():
    """The id of a process that ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def remove(path, *held_by):
    return ProcessSignals().remove_stale(str(path), held_by)


def groups_of(pid):
    with process_files(pid) as files:
        return files.control_groups()


@pytest.fixture
def file(tmp_path):
    def write(content: object = "") -> "os.PathLike[str]":
        path = tmp_path / "app.pid"
        path.write_text(str(content))
        return path

    return write


# ── pid files ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("held_by", [(), NOWHERE])
def test_the_pid_file_of_one_that_ended_goes(file, ended, held_by):
    path = file(f"{ended}\n")

    result = remove(path, *held_by)

    assert (result.name, result.outcome) == (str(path), Outcome.DONE)
    assert result.reason == f"process {ended} in it does not run there any more"
    assert not path.exists()


def test_one_whose_process_runs_in_the_group_stays(file, start):
    child = start(IDLE)
    path = file(child.pid)

    result = remove(path, *NOWHERE, groups_of(child.pid)[0])

    assert (result.outcome, result.reason) == (Outcome.SKIPPED, f"process {child.pid} in it runs")
    assert path.exists()


@pytest.mark.needs("memory limit")
def test_a_process_in_a_group_below_makes_it_live_too(file, memory_cgroup):
    process = memory_cgroup.start("sleep", "1000")
    path = file(process.pid)
    group = next(each for each in groups_of(process.pid) if each.endswith(memory_cgroup.directory.name))
    try:
        assert remove(path, group).outcome is Outcome.SKIPPED
        assert remove(path, os.path.dirname(group)).outcome is Outcome.SKIPPED
        assert remove(path, group + "x").outcome is Outcome.DONE
    finally:
        process.kill()
        process.wait()


def test_a_number_that_went_to_a_process_of_somebody_else_makes_nothing_live(file, start):
    path = file(start(IDLE).pid)

    assert remove(path, *NOWHERE).outcome is Outcome.DONE
    assert not path.exists()


def test_without_groups_any_process_of_that_number_makes_it_live(file, start):
    path = file(start(IDLE).pid)

    assert remove(path).outcome is Outcome.SKIPPED
    assert path.exists()


def test_one_that_ended_and_was_not_waited_for_makes_nothing_live(file, start):
    child = start(IDLE)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    assert remove(file(child.pid)).outcome is Outcome.DONE


@pytest.mark.parametrize(
    ("content", "numbers"),
    [
        (b"", []), (b"4711", [4711]), (b"  4711\n", [4711]), (b"pid=4711;host:12", [4711, 12]),
        (b"4711\n/var/lib/postgresql/15/main\n1700000000\n5432\n/run\n127.0.0.1\n  5432001     32770\nready",
         [4711, 15, 5432, 32770]),
        (b"0\n", []), (b"99999999", []), (b"\xff\x00\n12", [12]),
    ],
)  # fmt: skip
def test_numbers_that_could_be_processes(content, numbers):
    assert numbers_in(content) == numbers


@given(st.binary(), st.integers(1, 2**22))
def test_a_process_id_in_a_line_of_its_own_is_never_missed(content, pid):
    assert pid in numbers_in(content + b"\n%d\n" % pid)


# ── lock files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_empty_lock_file_that_nobody_holds_goes(file):
    result = remove(file())

    assert (result.outcome, result.reason) == (Outcome.DONE, "nobody has it open or locked")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("flock", "locked"), ("shared", "locked"), ("record", "locked"), ("open file", "locked"),
        ("nothing", "somebody has it open"),
    ],
)  # fmt: skip
def test_a_file_that_is_locked_or_open_stays(file, start, ended, how, reason):
    path = file(ended)
    holder = start(HOLDER, how, str(path))

    result = remove(path, *NOWHERE)

    assert (result.outcome, result.reason) == (Outcome.SKIPPED, reason)
    assert path.exists()
    holder.kill()
    holder.wait()
    assert remove(path, *NOWHERE).outcome is Outcome.DONE


# ── sockets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["stream", "bound", "datagram"])
def test_a_socket_that_a_process_holds_stays_until_it_ended(start, tmp_path, how):
    path = tmp_path / "a socket"
    holder = start(HOLDER, how, str(path))

    result = remove(path)

    assert (result.outcome, result.reason) == (Outcome.SKIPPED, "a process holds the socket")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    result = remove(path)
    assert (result.outcome, result.reason) == (Outcome.DONE, "no process holds the socket")
    assert not path.exists()


@pytest.mark.needs("unshare", "root")
def test_a_socket_of_another_network_namespace_is_seen_to_be_held(tmp_path):
    """Its table is not ours; knocking tells."""
    path = tmp_path / "socket"
    program = (
        "import signal, socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen();"
        "print(1, flush=True); signal.pause()"
    )
    argv = ["unshare", "--net", sys.executable, "-c", program, str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        try:
            result = remove(path)
        finally:
            holder.kill()

    assert result.outcome is Outcome.SKIPPED


# ── what is none of them ──────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_gone_is_skipped(tmp_path):
    for path in (tmp_path / "none", tmp_path / "nowhere" / "none"):
        assert (remove(path).outcome, remove(path).reason) == (Outcome.SKIPPED, "gone")


def test_no_link_is_followed_and_none_removed(tmp_path, ended):
    real = tmp_path / "real"
    real.mkdir()
    (real / "app.pid").write_text(str(ended))
    (tmp_path / "link").symlink_to(real)
    (real / "link.pid").symlink_to("app.pid")

    through, itself = remove(tmp_path / "link" / "app.pid"), remove(real / "link.pid")

    assert (through.outcome, itself.outcome) == (Outcome.REFUSED, Outcome.REFUSED)
    assert through.reason == "a part of its path is a link, or no directory; give the path without links"
    assert sorted(os.listdir(real)) == ["app.pid", "link.pid"]


def test_directories_pipes_large_files_and_those_with_other_names_stay(tmp_path):
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"1" * 5000)
    (tmp_path / "linked").write_text("1")
    os.link(tmp_path / "linked", tmp_path / "other")
    names = sorted(os.listdir(tmp_path))

    for name in names:
        assert remove(tmp_path / name).outcome is Outcome.REFUSED
    assert sorted(os.listdir(tmp_path)) == names


@pytest.mark.parametrize("path", ["app.pid", "", "/", "/run/.."])
def test_what_is_no_path_of_a_file_is_refused(path):
    assert remove(path).outcome is Outcome.REFUSED


def test_a_socket_without_a_listener_is_not_mistaken_for_a_file(tmp_path):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left"))

    assert remove(tmp_path / "left").outcome is Outcome.DONE
    assert os.listdir(tmp_path) == []
