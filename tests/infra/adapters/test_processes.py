"""Processes of a test's own: what memory is told of them, who listens, and which of them are found."""

import os
import pwd
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.adapters import processes as module
from infra.adapters.process_files import own_line, process_files
from infra.adapters.processes import Processes, mapped
from schemas.probes import ProbeError
from tests.infra.adapters.children import IDLE, children
from tests.waiting import until

MIB = 1 << 20
PROBE = Processes()

FORKED = """
import os, sys
block = bytearray(64 << 20)
for place in range(0, len(block), 4096):
    block[place] = 1
pids = []
for _ in range(3):
    pid = os.fork()
    if not pid:
        os.read(0, 1)
        os._exit(0)
    pids.append(pid)
print(*pids, flush=True)
os.read(0, 1)
"""


@pytest.fixture
def start():
    with children() as start:
        yield start


def memory(*pids):
    return PROBE.memory(pids)


# ── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_forked_children_share_is_counted_once(start):
    parent = start(FORKED)
    pids = [parent.pid, *map(int, parent.told.split())]

    told = memory(*pids)

    assert [each.identity.pid for each in told] == pids
    assert all(each.exact for each in told)
    assert 64 * MIB < sum(each.memory for each in told) < 64 * MIB + 4 * 12 * MIB
    assert max(each.memory for each in told) < 40 * MIB


def test_a_process_is_told_with_its_user_group_threads_and_descriptors(start):
    child = start("import threading, sys; threading.Thread(target=sys.stdin.read).start(); print(1, flush=True)")

    told = memory(child.pid)[0]

    with process_files(child.pid) as files:
        assert told.cgroup in files.control_groups()
    assert told.user == os.geteuid()
    assert told.threads == 2
    assert told.descriptors == len(os.listdir(f"/proc/{child.pid}/fd"))
    assert told.identity.command.startswith(f"{sys.executable} -c import threading")


@pytest.mark.needs("root")
def test_the_user_is_the_effective_one(start):
    nobody = pwd.getpwnam("nobody")
    child = start(f"import os, signal; os.seteuid({nobody.pw_uid}); print(1, flush=True); signal.pause()")

    assert memory(child.pid)[0].user == nobody.pw_uid


def test_what_is_too_large_to_be_walked_is_told_by_its_resident_set(start, monkeypatch):
    child = start("block = bytearray(b'1') * (32 << 20); print(1, flush=True); input()")
    exact = memory(child.pid)[0].memory
    monkeypatch.setattr(module, "LARGEST", MIB)

    told = memory(child.pid)[0]

    assert not told.exact
    assert abs(told.memory - exact) < 4 * MIB
    with pytest.raises(ProbeError, match="bytes take too long to look through"):
        PROBE.mappings(child.pid, 3)


def test_those_that_ended_and_those_of_the_kernel_are_left_out(start):
    ended, zombie, alive = start(IDLE), start(IDLE), start(IDLE)
    for process in (ended, zombie):
        process.kill()
    ended.wait()
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)

    told = memory(ended.pid, zombie.pid, 2, alive.pid, alive.pid)

    assert [each.identity.pid for each in told] == [alive.pid]
    assert PROBE.identity(zombie.pid) is None
    assert PROBE.identity(ended.pid) is None


def test_those_that_end_while_they_are_read_are_no_trouble():
    """Processes come and go as fast as they can while memory of all is read."""
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            subprocess.run(["true"], check=True)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(20):
            PROBE.memory(sorted(map(int, filter(str.isdigit, os.listdir("/proc")))))
    finally:
        stop.set()
        thread.join()


async def test_a_program_whose_first_thread_ended_still_runs(start):
    child = start(
        "import ctypes, sys, threading\nthreading.Thread(target=sys.stdin.read).start()\n"
        "print(1, flush=True)\nctypes.CDLL(None).pthread_exit(None)"
    )
    with process_files(child.pid) as files:
        await until(lambda: files.stat().state == "Z")

    found = PROBE.identity(child.pid)

    assert found is not None
    assert found.pid == child.pid


