"""How a host is judged that runs out of memory."""

from datetime import timedelta
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.core.run import CollectorRun
from collectors.memory import pressure
from collectors.memory.pressure import COLLECTOR, PressureMemory
from schemas.facts.cgroups import Pressure
from schemas.health import Level
from schemas.probes import ProbeError
from schemas.settings.memory import MemoryMonitoring
from tests.collectors.memory.machine import MIB, Machine
from tests.fakes import GIB, START, FakeClock, FakeOutlet

TOTAL = 16 * GIB


class Watch:
    """Looks at a machine again and again; its memory is written out and read back each time."""

    def __init__(self, every=timedelta(minutes=1), **settings):
        self.machine = Machine()
        self.machine.host(pressure=Pressure())
        self.every = every
        self.settings = MemoryMonitoring(every=every, **settings)
        self.memory = PressureMemory()
        self.now = START

    def look(self, times=1):
        for _ in range(times):
            reading = pressure.read(self.settings, self.machine, self.memory)
            (event,), memory = pressure.judge(self.settings, reading, self.memory, self.now)
            self.memory = PressureMemory.model_validate_json(memory.model_dump_json(exclude_defaults=True))
            assert self.memory == memory
            self.now += self.every
        return event

    def share(self, percent, times=2, full10=0.0):
        self.machine.host(available=int(TOTAL * percent / 100), pressure=Pressure(full10=full10))
        return self.look(times)


@pytest.fixture
def watch():
    return Watch()


def test_a_host_with_room_is_ok_and_told_with_its_figures(watch):
    watch.machine.host(
        available=12 * GIB, swap_total=2 * GIB, swap_free=GIB, unreclaimable=100 * MIB, out_of_memory_kills=4,
        pressure=Pressure(some10=3, full10=2, full60=1),
    )  # fmt: skip
    event = watch.look()
    assert (event.target, event.level, event.findings, event.guard) == ("host:memory", Level.OK, (), "")
    assert (event.total, event.available, event.swap_total, event.swap_free) == (TOTAL, 12 * GIB, 2 * GIB, GIB)
    assert (event.some10, event.full10, event.full60) == (3, 2, 1)
    assert (event.unreclaimable, event.out_of_memory_kills, event.recent_kills) == (100 * MIB, 4, 0)
    assert event.reason == (
        "12.0 GiB of 16.0 GiB are available, 75.0 %; for 2 % of ten seconds every task waited for memory"
    )


@pytest.mark.parametrize(
    ("percent", "full10", "level"),
    [
        (50, 0, "ok"),
        (10.1, 0, "ok"),
        (9.9, 0, "warning"),
        (5.1, 0, "warning"),
        (4.9, 0, "critical"),
        (50, 19, "ok"),
        (50, 20, "warning"),
        (50, 50, "critical"),
        (9, 60, "critical"),
        (4, 20, "critical"),
    ],
)
def test_levels_follow_the_settings(watch, percent, full10, level):
    assert watch.share(percent, full10=full10).level == level


def test_the_reason_names_the_limit(watch):
    assert watch.share(9).reason.endswith("1.4 GiB of 16.0 GiB are available, 9.0 %; for 0 % of ten seconds"
                                          " every task waited for memory; warning is below 10 % available")  # fmt: skip
    assert watch.share(50, full10=60).reason.endswith("; critical is from 50 % on")


def test_a_worse_level_needs_a_second_sample_and_says_so_meanwhile(watch):
    watch.share(50)
    event = watch.share(4, times=1)
    assert event.level is Level.OK
    assert event.reason.endswith("critical is believed after 2 samples in a row, this is number 1")
    assert watch.share(4, times=1).level is Level.CRITICAL


@pytest.mark.parametrize(
    ("percent", "level"), [(5.5, "critical"), (6.1, "warning"), (11.9, "warning"), (12.1, "ok"), (50, "ok")]
)
def test_a_level_is_left_a_fifth_above_where_it_was_entered(watch, percent, level):
    watch.share(4)
    event = watch.share(percent)
    assert event.level == level
    if percent in {5.5, 11.9}:
        assert event.reason.endswith(f"; it stays {level} until it is clear of where that began")


def test_pressure_is_left_a_fifth_below_as_well(watch):
    watch.share(50, full10=21)
    assert watch.share(50, full10=17).level is Level.WARNING
    assert watch.share(50, full10=16).level is Level.OK


@given(st.floats(0, 100), st.floats(0, 100), st.floats(0, 100))
def test_a_host_that_stays_settles_on_one_level(before, percent, full10):
    watch = Watch()
    watch.share(before)
    settled = watch.share(percent, times=4, full10=full10).level
    assert watch.look().level is settled


