"""Memory of control groups: fabricated trees of both versions, and this kernel's own with real limits."""

import mmap
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.core.ports import ToolError
from infra.adapters import cgroup_trees
from infra.adapters.cgroup_trees import numbers_in
from infra.adapters.cgroups import ControlGroups, ControlGroupWriter, pressure_in
from schemas.facts.cgroups import Pressure
from schemas.probes import ProbeError
from schemas.remediation import Outcome
from tests.programs import leaking
from tests.waiting import until

MIB = 1 << 20
NO_LIMIT = "9223372036854771712"
LEAKING = Path(leaking.__file__)
APP = "/system.slice/app.service"

VERSION_1 = {
    "memory.usage_in_bytes": str(100 * MIB),
    "memory.limit_in_bytes": NO_LIMIT,
    "memory.failcnt": "0",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0",
    "memory.stat": "cache 1\nrss 1",
    "cgroup.procs": "",
}
VERSION_2 = {
    "memory.current": str(100 * MIB),
    "memory.max": "max",
    "memory.high": "max",
    "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0",
    "memory.stat": "anon 0\nfile 0",
    "cgroup.procs": "",
}


def test_groups_in_each_other_without_end_are_told_and_not_followed(group, tmp_path):
    """As somebody makes them to whom a group is delegated; the groups beside it are read all the same."""
    inside = group(VERSION_2, APP)
    group(VERSION_2, "/system.slice/other.service")
    for _ in range(cgroup_trees.DEEPEST + 1):
        inside /= "x"
        inside.mkdir()

    with pytest.raises(ProbeError, match=r"app\.service: more than 10000 groups are in it, or more than 64"):
        ControlGroups(str(tmp_path)).control_group(APP)
    assert ControlGroups(str(tmp_path)).control_group("/system.slice/other.service").usage == 100 * MIB


def test_groups_without_number_are_told_and_not_followed(group, tmp_path, monkeypatch):
    monkeypatch.setattr(cgroup_trees, "MOST", 20)
    for number in range(20):
        group(VERSION_2, f"{APP}/{number}")
    group(VERSION_2, APP)
    with pytest.raises(ProbeError, match="more than 20 groups are in it"):
        ControlGroups(str(tmp_path)).control_group(APP)


def test_where_the_tree_is_mounted_is_not_looked_for_again_with_every_group(group, tmp_path, monkeypatch):
    group(VERSION_2, APP)
    looks, look = [], cgroup_trees.trees
    monkeypatch.setattr(cgroup_trees, "trees", lambda *where: looks.append(where) or look(*where))
    groups = ControlGroups(str(tmp_path))
    for _ in range(100):
        groups.control_group(APP)
    assert len(looks) == 1
    monkeypatch.setattr("infra.adapters.cgroups.MOUNTS_KEPT", -1.0)
    groups.control_group(APP)
    assert len(looks) == 2


@pytest.fixture
def group(tmp_path):
    """group(VERSION_2, "/system.slice", **{"memory.max": "1"}): a directory with such files."""

    def make(files: dict[str, str], path: str, **changed: str | None) -> Path:
        top = tmp_path / ("memory" if files is VERSION_1 else "")
        if files is VERSION_2:
            (top / "cgroup.controllers").write_text("cpu memory pids\n")
        directory = top / path.strip("/")
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in {**files, **changed}.items():
            if text is not None:
                (directory / name).write_text(f"{text}\n")
        return directory

    return make


@pytest.fixture
def version_1(group):
    for path in ("/", "/system.slice"):
        group(VERSION_1, path)
    return lambda path=APP, **changed: group(VERSION_1, path, **changed)


@pytest.fixture
def version_2(group):
    group(VERSION_2, "/", **{"memory.current": None, "memory.max": None, "memory.high": None})
    group(VERSION_2, "/system.slice")
    return lambda path=APP, **changed: group(VERSION_2, path, **changed)


