"""The kernel's own memory limits, and programs that run into them or not."""

import itertools
import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import cgroups
from tests.programs import leaking
from tests.waiting import until

MIB = 1 << 20
LEAKING = Path(leaking.__file__)

needs_memory_limit = pytest.mark.needs("memory limit")


# ── groups ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_a_program_holds_is_its_groups_usage(memory_cgroup, leak):
    process = leak("--rate", str(400 * MIB), "--shape", "linear", "--limit", str(40 * MIB))

    await until(lambda: memory_cgroup.anonymous >= 40 * MIB, lambda: memory_cgroup.usage)

    assert memory_cgroup.pids == [process.pid]
    assert memory_cgroup.usage >= 40 * MIB
    assert memory_cgroup.oom_kills == 0


async def test_a_leak_that_reaches_the_limit_is_killed_and_counted(memory_cgroup, leak):
    memory_cgroup.limit(48 * MIB)
    process = leak("--rate", str(400 * MIB), "--shape", "linear")

    await until(lambda: process.poll() is not None)

    assert process.returncode == -signal.SIGKILL
    assert memory_cgroup.oom_kills == 1
    assert memory_cgroup.pids == []


async def test_a_running_program_is_put_in_and_then_counted(memory_cgroup):
    arguments = ["--rate", str(100 * MIB), "--shape", "linear"]
    memory_cgroup.limit(64 * MIB)
    process = subprocess.Popen([sys.executable, LEAKING, *arguments])
    try:
        memory_cgroup.add(process.pid)
        assert memory_cgroup.pids == [process.pid]
        await until(lambda: process.poll() is not None)
    finally:
        process.kill()
        process.wait()
    assert memory_cgroup.oom_kills == 1


def test_a_limit_is_raised_lowered_and_lifted(memory_cgroup):
    assert memory_cgroup.limit_in_force() == float("inf")
    for size in (64 * MIB, 256 * MIB, 32 * MIB):
        memory_cgroup.limit(size)
        assert memory_cgroup.limit_in_force() == size
    memory_cgroup.limit(None)
    assert memory_cgroup.limit_in_force() == float("inf")


@needs_memory_limit
@pytest.mark.parametrize("time", ["first", "second"])
def test_a_group_goes_with_what_is_still_inside(time):
    with cgroups.memory_cgroup(64 * MIB) as group:
        process = group.start("sleep", "1000")
        (group.directory / "below").mkdir()
        assert group.limit_in_force() == 64 * MIB
    assert process.wait(10) == -signal.SIGKILL
    assert not group.directory.exists()


@needs_memory_limit
def test_what_a_killed_run_left_is_removed_by_the_next_and_what_lives_is_not():
    parent = cgroups.memory_hierarchy().parent
    done = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True)
    abandoned = parent / f"ansai-test-{done.stdout.strip()}-7"
    living = parent / f"ansai-test-{os.getppid()}-7"
    (abandoned / "below").mkdir(parents=True)
    living.mkdir()
    try:
        with cgroups.memory_cgroup():
            assert not abandoned.exists()
            assert living.exists()
    finally:
        living.rmdir()


def test_all_hierarchies_of_a_hybrid_machine_are_read(tmp_path):
    top = tmp_path / "top"
    (top / "unified").mkdir(parents=True)
    (top / "unified" / "cgroup.subtree_control").write_text("io pids\n")
    (tmp_path / "cgroup").write_text("3:name=systemd:/a/b\n2:cpu,cpuacct:/\n1:memory:/a/b/c\n0::/a\n")
    (tmp_path / "mountinfo").write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        f"31 30 0:28 / {top}/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n"
        f"32 30 0:29 / {top}/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        f"33 30 0:30 /a/b {top}/memory rw shared:9 - cgroup cgroup rw,memory\n"
        f"34 30 0:31 / {top}/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
        "35 30 0:32 / /elsewhere rw - cgroup cgroup rw,memory\n"
    )

    found = {tree.options: (tree.parent.relative_to(top), tree.names) for tree in cgroups.hierarchies(tmp_path, top)}

    assert found == {
        "none,name=systemd": (Path("systemd/a/b"), {"name=systemd"}),
        "cpu,cpuacct": (Path("cpu,cpuacct"), {"cpu", "cpuacct"}),
        "memory": (Path("memory/c"), {"memory"}),
        "rw": (Path("unified"), {"io", "pids"}),
    }