# ── mappings ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_largest_mappings_come_first_under_the_names_of_what_backs_them(start, tmp_path):
    path = tmp_path / "a b"
    path.write_bytes(b"1" * 24 * MIB)
    child = start(
        "import mmap, sys\nblock = bytearray(b'1') * (48 << 20)\nfile = open(sys.argv[1], 'r+b')\n"
        "held = mmap.mmap(file.fileno(), 0)\nheld[:] = held[:]\nprint(1, flush=True)\ninput()",
        str(path),
    )

    first, second = PROBE.mappings(child.pid, 2)

    assert (first.pid, first.name) == (child.pid, "[anon]")
    assert 48 * MIB <= first.memory < 64 * MIB
    assert (second.name, second.memory) == (str(path), 24 * MIB)


def test_mappings_of_nobody_are_unknown(start):
    child = start(IDLE)
    child.kill()
    child.wait()

    with pytest.raises(ProbeError, match=f"read mappings of process {child.pid}: it ended"):
        PROBE.mappings(child.pid, 3)


def test_regions_of_one_name_are_added_with_what_is_swapped():
    smaps = (
        "55d0-55d1 r--p 00000000 fe:00 12                         /usr/bin/a b\n"
        "Size:    400 kB\nPss:       4 kB\nSwapPss:       1 kB\nVmFlags: rd mr\n"
        "55d1-55d2 rw-p 00001000 fe:00 12                         /usr/bin/a b\n"
        "Pss:       2 kB\nPss_Dirty: 9 kB\nSwapPss:  0 kB\n"
        "7f00-7f01 rw-p 00000000 00:00 0 \nPss:      8 kB\n"
        "7ffc-7ffd rw-p 00000000 00:00 0                          [stack]\nPss:      1 kB\n"
    )

    assert mapped(smaps.splitlines(keepends=True)) == {"/usr/bin/a b": 7 * 1024, "[anon]": 8 * 1024, "[stack]": 1024}


@given(st.text())
def test_no_text_of_smaps_is_too_strange(text):
    mapped([text, f"{text}\n"])


def test_of_a_command_line_however_long_a_part_is_read_and_its_ends_are_searched(start):
    mark = f"mark-{os.getpid()}"
    long = start(IDLE, "x" * 100_000, "y" * 100_000, mark)
    ends = start(IDLE, mark, "z" * 50_000, f"the-end-{os.getpid()}")

    assert [each.pid for each in PROBE.matching(f"{mark} z.* the-end-{os.getpid()}$")] == [ends.pid]
    assert long.pid not in [each.pid for each in PROBE.matching(mark)]
    with process_files(long.pid) as files:
        assert sum(len(each) + 1 for each in files.arguments()) <= 2**16 + 1


def test_an_expression_of_the_wrong_kind_holds_nothing_up(start):
    """Of three parts each match of one is tried with all of the others: cubic in the length of the line."""
    hostile = start(IDLE, *["python worker"] * 4000)
    began = time.monotonic()
    found = PROBE.matching("python.*worker.*--queue-of-nobody")
    assert time.monotonic() - began < 30
    assert hostile.pid not in [each.pid for each in found]


# ── which ones ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_oldest_match_comes_first_and_secrets_are_not_shown(start):
    mark = f"mark-{os.getpid()}"
    first, second = (start(IDLE, mark, "--password", "hunter2") for _ in range(2))
    start(IDLE, "another")

    found = PROBE.matching(f"sleep.* {mark} --password hunter2$")

    assert [each.pid for each in found] == [first.pid, second.pid]
    assert found[0] == PROBE.identity(first.pid)
    assert "hunter2" not in found[0].command


def test_neither_we_nor_those_we_run_in_are_found():
    found = {each.pid for each in PROBE.matching(".")}

    assert {os.getpid(), os.getppid(), 1} <= own_line()
    assert not found & own_line()


