"""A real service manager: what it tells of units that run, fail, are stopped and run out of memory."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nats
import pytest

from tests import cgroups
from tests.programs import leaking
from tests.servers import nats_server
from tests.systemd import systemd
from tests.waiting import until

MIB = 1 << 20
TOP = Path(__file__).parents[1]
ANSAI = Path(sys.prefix) / "bin" / "ansai"
LEAK = f'"{sys.executable}" "{leaking.__file__}" --shape linear --rate {200 * MIB}'
UNIT = "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst={burst}\n[Service]\nExecStart={command}\n{more}"


def service(command: str, more: str = "", burst: int = 1000) -> str:
    return UNIT.format(command=command, more=more, burst=burst)


async def state(machine, unit: str, *wanted: str) -> dict[str, str]:
    """Wait for the unit to be in a state like "active" or "failed", then tell all about it."""
    await until(lambda: in_state(machine, unit, wanted), lambda: machine.run("systemctl", "show", unit).stdout)
    return await machine.show(unit)


async def in_state(machine, unit: str, wanted: tuple[str, ...]) -> bool:
    return (await machine.show(unit, "ActiveState"))["ActiveState"] in wanted


# ── units ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_unit_starts_and_its_process_is_in_its_group(machine):
    await machine.unit("web.service", service("/bin/sleep 1000"))
    await machine.systemctl("start", "web.service")

    seen = await machine.show("web.service", "ActiveState", "SubState", "Result", "MainPID", "ControlGroup")

    assert (seen["ActiveState"], seen["SubState"], seen["Result"]) == ("active", "running", "success")
    assert seen["ControlGroup"] == "/system.slice/web.service"
    command = machine.run("cat", f"/proc/{seen['MainPID']}/cmdline").stdout
    assert command == "/bin/sleep\x001000\x00"
    assert "/system.slice/web.service\n" in machine.run("cat", f"/proc/{seen['MainPID']}/cgroup").stdout


async def test_a_failing_unit_says_how_it_failed(machine):
    await machine.unit("web.service", service("/bin/sh -c 'exit 3'"))
    await machine.systemctl("start", "web.service")

    seen = await state(machine, "web.service", "failed")

    assert (seen["Result"], seen["ExecMainCode"], seen["ExecMainStatus"]) == ("exit-code", "1", "3")
    assert seen["NRestarts"] == "0"
    assert (await machine.systemctl("is-system-running", check=False)).stdout == "degraded\n"


async def test_a_unit_that_restarts_counts_it_until_it_stays_up(machine, tmp_path):
    script = "test -e %/twice && exec sleep 1000; test -e %/once && touch %/twice; touch %/once; exit 1"
    script = script.replace("%", str(tmp_path))
    await machine.unit("web.service", service(f"/bin/sh -c '{script}'", "Restart=on-failure\nRestartSec=20ms\n"))
    await machine.systemctl("start", "web.service")

    await until(lambda: (tmp_path / "twice").exists())
    seen = await state(machine, "web.service", "active")

    assert (seen["NRestarts"], seen["Result"]) == ("2", "success")


async def test_a_unit_that_ends_too_often_hits_its_start_limit(machine):
    await machine.unit("web.service", service("/bin/true", "Restart=always\nRestartSec=10ms\n", burst=3))
    await machine.systemctl("start", "web.service")

    seen = await state(machine, "web.service", "failed")

    assert (seen["Result"], seen["NRestarts"]) == ("start-limit-hit", "3")


async def test_a_unit_that_fails_too_often_says_how_it_failed_and_does_not_start_before_a_reset(machine):
    """Its first trouble stays its result; that it was started too often, only the journal says."""
    await machine.unit("web.service", service("/bin/false", "Restart=always\nRestartSec=10ms\n", burst=3))
    await machine.systemctl("start", "web.service")

    seen = await state(machine, "web.service", "failed")
    refused = await machine.systemctl("start", "web.service", check=False)
    await machine.systemctl("reset-failed", "web.service")
    await machine.systemctl("start", "web.service")

    assert (seen["Result"], seen["NRestarts"]) == ("exit-code", "3")
    assert refused.returncode == 1
    assert "web.service: Start request repeated too quickly.\n" in machine.run("journalctl", "--output=cat").stdout


async def test_a_masked_unit_does_not_start(machine):
    await machine.systemctl("mask", "--runtime", "web.service")

    refused = await machine.systemctl("start", "web.service", check=False)
    seen = await machine.show("web.service", "LoadState", "UnitFileState", "ActiveState")

    assert refused.returncode != 0
    assert "masked" in refused.stderr
    assert seen == {"LoadState": "masked", "UnitFileState": "masked-runtime", "ActiveState": "inactive"}


async def test_a_unit_that_was_stopped_on_purpose_is_no_failure(machine):
    await machine.unit("web.service", service("/bin/sleep 1000", "Restart=always\n"))
    await machine.systemctl("start", "web.service")
    await machine.systemctl("stop", "web.service")

    seen = await machine.show("web.service", "ActiveState", "Result", "NRestarts")

    assert seen == {"ActiveState": "inactive", "Result": "success", "NRestarts": "0"}


async def test_a_unit_file_that_was_changed_needs_a_reload(machine):
    await machine.unit("web.service", service("/bin/sleep 1000"))
    await machine.systemctl("start", "web.service")

    machine.path("/run/systemd/system/web.service").write_text(service("/bin/sleep 2000"))

    assert await machine.show("web.service", "NeedDaemonReload") == {"NeedDaemonReload": "yes"}
    await machine.systemctl("daemon-reload")
    assert await machine.show("web.service", "NeedDaemonReload") == {"NeedDaemonReload": "no"}


async def test_a_drop_in_changes_a_unit(machine):
    await machine.unit("web.service", service("/bin/sleep 1000"))
    await machine.unit("web.service.d/limit.conf", "[Service]\nTasksMax=8\n")
    await machine.systemctl("start", "web.service")

    assert await machine.show("web.service", "TasksMax") == {"TasksMax": "8"}
    assert (machine.cgroup("pids", "/system.slice/web.service") / "pids.max").read_text() == "8\n"


async def test_what_a_unit_prints_is_in_the_journal(machine):
    await machine.unit("told.service", service("/bin/echo the disk is fine", "Type=oneshot\n"))
    await machine.systemctl("start", "told.service")

    def journal() -> str:
        return machine.run("journalctl", "--unit=told.service", "--output=cat").stdout

    await until(lambda: "the disk is fine\n" in journal(), journal)


@pytest.mark.needs("dbus-daemon")
async def test_its_state_is_told_over_its_own_bus(machine):
    manager = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")

    told = machine.run("busctl", "get-property", *manager, "SystemState")

    assert told.stdout == 's "running"\n'


async def test_nothing_of_a_test_is_left_for_the_next_one(machine):
    before = {unit.split()[0] for unit in units(machine)}
    await machine.unit("web.service", service("/bin/sleep 1000", "Slice=many.slice\n"))
    await machine.unit("web.service.d/nice.conf", "[Service]\nNice=5\n")
    await machine.unit("stubborn.service", service("/bin/sh -c 'trap : TERM; while :; do sleep 1; done'"))
    await machine.unit("broken.service", service("/bin/false"))
    await machine.systemctl("start", "web.service", "stubborn.service", "broken.service")
    await machine.systemctl("set-property", "--runtime", "web.service", "CPUWeight=50")
    await machine.systemctl("mask", "--runtime", "cron.service")
    machine.run("systemd-run", "--unit=passing", "sleep", "1000")

    machine.clear()

    assert {unit.split()[0] for unit in units(machine)} <= before | {"systemd-journald.service"}
    assert machine.run("systemctl", "is-system-running").stdout == "running\n"
    assert not machine.path("/run/systemd/system/web.service.d").exists()
    assert not os.path.lexists(machine.path("/run/systemd/system/cron.service"))
    assert (await machine.show("web.service", "LoadState"))["LoadState"] == "not-found"


def units(machine) -> list[str]:
    return machine.run("systemctl", "list-units", "--all", "--full", "--plain", "--no-legend").stdout.splitlines()


# ── memory ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def memory_of(machine, unit: str) -> cgroups.MemoryCgroup:
    version = 2 if cgroups.memory_hierarchy().type == "cgroup2" else 1
    return cgroups.MemoryCgroup(machine.cgroup("memory", f"/system.slice/{unit}"), version)


@pytest.mark.needs("memory limit")
async def test_a_memory_limit_set_at_run_time_is_the_groups_and_is_taken_back(machine):
    await machine.unit("web.service", service("/bin/sleep 1000", "MemoryMax=512M\n"))
    await machine.systemctl("start", "web.service")
    assert memory_of(machine, "web.service").limit_in_force() == 512 * MIB

    await machine.systemctl("set-property", "--runtime", "web.service", "MemoryMax=64M")
    assert memory_of(machine, "web.service").limit_in_force() == 64 * MIB
    assert (await machine.show("web.service", "MemoryMax"))["MemoryMax"] == str(64 * MIB)

    await machine.systemctl("set-property", "--runtime", "web.service", "MemoryMax=infinity")
    assert memory_of(machine, "web.service").limit_in_force() == float("inf")


@pytest.mark.needs("memory limit")
async def test_a_limit_set_at_run_time_ends_a_leak_and_the_unit_is_started_again(machine, tmp_path):
    leak = f"until test -e {tmp_path}/go; do sleep 0.02; done; exec {LEAK}"
    more = "Restart=on-failure\nRestartSec=20ms\nMemorySwapMax=0\n"
    await machine.unit("web.service", service(f"/bin/sh -c '{leak}'", more))
    await machine.systemctl("start", "web.service")
    before = await machine.show("web.service", "InvocationID", "NRestarts")

    await machine.systemctl("set-property", "--runtime", "web.service", "MemoryMax=64M")
    (tmp_path / "go").touch()

    await until(lambda: restarted(machine, "web.service"))
    assert before["NRestarts"] == "0"
    assert await machine.show("web.service", "InvocationID") != {"InvocationID": before["InvocationID"]}


async def restarted(machine, unit: str) -> bool:
    return int((await machine.show(unit, "NRestarts"))["NRestarts"]) > 0


@pytest.mark.needs("memory limit")
async def test_what_a_unit_holds_is_told_by_systemd(machine):
    await machine.unit("web.service", service(f"{LEAK} --limit {64 * MIB}"))
    await machine.systemctl("start", "web.service")

    await until(lambda: memory_of(machine, "web.service").anonymous >= 64 * MIB)

    assert int((await machine.show("web.service", "MemoryCurrent"))["MemoryCurrent"]) >= 64 * MIB


@pytest.mark.needs("memory limit")
async def test_a_kill_for_memory_is_counted_by_the_kernel_and_told_by_systemd(machine):
    shell = f"/bin/sh -c '{LEAK}; code=$?; sleep 1000; exit $code'"
    await machine.unit("kept.service", service(shell, "MemoryMax=64M\nMemorySwapMax=0\nOOMPolicy=continue\n"))
    await machine.systemctl("start", "kept.service")
    group = memory_of(machine, "kept.service")
    await until(lambda: group.oom_kills == 1, lambda: group.usage)
    assert (await machine.show("kept.service", "ActiveState"))["ActiveState"] == "active"

    await machine.unit("web.service", service(LEAK, "MemoryMax=64M\nMemorySwapMax=0\n"))
    await machine.systemctl("start", "web.service")
    seen = await state(machine, "web.service", "failed")

    assert (seen["ExecMainCode"], seen["ExecMainStatus"]) == ("2", str(int(signal.SIGKILL)))
    assert seen["Result"] == ("oom-kill" if group.version == 2 else "signal")  # v1 does not tell systemd why


# ── programs inside, and what is left ─────────────────────────────────────────────────────────────────────────────────


async def test_the_ansai_command_runs_inside(machine):
    done = await asyncio.to_thread(machine.run, ANSAI, "version", "--json")

    assert '"ansai"' in done.stdout


PUBLISH = """
import asyncio, nats, sys

