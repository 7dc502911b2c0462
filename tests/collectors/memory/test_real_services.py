"""The collector on real leaking processes: in a group with a limit, as a unit of systemd, and by their command line.

Only the clock is not real: a look is a minute after the one before, however soon it comes.
"""

import shlex
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import TypeAdapter

from collectors.memory import trend
from collectors.memory.instances import Instance
from collectors.memory.trend import TrendMemory
from infra.adapters.cgroups import ControlGroups
from infra.adapters.processes import Processes
from schemas.facts.memory import Trend
from schemas.facts.units import Unit
from schemas.health import Level
from schemas.settings.memory import MemoryMonitoring
from tests import cgroups, components
from tests.fakes import START
from tests.waiting import until

MIB = 2**20
TOP = Path(__file__).parents[3]
LEAKING = TOP / "tests/programs/leaking.py"
APP = "unit:app.service"


class Watch:
    """Looks at this machine, on which *unit* is the only one."""

    def __init__(self, *units: Unit, **settings) -> None:
        self.probes = SimpleNamespace(
            units=SimpleNamespace(services=lambda globs: list(units), unit=lambda name: units[0]),
            containers=SimpleNamespace(running=list), memory=ControlGroups(), processes=Processes(),
        )  # fmt: skip
        self.settings = MemoryMonitoring(**settings)
        self.memory, self.now = TrendMemory(), START

    def look(self):
        reading = trend.read(self.settings, self.probes, self.memory)
        events, self.memory = trend.judge(self.settings, reading, self.memory, self.now)
        self.now += timedelta(minutes=1)
        return {event.target: event for event in events}


def unit_of(pid: int) -> Unit:
    """As systemd would tell of a unit whose control group is that of the process."""
    return Unit(
        name="app.service", active="active", invocation="1", control_group=ControlGroups().control_group_of(pid)
    )


def leaking(rate: int, *more: str) -> tuple[str | Path, ...]:
    return sys.executable, LEAKING, "--rate", str(rate), "--shape", "linear", *more


async def test_a_leak_in_a_limited_group_is_a_warning_then_critical_before_the_kernel_kills(memory_cgroup):
    limit, step = 200 * MIB, 5 * MIB // 2
    memory_cgroup.limit(limit)
    process = memory_cgroup.start(*leaking(30 * MIB))
    watch, told, held = Watch(unit_of(process.pid)), [], 0

    def grown() -> bool:
        return memory_cgroup.anonymous >= held + step or process.poll() is not None

    while not told or told[-1].level is not Level.CRITICAL:
        await until(grown)
        assert process.poll() is None, "it was killed, and nobody had called it critical"
        event = watch.look()[APP]
        told.append(event)
        held = event.held

    process.kill()
    process.wait()
    assert memory_cgroup.oom_kills == 0
    levels = [event.level for event in told]
    assert levels == sorted(levels, key=lambda level: level.rank)
    assert set(levels) == {Level.OK, Level.WARNING, Level.CRITICAL}
    last = told[-1]
    assert (last.trend, last.limit) == (Trend.EXHAUSTING, limit)
    assert 0.8 * limit < last.working_set < limit
    assert last.limit_at == watch.probes.units.unit(APP).control_group


async def test_a_real_kill_is_told_by_the_counter_of_the_group(memory_cgroup):
    memory_cgroup.limit(40 * MIB)
    survivor = memory_cgroup.start("sleep", "1000")
    watch = Watch(unit_of(survivor.pid))
    assert watch.look()[APP].level is Level.OK

    victim = memory_cgroup.start(*leaking(200 * MIB))
    victim.wait()

    event = watch.look()[APP]
    assert memory_cgroup.oom_kills == 1
    assert (event.level, event.out_of_memory_kills) == (Level.WARNING, 1)
    assert event.findings[0].startswith("1 of its processes was killed for lack of memory at ")
    survivor.kill()
    survivor.wait()