# ── version 2 ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_files_of_version_2(version_2, tmp_path):
    version_2(**{
        "memory.stat": f"anon {40 * MIB}\nfile {50 * MIB}\nkernel 9\nshmem {10 * MIB}\ninactive_file {20 * MIB}\n"
        f"slab_reclaimable 5\nslab_unreclaimable {2 * MIB}\nslab 7",
        "memory.swap.current": str(3 * MIB), "memory.swap.max": str(4 * MIB),
        "memory.high": str(200 * MIB), "memory.max": str(300 * MIB),
        "memory.events": "low 0\nhigh 90\nmax 80\noom 3\noom_kill 2\noom_group_kill 0",
        "memory.events.local": "low 0\nhigh 9\nmax 8\noom 1\noom_kill 1\noom_group_kill 0",
        "memory.pressure": "some avg10=1.50 avg60=2.25 avg300=0.2 total=1\nfull avg10=0.50 avg60=0.75 avg300=0 total=8",
        "cgroup.procs": "12\n0\n11",
    })  # fmt: skip
    version_2(f"{APP}/worker", **{"cgroup.procs": "13"})

    seen = ControlGroups(str(tmp_path)).control_group(APP)

    assert (seen.path, seen.version, seen.usage) == (APP, 2, 100 * MIB)
    assert (seen.anonymous, seen.file, seen.shared, seen.swap) == (40 * MIB, 40 * MIB, 10 * MIB, 3 * MIB)
    assert seen.swap_limit == 4 * MIB
    assert seen.unreclaimable == 2 * MIB
    assert seen.held == 55 * MIB
    assert seen.working_set == 80 * MIB
    assert (seen.high, seen.maximum, seen.limit, seen.limit_at) == (200 * MIB, 300 * MIB, 300 * MIB, APP)
    assert (seen.high_events, seen.failures, seen.out_of_memory_kills) == (9, 8, 2)
    assert seen.pressure == Pressure(some10=1.5, some60=2.25, full10=0.5, full60=0.75)
    assert seen.processes == (11, 12, 13)


def test_the_working_set_is_never_less_than_anonymous_memory(version_2, tmp_path):
    version_2(**{"memory.stat": f"anon {90 * MIB}\nfile {50 * MIB}\ninactive_file {50 * MIB}"})

    assert ControlGroups(str(tmp_path)).control_group(APP).working_set == 90 * MIB


def test_the_smallest_maximum_on_the_path_limits_and_is_named(version_2, tmp_path):
    version_2("/system.slice", **{"memory.max": str(200 * MIB)})
    version_2(**{"memory.max": str(300 * MIB)})

    seen = ControlGroups(str(tmp_path)).control_group(APP)

    assert (seen.limit, seen.limit_at, seen.maximum) == (200 * MIB, "/system.slice", 300 * MIB)


def test_of_equal_maximums_it_is_the_groups_own(version_2, tmp_path):
    version_2("/system.slice", **{"memory.max": str(200 * MIB)})
    version_2(**{"memory.max": str(200 * MIB)})

    assert ControlGroups(str(tmp_path)).control_group(APP).limit_at == APP


def test_a_containers_view_is_limited_by_what_is_its_root(version_2, group, tmp_path):
    group(VERSION_2, "/", **{"memory.max": str(50 * MIB)})
    version_2()

    seen = ControlGroups(str(tmp_path)).control_group(APP)

    assert (seen.limit, seen.limit_at, seen.maximum) == (50 * MIB, "/", None)


def test_what_an_older_kernel_does_not_tell_is_none_or_nothing(version_2, tmp_path):
    version_2(**{"memory.events": None, "memory.high": None})

    seen = ControlGroups(str(tmp_path)).control_group(APP)

    assert (seen.swap, seen.unreclaimable, seen.processes) == (0, 0, ())
    assert (seen.limit, seen.limit_at, seen.maximum, seen.high) == (None, "", None, None)
    assert (seen.high_events, seen.failures, seen.out_of_memory_kills, seen.pressure) == (None, None, None, None)