async def main():
    client = await nats.connect(sys.argv[1])
    await client.publish("ansai.test", b"from inside")
    await client.drain()

asyncio.run(main())
"""


async def test_the_bus_outside_is_reached_from_inside(machine, tmp_path):
    async with nats_server(tmp_path / "nats") as url:
        client = await nats.connect(url)
        subscription = await client.subscribe("ansai.test")
        await client.flush()
        await asyncio.to_thread(machine.run, sys.executable, "-c", PUBLISH, url)
        message = await subscription.next_msg(10)
        await client.close()

    assert message.data == b"from inside"


async def test_a_program_inside_is_asked_to_end_when_its_way_in_ends(machine, tmp_path):
    script = f"trap 'echo ended > {tmp_path}/told; exit' TERM; touch {tmp_path}/up; while :; do sleep 0.05; done"
    process = await asyncio.create_subprocess_exec(*machine.argv("sh", "-c", script))
    await until(lambda: (tmp_path / "up").exists())

    process.terminate()
    await process.wait()

    await until(lambda: (tmp_path / "told").exists() and (tmp_path / "told").read_text() == "ended\n")


def test_nothing_outside_can_be_changed_from_inside(machine, tmp_path):
    for inside in ("/usr/ansai-test", "/ansai-test", "/root/ansai-test", "/sys/fs/cgroup/ansai-test"):
        assert machine.run("mkdir", inside, check=False).returncode != 0
    for inside in ("/etc/ansai-test", "/var/lib/ansai-test", "/tmp/ansai-test", "/run/ansai-test", "/dev/ansai-test"):
        machine.run("mkdir", inside)
        assert not Path(inside).exists()
        machine.run("rmdir", inside)
    assert machine.run("sh", "-c", "echo 1 >/proc/sys/fs/nr_open", check=False).returncode != 0
    machine.run("touch", tmp_path / "shared")
    assert (tmp_path / "shared").exists()


KERNEL_LIMITS = [Path("/proc/sys", name) for name in ("fs/nr_open", "fs/file-max", "net/unix/max_dgram_qlen")]


def left_of(namespace: str, directory: Path, groups: list[Path]) -> dict[str, list[str]]:
    return {
        "processes": [pid for pid in os.listdir("/proc") if pid.isdigit() and process_namespace(pid) == namespace],
        "mounts": [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(directory) in line],
        "groups and files": [str(path) for path in (*groups, directory) if path.exists()],
    }


def process_namespace(pid: str | int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:  # it ended meanwhile
        return ""


@pytest.mark.parametrize("time", ["first", "second"])
async def test_nothing_is_left_of_a_machine_whose_units_still_run(time, systemd_machine):
    """Beside another one, which goes on."""
    limits = {path: path.read_text() for path in KERNEL_LIMITS}
    log, hierarchies = os.path.lexists("/dev/log"), Path("/proc/self/cgroup").read_text()
    with systemd() as machine:
        await machine.unit("web.service", service("/bin/sh -c 'trap : TERM; while :; do sleep 1; done'"))
        await machine.systemctl("start", "web.service")
        groups = [machine.cgroup(name) for tree in cgroups.hierarchies() for name in [*tree.names][:1]]
        made = (process_namespace(machine.pid), machine.directory, groups)
        assert len(left_of(*made)["processes"]) >= 2
        assert machine.cgroup("memory", "/system.slice/web.service").is_dir()

    assert not any(left_of(*made).values()), left_of(*made)
    assert {path: path.read_text() for path in KERNEL_LIMITS} == limits
    assert os.path.lexists("/dev/log") == log
    assert Path("/proc/self/cgroup").read_text() == hierarchies
    assert systemd_machine.run("systemctl", "is-system-running").stdout == "running\n"


WITH_A_MACHINE = """
import time
from tests.systemd import systemd

with systemd() as machine:
    print(machine.pid, machine.directory, flush=True)
    time.sleep(1000)
"""


async def test_a_machine_ends_with_the_tests_that_are_killed():
    tests = subprocess.Popen([sys.executable, "-c", WITH_A_MACHINE], cwd=TOP, stdout=subprocess.PIPE, text=True)
    try:
        assert tests.stdout is not None
        pid, directory = tests.stdout.readline().split()
        namespace = process_namespace(pid)
    finally:
        tests.kill()
        tests.communicate()

    await until(lambda: not left_of(namespace, Path(directory), [])["processes"])

    await until(lambda: not groups_of(tests.pid), lambda: groups_of(tests.pid))
    shutil.rmtree(directory)


def groups_of(pid: int) -> list[Path]:
    """Those that a run left, after another made its own, which removes them when they are empty."""
    for tree in cgroups.hierarchies():
        cgroups.remove(cgroups.make(tree))
    return [group for tree in cgroups.hierarchies() for group in tree.parent.glob(f"ansai-test-{pid}-*")]