@pytest.mark.needs("root")
def test_only_processes_of_the_user(start):
    mark = f"mark-{os.getpid()}"
    nobody = pwd.getpwnam("nobody")
    theirs = start(f"import os, signal; os.setuid({nobody.pw_uid}); {IDLE}", mark)
    ours = start(IDLE, mark)

    assert [each.pid for each in PROBE.matching(mark, "nobody")] == [theirs.pid]
    assert [each.pid for each in PROBE.matching(mark, pwd.getpwuid(os.geteuid()).pw_name)] == [ours.pid]


@pytest.mark.parametrize(
    ("command", "user", "words"),
    [("(", None, "no regular expression"), ("x", "nobody-of-ours", "there is no such user on this host")],
)
def test_what_can_not_be_looked_for_is_said(command, user, words):
    with pytest.raises(ProbeError, match=words):
        PROBE.matching(command, user)


def test_programs_are_found_by_their_name_however_long(start, tmp_path):
    name = f"program-{os.getpid()}-longer-than-the-kernel-keeps"
    (tmp_path / name).symlink_to("/bin/sleep")
    process = subprocess.Popen([str(tmp_path / name), "1000"])
    try:
        found = PROBE.named([name, "no-such-program"])
    finally:
        process.kill()
        process.wait()

    assert {key: each.pid for key, each in found.items()} == {name: process.pid}


# ── signals ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_only_signals_with_a_handler_are_handled(start):
    child = start(
        "import signal; signal.signal(signal.SIGUSR1, print); signal.signal(signal.SIGUSR2, signal.SIG_IGN);" + IDLE
    )

    assert PROBE.handles(child.pid, "SIGUSR1")
    assert not PROBE.handles(child.pid, "SIGUSR2")
    assert not PROBE.handles(child.pid, "SIGHUP")
    assert PROBE.handles(child.pid, "SIGINT")


def test_a_signal_that_is_none_and_a_process_that_is_none_are_unknown(start):
    child = start(IDLE)
    with pytest.raises(ProbeError, match="there is no such signal"):
        PROBE.handles(child.pid, "SIGNONE")
    child.kill()
    child.wait()
    with pytest.raises(ProbeError, match="it ended"):
        PROBE.handles(child.pid, signal.SIGUSR1.name)


# ── who listens ───────────────────────────────────────────────────────────────────────────────────────────────────────

LISTENING = """
import os, socket, sys
server = socket.create_server(("127.0.0.1", 0))
pid = 0
if sys.argv[1:]:
    pid = os.fork()
    if not pid:
        os.read(0, 1)
        os._exit(0)
print(server.getsockname()[1], pid, flush=True)
os.read(0, 1)
"""


async def test_all_who_hold_a_listening_socket_are_told(start):
    parent = start(LISTENING, "fork")
    port, worker = map(int, parent.told.split())
    await until(lambda: os.path.exists(f"/proc/{worker}"))

    listener = PROBE.listeners([port])[0]

    assert (listener.protocol, listener.address, listener.port) == ("tcp", f"127.0.0.1:{port}", port)
    assert {each.pid for each in listener.holders} == {parent.pid, worker}
    assert listener.cgroups == tuple(each.cgroup for each in memory(*(one.pid for one in listener.holders)))


def test_other_ports_and_mere_connections_are_no_listeners(start):
    port = int(start(LISTENING).told.split()[0])
    with socket.create_connection(("127.0.0.1", port)) as client:
        assert PROBE.listeners([client.getsockname()[1]]) == []
        assert [each.port for each in PROBE.listeners([port, port])] == [port]
    assert PROBE.listeners([]) == []


def test_a_listener_on_all_addresses_of_version_6():
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with socket.create_server(("::", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        listener = PROBE.listeners([port])[0]

    assert listener.address == f"[::]:{port}"
    assert os.getpid() in {each.pid for each in listener.holders}