def test_the_topmost_group_uses_what_is_counted(version_2, group, tmp_path):
    stat = f"anon {7 * MIB}\nfile {9 * MIB}\ninactive_file {MIB}"
    group(VERSION_2, "/", **{"memory.current": None, "memory.stat": stat})
    (tmp_path / "memory.current").unlink(missing_ok=True)

    seen = ControlGroups(str(tmp_path)).control_group("/")

    assert (seen.path, seen.usage, seen.working_set) == ("/", 16 * MIB, 15 * MIB)


# ── version 1, and hybrid ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_files_of_version_1(version_1, tmp_path):
    version_1(**{
        "memory.stat": f"cache 1\nrss 2\nshmem 3\ninactive_file 4\nhierarchical_memory_limit {300 * MIB}\n"
        f"total_cache {50 * MIB}\ntotal_rss {40 * MIB}\ntotal_shmem {10 * MIB}\n"
        f"total_swap {3 * MIB}\ntotal_inactive_file {20 * MIB}",
        "memory.limit_in_bytes": str(300 * MIB), "memory.failcnt": "8", "cgroup.procs": "11",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1",
    })  # fmt: skip
    version_1(f"{APP}/worker", **{"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2"})

    seen = ControlGroups(str(tmp_path)).control_group(APP)

    assert (seen.path, seen.version, seen.usage) == (APP, 1, 100 * MIB)
    assert (seen.anonymous, seen.file, seen.shared, seen.swap) == (40 * MIB, 40 * MIB, 10 * MIB, 3 * MIB)
    assert seen.working_set == 80 * MIB
    assert (seen.maximum, seen.limit, seen.limit_at) == (300 * MIB, 300 * MIB, APP)
    assert (seen.failures, seen.out_of_memory_kills) == (8, 3)
    assert (seen.high, seen.high_events, seen.pressure) == (None, None, None)
    assert seen.processes == (11,)


def test_a_kernel_without_a_count_of_kills_tells_none(version_1, tmp_path):
    version_1(**{"memory.oom_control": "oom_kill_disable 0\nunder_oom 0"})

    assert ControlGroups(str(tmp_path)).control_group(APP).out_of_memory_kills is None


@pytest.mark.parametrize("nothing", [NO_LIMIT, "9223372036854710272"])
def test_version_1_writes_no_limit_as_a_huge_one_whatever_its_pages(version_1, tmp_path, nothing):
    version_1(**{"memory.limit_in_bytes": nothing})

    seen = ControlGroups(str(tmp_path)).control_group(APP)

    assert (seen.maximum, seen.limit, seen.limit_at) == (None, None, "")


def test_a_limit_above_all_that_is_seen_holds_too_and_is_nobodys(version_1, tmp_path):
    version_1(**{
        "memory.limit_in_bytes": str(300 * MIB),
        "memory.stat": f"hierarchical_memory_limit {64 * MIB}\ntotal_rss 1",
    })  # fmt: skip

    seen = ControlGroups(str(tmp_path)).control_group(APP)

    assert (seen.limit, seen.limit_at, seen.maximum) == (64 * MIB, "", 300 * MIB)


def test_pressure_is_in_the_tree_of_version_2_when_both_are_there(version_1, tmp_path):
    version_1()
    beside = tmp_path / "unified" / APP.strip("/")
    beside.mkdir(parents=True)
    (tmp_path / "unified" / "cgroup.controllers").write_text("\n")
    (beside / "memory.pressure").write_text("some avg10=4.00 avg60=0.00 avg300=0.00 total=1\n")

    seen = ControlGroups(str(tmp_path)).control_group(APP)

    assert (seen.version, seen.pressure) == (1, Pressure(some10=4))
    assert ControlGroups(str(tmp_path)).control_group("/system.slice").pressure is None


# ── which tree, which group ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def proc(tmp_path):
    """proc(mountinfo, cgroup of process 5): a /proc that says so."""

    def make(mountinfo: str = "", cgroup: str = "") -> str:
        for name, text in (("self/mountinfo", mountinfo), ("5/cgroup", cgroup)):
            (tmp_path / "proc" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "proc" / name).write_text(text)
        return str(tmp_path / "proc")

    return make


HYBRID = "9:name=systemd:/a/b\n4:cpu,memory:/a/b/c\n3:cpuset:/\n0::/a\n"


