"""What the adapter reads of a real service's control group of version 2, beside what the kernel has in its files."""

from pathlib import Path

from infra.adapters.cgroups import ControlGroups
from schemas.facts.cgroups import ControlGroupMemory
from tests import cgroups
from tests.kernel.inside.services import MIB, leaking, service
from tests.waiting import until

TOP = "/sys/fs/cgroup"
SLEEPING = "/bin/sleep 1000"


def test_the_machine_has_control_groups_of_version_2_only():
    assert [(tree.point, tree.type) for tree in cgroups.hierarchies()] == [(Path(TOP), "cgroup2")]


async def test_a_service_reads_as_the_kernel_has_it(machine, memory):
    limits = "MemoryHigh=256M\nMemoryMax=320M\n"
    await machine.unit("web.service", service(leaking(limit=48 * MIB), limits))
    await machine.systemctl("start", "web.service")
    main = int((await machine.show("web.service", "MainPID"))["MainPID"])
    await until(lambda: memory("web.service").anonymous >= 48 * MIB, lambda: memory("web.service"))

    await until(lambda: told(memory("web.service")) == of_the_kernel("/system.slice/web.service"))

    seen = memory("web.service")
    assert (seen.path, seen.version, seen.processes) == ("/system.slice/web.service", 2, (main,))
    assert seen.anonymous <= seen.working_set <= seen.usage
    assert 48 * MIB <= seen.held < 80 * MIB
    assert (seen.high, seen.maximum) == (256 * MIB, 320 * MIB)
    assert (seen.limit, seen.limit_at) == (320 * MIB, "/system.slice/web.service")
    assert (seen.high_events, seen.failures, seen.out_of_memory_kills) == (0, 0, 0)
    assert seen.pressure is not None


def told(seen: ControlGroupMemory) -> tuple[int, ...]:
    return (
        seen.usage, seen.working_set, seen.anonymous, seen.file, seen.shared, seen.swap, seen.unreclaimable,
    )  # fmt: skip


def of_the_kernel(group: str) -> tuple[int, ...]:
    usage, swap = (int(Path(f"{TOP}{group}", f"memory.{name}").read_text()) for name in ("current", "swap.current"))
    amounts = numbers(group, "memory.stat")
    anonymous, shared = amounts["anon"], amounts["shmem"]
    working_set = max(usage - amounts["inactive_file"], anonymous)
    return usage, working_set, anonymous, amounts["file"] - shared, shared, swap, amounts["slab_unreclaimable"]


def numbers(group: str, name: str) -> dict[str, int]:
    lines = Path(f"{TOP}{group}", name).read_text().splitlines()
    return {key: int(value) for key, value in (line.split() for line in lines)}


async def test_shared_memory_is_told_apart_from_page_cache(machine, memory):
    await machine.unit("web.service", service(leaking(shape="shmem", limit=32 * MIB)))
    await machine.systemctl("start", "web.service")

    await until(lambda: memory("web.service").shared >= 32 * MIB, lambda: memory("web.service"))

    seen = memory("web.service")
    assert seen.file < 8 * MIB
    assert seen.anonymous < 32 * MIB
    assert seen.held >= 32 * MIB


async def test_page_cache_that_goes_for_the_asking_is_no_working_set(machine, memory, tmp_path):
    command = leaking(shape="pagecache", limit=48 * MIB, directory=tmp_path)
    await machine.unit("web.service", service(command))
    await machine.systemctl("start", "web.service")

    await until(lambda: memory("web.service").file >= 48 * MIB, lambda: memory("web.service"))

    seen = memory("web.service")
    assert seen.held < 32 * MIB
    await until(lambda: told(memory("web.service")) == of_the_kernel("/system.slice/web.service"))
    assert seen.working_set <= seen.usage - 32 * MIB


async def test_the_limit_of_a_slice_above_holds_for_its_services(machine):
    await machine.unit("shop.slice", "[Slice]\nMemoryMax=200M\n")
    await machine.unit("web.service", service(SLEEPING, "Slice=shop.slice\nMemoryMax=300M\n"))
    await machine.systemctl("start", "web.service")

    seen = ControlGroups().control_group("/shop.slice/web.service")

    assert (seen.limit, seen.limit_at, seen.maximum) == (200 * MIB, "/shop.slice", 300 * MIB)


async def test_the_group_of_a_process_is_that_of_its_service(machine):
    await machine.unit("web.service", service(SLEEPING))
    await machine.systemctl("start", "web.service")
    main = int((await machine.show("web.service", "MainPID"))["MainPID"])

    assert ControlGroups().control_group_of(main) == "/system.slice/web.service"


def test_the_hosts_memory_and_pressure_are_told():
    host = ControlGroups().host()

    assert 0 < host.available < host.total < 2048 * MIB
    assert host.pressure is not None
    assert host.out_of_memory_kills is not None