# ── shapes, in the kernel's own figures ───────────────────────────────────────────────────────────────────────────────


async def test_shared_memory_is_counted_apart(memory_cgroup, leak):
    leak("--rate", str(400 * MIB), "--shape", "shmem", "--limit", str(40 * MIB))

    await until(lambda: memory_cgroup.shared >= 40 * MIB, lambda: memory_cgroup.shared)

    assert memory_cgroup.anonymous < 20 * MIB


async def test_page_cache_fills_a_group_to_its_limit_and_nobody_is_killed(memory_cgroup, leak, disk_directory):
    memory_cgroup.limit(48 * MIB)
    arguments = ["--rate", str(400 * MIB), "--shape", "pagecache", "--limit", str(160 * MIB)]
    process = leak(*arguments, "--directory", str(disk_directory))

    await until(lambda: written(process.pid) >= 160 * MIB, lambda: process.poll())

    assert process.poll() is None
    assert memory_cgroup.oom_kills == 0
    assert memory_cgroup.cache > 16 * MIB
    assert memory_cgroup.usage <= 48 * MIB
    assert [*disk_directory.iterdir()] == []


@pytest.fixture
def disk_directory(tmp_path):
    if subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True).stdout.strip() == "tmpfs":
        pytest.skip("files in memory are no page cache; TMPDIR names a directory on a disk")
    return tmp_path


def written(pid: int) -> int:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar:"))


async def test_a_sawtooth_falls_again_and_again(memory_cgroup, leak):
    leak("--rate", str(60 * MIB), "--shape", "sawtooth", "--period", "1")

    for _ in range(2):
        await until(lambda: memory_cgroup.anonymous > 40 * MIB, lambda: memory_cgroup.anonymous)
        await until(lambda: memory_cgroup.anonymous < 30 * MIB, lambda: memory_cgroup.anonymous)


async def test_a_leak_below_a_sawtooth_lifts_its_floor(memory_cgroup, leak):
    leak("--rate", str(100 * MIB), "--shape", "sawtooth", "--period", "0.2", "--leak", str(40 * MIB))

    await until(lambda: memory_cgroup.anonymous > 100 * MIB, lambda: memory_cgroup.anonymous)


async def test_what_an_allocator_keeps_stays_and_no_longer_grows(memory_cgroup, leak):
    process = leak("--rate", str(400 * MIB), "--shape", "plateau", "--limit", str(64 * MIB))
    await until(lambda: memory_cgroup.anonymous >= 64 * MIB, lambda: memory_cgroup.anonymous)

    steps = switches(process.pid)
    await until(lambda: switches(process.pid) > steps + 5)  # it has let go

    assert 56 * MIB < memory_cgroup.anonymous < 90 * MIB