def test_of_a_hybrid_machine_the_memory_path_counts(version_1, tmp_path, proc):
    assert ControlGroups(str(tmp_path), proc(cgroup=HYBRID)).control_group_of(5) == "/a/b/c"


def test_of_version_2_there_is_one_path(version_2, tmp_path, proc):
    groups = ControlGroups(str(tmp_path), proc(cgroup="0::/user.slice/with : colon\n"))

    assert groups.control_group_of(5) == "/user.slice/with : colon"


def test_a_process_that_is_gone_has_no_group(version_2, tmp_path, proc):
    with pytest.raises(ProbeError, match="6/cgroup: no such process"):
        ControlGroups(str(tmp_path), proc()).control_group_of(6)


def test_a_container_that_sees_the_hosts_names_finds_itself_in_its_part_of_the_tree(version_1, tmp_path, proc):
    """Docker's view in version 1 without a namespace: the container's group is mounted, names are the host's."""
    version_1("/inner")
    mountinfo = f"32 31 0:29 /docker/4711 {tmp_path}/memory ro - cgroup cgroup rw,memory\n"
    groups = ControlGroups(str(tmp_path), proc(mountinfo, "4:memory:/docker/4711/inner\n"))

    assert groups.control_group(groups.control_group_of(5)).path == "/docker/4711/inner"
    for elsewhere in ("/docker/4712", "/", "/docker", "/../x"):
        with pytest.raises(
            ProbeError, match=r"of the tree only /docker/4711 is to be seen from here.*run ansai on the"
        ):
            groups.control_group(elsewhere)


def test_mounts_go_before_usual_names(version_1, tmp_path, proc):
    version_1()
    (tmp_path / "memory").rename(tmp_path / "other")
    mountinfo = (
        f"31 30 0:28 / {tmp_path} rw - tmpfs tmpfs rw\n"
        f"32 31 0:29 / {tmp_path}/cpu rw - cgroup cgroup rw,cpu\n"
        f"33 31 0:30 / {tmp_path}/other rw - cgroup cgroup rw,memory\n"
    )

    assert ControlGroups(str(tmp_path), proc(mountinfo)).control_group(APP).version == 1


def test_version_2_without_the_memory_controller_carries_none(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpu pids\n")

    with pytest.raises(ProbeError, match=r"carries memory; mount .* or set memory_monitoring.cgroup_root"):
        ControlGroups(str(tmp_path)).control_group("/")


@pytest.mark.parametrize("tree", ["version_1", "version_2"])
def test_a_group_that_is_gone_is_said_to_be(tree, request, tmp_path):
    request.getfixturevalue(tree)()

    with pytest.raises(ProbeError, match=r"read the control group /system.slice/gone.service: it is gone"):
        ControlGroups(str(tmp_path)).control_group("/system.slice/gone.service")


def test_a_group_whose_memory_is_not_counted_says_how_to_change_that(version_2, tmp_path):
    version_2(**{"memory.stat": None, "memory.current": None})

    with pytest.raises(ProbeError, match="its memory is not counted; set MemoryAccounting=yes"):
        ControlGroups(str(tmp_path)).control_group(APP)


def test_no_link_is_followed(version_2, tmp_path):
    version_2()
    (tmp_path / "link").symlink_to(tmp_path / "system.slice")
    stat = tmp_path / "system.slice" / "memory.stat"
    stat.rename(tmp_path / "elsewhere")
    stat.symlink_to(tmp_path / "elsewhere")

    for path in ("/link/app.service", "/system.slice"):
        with pytest.raises(ProbeError):
            ControlGroups(str(tmp_path)).control_group(path)


def test_processes_are_found_in_a_tree_that_does_not_count_memory(version_1, tmp_path):
    """Without MemoryAccounting systemd makes a service's group in its own hierarchy only."""
    named = tmp_path / "systemd" / APP.strip("/") / "worker"
    named.mkdir(parents=True)
    (named / "cgroup.procs").write_text("21\n20\n")

    groups = ControlGroups(str(tmp_path))

    assert groups.processes(APP) == (20, 21)
    with pytest.raises(ProbeError, match="it is gone"):
        groups.control_group(APP)
    with pytest.raises(ProbeError, match="it is gone"):
        groups.processes("/system.slice/gone.service")


@given(st.text() | st.text("some ful avg10=60.\n"))
def test_no_text_of_a_pressure_file_is_too_strange(text):
    pressure_in(text)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), st.integers(0, 2**63)))