def test_a_kill_is_told_for_a_quarter_of_an_hour_with_the_unit_that_was_killed(watch):
    watch.machine.host(out_of_memory_kills=7)
    watch.machine.unit("app.service")
    watch.machine.unit("old.service")
    watch.look()
    watch.machine.host(out_of_memory_kills=9)
    watch.machine.stop("app.service", active="failed", result="oom-kill", inactive_since=monotonic())
    watch.machine.stop("old.service", active="failed", result="oom-kill", inactive_since=monotonic() - 86400)
    event = watch.look()
    assert (event.level, event.recent_kills, event.out_of_memory_kills) == (Level.OK, 2, 9)
    assert event.findings == ("2 processes killed for lack of memory since 12:01 UTC; units that were: app.service",)
    assert watch.look(14).recent_kills == 2
    event = watch.look()
    assert (event.recent_kills, event.findings) == (0, ())


def test_a_kill_that_no_unit_has_is_told_without_one(watch):
    watch.machine.host(out_of_memory_kills=0)
    watch.look()
    watch.machine.host(out_of_memory_kills=1)
    watch.machine.broken = {"services": "systemd does not run"}
    (finding,) = watch.look().findings
    assert finding == (
        "1 process killed for lack of memory since 12:01 UTC;"
        " no unit that is down says it was its own, journalctl -k tells which it was"
    )


def test_only_some_of_many_units_are_named(watch):
    watch.machine.host(out_of_memory_kills=0)
    watch.look()
    for number in range(8):
        watch.machine.unit(f"{number}.service")
        watch.machine.stop(f"{number}.service", active="failed", result="oom-kill")
    watch.machine.host(out_of_memory_kills=8)
    (finding,) = watch.look().findings
    assert finding.endswith("units that were: 0.service, 1.service, 2.service, 3.service, 4.service, 3 more")


def test_kills_are_counted_from_zero_after_a_boot_and_not_at_all_at_first(watch):
    watch.machine.host(out_of_memory_kills=5)
    assert watch.look().recent_kills == 0
    watch.machine.host(out_of_memory_kills=1)
    assert watch.look().recent_kills == 1
    watch.machine.host(out_of_memory_kills=None)
    assert watch.look().recent_kills == 1


def test_units_are_asked_for_only_after_a_kill(watch):
    watch.machine.host(out_of_memory_kills=0)
    asked = []
    watch.machine.after_list = [lambda: asked.append(True)]
    watch.look(5)
    assert asked == []


@pytest.mark.parametrize(("free", "told"), [(GIB, False), (300 * MIB, False), (150 * MIB, True), (0, True)])
def test_a_nearly_full_swap_is_told_and_no_swap_is_not(watch, free, told):
    watch.machine.host(swap_total=2 * GIB, swap_free=free)
    findings = watch.look().findings
    assert bool(findings) is told
    assert all(finding.startswith("swap is nearly full: ") for finding in findings)
    watch.machine.host(swap_total=0, swap_free=0)
    assert watch.look().findings == ()


def test_kernel_memory_that_grows_for_days_is_told_and_raises_no_level():
    watch = Watch(every=timedelta(minutes=10))
    for number in range(6 * 60):
        watch.machine.host(unreclaimable=(200 + number) * MIB)
        event = watch.look()
    assert event.level is Level.OK
    (finding,) = event.findings
    assert finding.startswith(
        "the kernel's own memory that no pressure frees (SUnreclaim) has grown by 6.0 MiB an hour"
    )
    assert finding.endswith("to 559 MiB: no service is to blame; slabtop tells which cache it is")


def test_another_program_that_ends_processes_is_named(watch):
    watch.machine.process(5, "earlyoom", MIB)
    event = watch.look()
    assert (event.guard, event.findings) == ("earlyoom", ("earlyoom ends processes here when memory runs out",))
    watch.machine.broken = {"named": "read /proc: permission denied"}
    event = watch.look()
    assert event.guard == ""
    assert event.findings == (
        "whether another program ends processes when memory runs out is not known: read /proc: permission denied",
    )


def test_a_kernel_without_pressure_information_is_judged_by_what_is_available(watch):
    watch.machine.host(available=GIB // 2, pressure=None)
    event = watch.look(2)
    assert (event.level, event.some10, event.full10) == (Level.CRITICAL, None, None)
    assert event.findings == ("this kernel has no pressure stall information: how long tasks wait is not known",)


def test_memory_that_cannot_be_read_is_unknown(watch):
    watch.machine.broken = {"host": "read /proc/meminfo: no such file"}
    with pytest.raises(ProbeError):
        watch.look()
    event = pressure.unknown(watch.memory, "host:memory", "read /proc/meminfo: no such file", START)
    assert (event.level, event.total, event.reason) == (Level.UNKNOWN, None, "read /proc/meminfo: no such file")


async def test_a_host_that_can_be_read_again_says_farewell_to_the_collectors_own_target():
    machine, outlet = Machine(), FakeOutlet()
    machine.broken = {"host": "no /proc"}
    run = CollectorRun(COLLECTOR, MemoryMonitoring(), machine, outlet, "web-1", clock=FakeClock())
    await run.look()
    assert [(event.target, event.level) for event in outlet.take()] == [("collector:memory.pressure", Level.UNKNOWN)]
    machine.broken = {}
    await run.look()
    assert {(event.target, event.level) for event in outlet.take()} == {
        ("host:memory", Level.OK), ("collector:memory.pressure", Level.OK),
    }  # fmt: skip