def switches(pid: int) -> int:
    """How often it went to sleep: once a step."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


async def test_a_collection_on_sigusr1_drops_the_collectable_share(memory_cgroup, leak):
    process = leak("--rate", str(30 * MIB), "--shape", "linear", "--limit", str(64 * MIB), "--collectable", "0.9")
    await until(lambda: memory_cgroup.anonymous >= 64 * MIB, lambda: memory_cgroup.anonymous)

    process.send_signal(signal.SIGUSR1)

    await until(lambda: memory_cgroup.anonymous < 50 * MIB, lambda: memory_cgroup.anonymous)
    assert process.poll() is None


def test_sigusr1_ends_a_program_that_does_not_expect_it(leak, memory_cgroup):
    process = leak("--rate", "1000", "--shape", "linear")

    process.send_signal(signal.SIGUSR1)

    assert process.wait(10) == -signal.SIGUSR1


@pytest.mark.parametrize("shape", ["warmup", "plateau", "pagecache"])
def test_a_shape_that_ends_somewhere_needs_its_limit(shape):
    done = subprocess.run([sys.executable, LEAKING, "--rate", "1", "--shape", shape], capture_output=True, text=True)

    assert done.returncode == 2
    assert f"--shape {shape} needs --limit" in done.stderr


# ── shapes, as rules ──────────────────────────────────────────────────────────────────────────────────────────────────


class Recorder:
    """A store that only remembers what it was told to hold."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def hold(self, size: int) -> None:
        self.told.append(size)


def told(arguments: list[str], steps: list[float]) -> list[int]:
    store = Recorder()
    program = leaking.Program(leaking.read(arguments), store)
    for seconds in steps:
        program.step(seconds)
    return store.told


steps = st.lists(st.floats(0, 2), min_size=1, max_size=50)
rates = st.floats(0, 1e9)


def test_a_collection_drops_the_share_and_growth_goes_on_from_there():
    store = Recorder()
    program = leaking.Program(
        leaking.read(["--rate=1e6", "--shape=linear", "--limit=1e6", "--collectable=0.75"]), store
    )
    program.step(10)
    program.collect(signal.SIGUSR1, None)
    program.step(0)
    program.step(10)

    assert store.told == [1_000_000, 250_000, 1_000_000]


def test_a_plateau_lets_go_once_and_never_grows_again():
    assert told(["--rate=1e6", "--shape=plateau", "--limit=1e6"], [0, 10, 10, 10]) == [0, 1_000_000, 0, 0]


def test_a_sawtooth_is_dropped_every_period():
    amounts = told(["--rate=1e6", "--shape=sawtooth", "--period=1"], [0.25] * 12)

    assert [later < earlier for earlier, later in itertools.pairwise(amounts)].count(True) == 3


@settings(deadline=None)
@given(st.sampled_from(["linear", "warmup", "shmem"]), rates, steps, st.integers(0, 9))
def test_a_leak_never_shrinks_nor_passes_its_limit(shape, rate, steps, seed):
    amounts = told(["--rate", str(rate), "--shape", shape, "--limit", "1e9", "--seed", str(seed)], steps)

    assert amounts == sorted(amounts)
    assert amounts[-1] <= 1e9


@settings(deadline=None)
@given(rates, steps)
def test_growth_is_around_the_rate(rate, steps):
    amounts = told(["--rate", str(rate), "--shape", "linear"], steps)

    assert rate * sum(steps) * 0.499 - 1 <= amounts[-1] <= rate * sum(steps) * 1.501 + 1


@settings(deadline=None)
@given(rates, steps, st.integers(0, 9))
def test_the_same_seed_grows_the_same_way(rate, steps, seed):
    arguments = ["--rate", str(rate), "--shape", "warmup", "--limit", "1e9", "--seed", str(seed)]

    assert told(arguments, steps) == told(arguments, steps)


@settings(deadline=None)
@given(st.floats(1, 1e9), st.floats(0, 1e9), st.floats(1, 1e10))
def test_a_warm_up_in_two_steps_is_as_far_as_in_one(limit, more, holds):
    holds = min(holds, limit)
    half = leaking.grown("warmup", holds, more / 2, limit)

    assert leaking.grown("warmup", half, more / 2, limit) == pytest.approx(
        leaking.grown("warmup", holds, more, limit), abs=1e-3
    )


def test_memory_that_is_held_is_whole_pages_and_given_back():
    store = leaking.Anonymous()
    for size in (0, 10, 3 * MIB + 1, MIB, 5 * MIB, 0):
        store.hold(size)
        assert store._size == max(1, -(-size // mmap.PAGESIZE)) * mmap.PAGESIZE