def test_what_a_statistics_file_says_is_read_back(amounts):
    assert numbers_in("".join(f"{name} {amount}\n" for name, amount in amounts.items())) == amounts


# ── the host ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_this_hosts_memory_adds_up():
    host = ControlGroups().host()

    assert 0 < host.available <= host.total
    assert host.total == os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE
    assert host.swap_free <= host.swap_total
    assert 0 < host.anonymous < host.total
    assert (host.pressure is not None) == Path("/proc/pressure/memory").exists()


def test_a_host_without_pressure_information_tells_none(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal:  100 kB\nMemAvailable:   40 kB\nHugePages_Total:   0\n")
    (tmp_path / "vmstat").write_text("nr_free_pages 5\n")

    host = ControlGroups(proc=str(tmp_path)).host()

    assert (host.total, host.available, host.pressure, host.out_of_memory_kills) == (102400, 40960, None, None)


def test_a_file_that_is_no_meminfo_is_unknown(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\n")

    with pytest.raises(ProbeError, match="it has no MemAvailable; is /proc mounted"):
        ControlGroups(proc=str(tmp_path)).host()


# ── this kernel's own ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_real_group_is_told_as_its_own_files_tell_it(memory_cgroup, leak):
    memory_cgroup.limit(96 * MIB)
    process = leak("--rate", str(400 * MIB), "--shape", "linear", "--limit", str(40 * MIB))
    await until(lambda: memory_cgroup.anonymous >= 40 * MIB, lambda: memory_cgroup.usage)
    groups = ControlGroups()

    path = groups.control_group_of(process.pid)
    seen = groups.control_group(path)

    assert path.endswith(memory_cgroup.directory.name)
    assert (seen.path, seen.version, seen.processes) == (path, memory_cgroup.version, (process.pid,))
    assert groups.processes(path) == (process.pid,)
    assert 40 * MIB <= seen.anonymous <= seen.working_set <= 96 * MIB
    assert 40 * MIB <= seen.usage <= 96 * MIB
    assert (seen.maximum, seen.limit) == (96 * MIB, 96 * MIB)
    assert seen.limit_at == path
    assert seen.out_of_memory_kills == 0


async def test_a_real_kill_is_counted_for_the_group_and_the_host(memory_cgroup, leak):
    """The limit is on memory alone: with the same limit on memory and swap, kernels count no failures at all."""
    path = real_path(memory_cgroup)
    assert ControlGroupWriter().limit_memory(path, None, 48 * MIB).outcome is Outcome.DONE
    before = ControlGroups().host().out_of_memory_kills
    process = leak("--rate", str(400 * MIB), "--shape", "linear")

    await until(lambda: process.poll() is not None)

    seen = ControlGroups().control_group(path)
    assert seen.out_of_memory_kills == 1
    assert seen.failures > 0
    assert seen.processes == ()
    assert ControlGroups().host().out_of_memory_kills > before


async def test_a_kill_in_a_group_below_is_the_groups_too(memory_cgroup):
    below = memory_cgroup.directory / "below"
    below.mkdir()
    if memory_cgroup.version == 2:
        (memory_cgroup.directory / "cgroup.subtree_control").write_text("+memory")
    memory_cgroup.limit(48 * MIB)
    enter = ["sh", "-c", 'echo 0 >"$0" && exec "$@"', str(below / "cgroup.procs")]
    process = subprocess.Popen([*enter, sys.executable, LEAKING, "--rate", str(400 * MIB), "--shape", "linear"])
    path = real_path(memory_cgroup)
    try:
        await until(lambda: process.poll() is not None)
    finally:
        process.kill()
        process.wait()

    assert ControlGroups().control_group(path).out_of_memory_kills == 1


def real_path(memory_cgroup):
    tree = cgroup_trees.memory_tree("/sys/fs/cgroup", "/proc")
    return f"{tree.top.rstrip('/')}/{memory_cgroup.directory.relative_to(tree.directory)}"


def test_a_real_group_that_was_removed_is_gone(memory_cgroup):
    path = real_path(memory_cgroup)
    ControlGroups().control_group(path)
    memory_cgroup.directory.rmdir()

    with pytest.raises(ProbeError, match="it is gone"):
        ControlGroups().control_group(path)
    assert ControlGroupWriter().limit_memory(path, None, 64 * MIB).outcome is Outcome.SKIPPED


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_real_limit_is_set_holds_and_is_taken_away_again(memory_cgroup, leak):
    process = leak("--rate", str(400 * MIB), "--shape", "linear", "--limit", str(40 * MIB))
    await until(lambda: memory_cgroup.anonymous >= 40 * MIB, lambda: memory_cgroup.usage)
    path, writer = real_path(memory_cgroup), ControlGroupWriter()

    result = writer.limit_memory(path, None, 100 * MIB)

    assert (result.name, result.outcome, result.reason) == (path, Outcome.DONE, "")
    assert memory_cgroup.limit_in_force() == 100 * MIB
    assert writer.limit_memory(path, None, None).outcome is Outcome.DONE
    assert memory_cgroup.limit_in_force() == float("inf")
    assert process.poll() is None


async def test_a_limit_below_what_is_in_use_is_refused_and_nobody_is_killed(memory_cgroup, leak):
    process = leak("--rate", str(400 * MIB), "--shape", "linear", "--limit", str(40 * MIB))
    await until(lambda: memory_cgroup.anonymous >= 40 * MIB, lambda: memory_cgroup.usage)

    result = ControlGroupWriter().limit_memory(real_path(memory_cgroup), None, 45 * MIB)

    assert result.outcome is Outcome.REFUSED
    assert "a maximum of 47185920 bytes is too little" in result.reason
    assert memory_cgroup.limit_in_force() == float("inf")
    assert process.poll() is None


async def test_raising_a_tight_limit_is_no_harm(memory_cgroup, leak):
    path, writer = real_path(memory_cgroup), ControlGroupWriter()
    assert writer.limit_memory(path, None, 56 * MIB).outcome is Outcome.DONE
    leak("--rate", str(400 * MIB), "--shape", "linear", "--limit", str(40 * MIB))
    await until(lambda: memory_cgroup.anonymous >= 40 * MIB, lambda: memory_cgroup.usage)
    assert writer.limit_memory(path, None, 48 * MIB).outcome is Outcome.REFUSED

    assert writer.limit_memory(path, None, 57 * MIB).outcome is Outcome.DONE
    assert memory_cgroup.limit_in_force() == 57 * MIB


def test_version_1_is_not_limited_above_memory_and_swap_together(version_1, tmp_path):
    version_1(**{"memory.memsw.limit_in_bytes": str(200 * MIB), "memory.limit_in_bytes": str(150 * MIB)})
    writer = ControlGroupWriter(str(tmp_path))

    for maximum in (300 * MIB, None):
        result = writer.limit_memory(APP, None, maximum)
        assert result.outcome is Outcome.REFUSED
        assert result.reason.startswith(f"its memory and swap together are limited to {200 * MIB} bytes")
    assert writer.limit_memory(APP, None, 200 * MIB).outcome is Outcome.DONE


def test_a_limit_that_is_no_whole_pages_is_rounded_as_the_kernel_does(memory_cgroup):
    assert ControlGroupWriter().limit_memory(real_path(memory_cgroup), None, 64 * MIB + 5).outcome is Outcome.DONE
    assert memory_cgroup.limit_in_force() == 64 * MIB


def test_version_1_has_no_high_and_says_so(version_1, tmp_path):
    directory = version_1(**{"memory.stat": "total_rss 1"})
    writer = ControlGroupWriter(str(tmp_path))

    both, high = writer.limit_memory(APP, 200 * MIB, 300 * MIB), writer.limit_memory(APP, 200 * MIB, None)

    assert (both.outcome, both.reason) == (
        Outcome.DONE, "control groups of version 1 have no high: only the maximum was set",
    )  # fmt: skip
    assert high.outcome is Outcome.REFUSED
    assert (directory / "memory.limit_in_bytes").read_text().startswith(str(300 * MIB))


def contents(directory):
    return {name: (directory / name).read_text().strip() for name in ("memory.high", "memory.max")}


def test_version_2_gets_both_and_loses_both(version_2, tmp_path):
    directory, writer = version_2(), ControlGroupWriter(str(tmp_path))

    assert writer.limit_memory(APP, 200 * MIB, 300 * MIB).outcome is Outcome.DONE
    assert contents(directory) == {"memory.high": str(200 * MIB), "memory.max": str(300 * MIB)}
    assert writer.limit_memory(APP, None, None).outcome is Outcome.DONE
    assert contents(directory) == {"memory.high": "max", "memory.max": "max"}


@pytest.mark.parametrize(("high", "maximum"), [(124 * MIB, 400 * MIB), (400 * MIB, 124 * MIB)])
def test_version_2_refuses_either_below_what_is_in_use(version_2, tmp_path, high, maximum):
    directory = version_2()

    result = ControlGroupWriter(str(tmp_path)).limit_memory(APP, high, maximum)

    assert result.outcome is Outcome.REFUSED
    assert result.reason.endswith(f"{100 * MIB} are in use, and it must be at least {125 * MIB}, 1.25 times that")
    assert contents(directory) == {"memory.high": "max", "memory.max": "max"}


def test_when_the_second_write_fails_the_first_is_taken_back(version_2, tmp_path):
    directory = version_2()
    (directory / "memory.max").unlink()
    os.mkfifo(directory / "memory.max")  # with nobody at the other end it takes nothing

    result = ControlGroupWriter(str(tmp_path)).limit_memory(APP, 200 * MIB, 300 * MIB)

    assert result.outcome is Outcome.FAILED
    assert result.reason.startswith("write memory.max: No such device or address")
    assert result.reason.endswith("memory.high got the old value again")
    assert (directory / "memory.high").read_text() == "max"


def test_a_first_write_that_fails_means_that_nothing_was_done(version_2, tmp_path):
    directory = version_2()
    (directory / "memory.high").unlink()
    os.mkfifo(directory / "memory.high")

    with pytest.raises(ToolError, match=r"limit memory of the control group .*; it needs root, and control groups"):
        ControlGroupWriter(str(tmp_path)).limit_memory(APP, 200 * MIB, 300 * MIB)

    assert (directory / "memory.max").read_text() == "max\n"


@pytest.mark.needs("root")
def test_a_value_that_did_not_take_is_taken_back(version_2, tmp_path):
    directory = version_2()
    (directory / "memory.max").unlink()
    os.mknod(directory / "memory.max", stat.S_IFCHR | 0o600, os.makedev(1, 3))  # /dev/null: takes all, keeps nothing

    result = ControlGroupWriter(str(tmp_path)).limit_memory(APP, 200 * MIB, 300 * MIB)

    assert result.outcome is Outcome.FAILED
    assert result.reason.startswith(f"memory.max was set to {300 * MIB} bytes and reads no limit")
    assert (directory / "memory.high").read_text() == "max"


def test_the_topmost_group_can_not_be_limited(version_2, tmp_path):
    for name in ("memory.high", "memory.max"):
        (tmp_path / name).unlink(missing_ok=True)

    result = ControlGroupWriter(str(tmp_path)).limit_memory("/", 200 * MIB, 300 * MIB)

    assert (result.outcome, result.reason) == (
        Outcome.REFUSED, "/ has no memory.high: the topmost group has no limits of its own",
    )  # fmt: skip


def test_without_a_tree_that_carries_memory_nothing_can_be_limited(tmp_path):
    with pytest.raises(ToolError, match=r"limit memory: .* nothing at .* carries memory"):
        ControlGroupWriter(str(tmp_path)).limit_memory(APP, None, MIB)