async def test_processes_are_found_by_their_command_line_and_end_with_the_last(memory_cgroup):
    memory_cgroup.limit(400 * MIB)
    seed = ("--limit", str(20 * MIB), "--seed", "20260301")
    processes = [memory_cgroup.start(*leaking(200 * MIB, *seed)) for _ in range(2)]
    watch = Watch(processes={"leaking": {"command": r"leaking\.py .*--seed 20260301"}})

    first = watch.look()["process:leaking"]
    event = await until(
        lambda: (now := watch.look()["process:leaking"]).held > 40 * MIB and now, lambda: memory_cgroup.usage
    )

    assert event.instance == first.instance
    assert event.instance.startswith(f"{processes[0].pid}@")
    assert event.limit <= 400 * MIB
    assert event.limit_at == ControlGroups().control_group_of(processes[0].pid)
    for process in processes:
        process.kill()
        process.wait()
    assert watch.look() == {}


async def test_a_unit_whose_memory_is_not_counted_is_measured_by_the_processes_in_its_group():
    components.need("cgroups")
    uncounted = [each for each in cgroups.hierarchies() if "memory" not in each.names]
    if not uncounted:
        pytest.skip("every control group counts memory here")
    directory = cgroups.make(uncounted[0])
    process = subprocess.Popen(leaking(200 * MIB, "--limit", str(20 * MIB)))
    try:
        (directory / "cgroup.procs").write_text(str(process.pid))
        path = f"/{directory.relative_to(uncounted[0].point)}"
        watch = Watch(Unit(name="app.service", active="active", invocation="1", control_group=path))
        event = await until(
            lambda: (now := watch.look()[APP]).level is not Level.UNKNOWN and now.held > 20 * MIB and now
        )
        assert event.held == event.working_set < 60 * MIB
    finally:
        process.kill()
        process.wait()
        cgroups.remove(directory)


LOOK = """
import sys
from collectors.memory import trend
from collectors.memory.instances import Instance
from infra.hosts.local import LocalProbes
from pydantic import TypeAdapter
from schemas.settings.memory import MemoryMonitoring

found = trend.read(MemoryMonitoring(units=("leaking", "plain"), containers=()), LocalProbes(), trend.TrendMemory())
sys.stdout.buffer.write(TypeAdapter(list[trend.Instance]).dump_json(found))
"""


async def test_units_of_a_real_systemd_are_read_while_they_run(machine):
    def read() -> dict[str, Instance]:
        done = subprocess.run(
            machine.argv(sys.executable, "-c", LOOK), cwd=TOP, capture_output=True, check=True
        )  # fmt: skip
        return {each.target: each for each in TypeAdapter(list[Instance]).validate_json(done.stdout)}

    def both():
        found = read()
        held = [each.holding.held if each.holding is not None else 0 for each in found.values()]
        return found if len(held) == 2 and min(held) > 30 * MIB else None

    program = shlex.join(map(str, leaking(500 * MIB, "--limit", str(30 * MIB))))
    service = f"[Service]\nExecStart={program}\n"
    await machine.unit("leaking.service", f"{service}MemoryAccounting=yes\nMemoryMax=300M\nRestart=always\n")
    await machine.unit("plain.service", f"{service}MemoryAccounting=no\n")
    await machine.systemctl("start", "leaking.service", "plain.service")

    found = await until(both, read)

    leak, plain = found["unit:leaking.service"], found["unit:plain.service"]
    shown = await machine.show("leaking.service", "InvocationID", "ControlGroup")
    assert (leak.name, leak.holding.group) == (shown["InvocationID"], shown["ControlGroup"])
    assert leak.holding.limit == (300 * MIB, shown["ControlGroup"], False)
    assert leak.holding.out_of_memory_kills == 0
    assert (leak.restarts_itself, plain.restarts_itself) == (True, False)
    assert plain.holding.held < 100 * MIB
    await machine.systemctl("stop", "leaking.service", "plain.service")
    assert read() == {}
