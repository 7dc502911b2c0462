"""How services are judged whose memory grows: over simulated days, over restarts, and against their limit."""

from datetime import timedelta
from itertools import pairwise
from math import exp
from random import Random

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from collectors.core.run import CollectorRun
from collectors.memory import growth, instances, trend
from collectors.memory.series import Series
from collectors.memory.trend import COLLECTOR, TrendMemory, sparkline
from schemas.facts.cgroups import Pressure
from schemas.facts.memory import Detector, Trend
from schemas.health import Level
from schemas.settings.memory import MemoryMonitoring
from tests.collectors.memory.machine import MIB, Machine
from tests.collectors.memory.traces import leak, sampled, sawtooth, warm_up
from tests.fakes import GIB, START, FakeClock, FakeOutlet

MINUTE, TEN, HOUR = timedelta(minutes=1), timedelta(minutes=10), timedelta(hours=1)
APP = "unit:app.service"
LIMIT = 1000 * MIB


class Watch:
    """Looks at a machine again and again, as the loop does; its memory is written out and read back now and then."""

    def __init__(self, every=MINUTE, forgetful=50, **settings):
        self.machine = Machine()
        self.every = every
        self.settings = MemoryMonitoring(every=every, **settings)
        self.memory = TrendMemory()
        self.now = START
        self.looks = 0
        self._forgetful = forgetful

    def look(self, times=1):
        for _ in range(times):
            reading = trend.read(self.settings, self.machine, self.memory)
            events, self.memory = trend.judge(self.settings, reading, self.memory, self.now)
            self.now += self.every
            self.looks += 1
            if self.looks % self._forgetful == 0:
                self.restart()
        return {event.target: event for event in events}

    def restart(self):
        written = self.memory.model_dump_json(exclude_defaults=True)
        again = TrendMemory.model_validate_json(written)
        assert again == self.memory
        self.memory = again

    def app(self, held, **values):
        """One look at app.service, which holds so much."""
        self.machine.unit(held=held, **values)
        return self.look()[APP]

    def follow(self, level, hours, seed=1, **values):
        """Every event about app.service while it goes as *level* says, until it is full."""
        for when, value in sampled(level, Random(seed), hours, self.every):
            if value >= values.get("limit", 10**15):
                return
            self.now = when
            yield self.app(value, **values)


@pytest.fixture
def watch():
    return Watch()


def steps(events):
    """The levels in their order, each once."""
    levels = [event.level for event in events]
    return levels[:1] + [after for before, after in pairwise(levels) if after is not before]


def test_the_first_sample_is_told_with_all_its_figures(watch):
    event = watch.app(100 * MIB, cache=20 * MIB, limit=LIMIT, invocation="abc", out_of_memory_kills=2)
    assert (event.level, event.trend, event.instance) == (Level.OK, Trend.LEARNING, "abc")
    assert (event.held, event.working_set, event.limit) == (100 * MIB, 120 * MIB, LIMIT)
    assert (event.limit_at, event.series_since, event.observed_at) == ("/system.slice/app.service", START, START)
    assert (event.sparkline, event.out_of_memory_kills, event.findings) == ((100 * MIB,), 2, ())
    assert event.reason == "app.service holds 100 MiB; 0.0 s of samples are too few to tell a leak"


def test_a_service_that_stays_is_steady_after_two_days():
    watch = Watch(every=TEN)
    *_, event = watch.follow(lambda hour: 800, 48)
    assert (event.level, event.trend) == (Level.OK, Trend.STEADY)
    assert event.reason == "app.service holds 800 MiB, and no leak is seen in 1 d 22 h"


def test_a_slow_leak_is_a_warning_within_three_days_and_says_how_fast():
    watch = Watch(every=TEN)
    events = list(watch.follow(leak(Random(1), rate=10, deviation=0), 72))
    assert steps(events) == [Level.OK, Level.WARNING]
    last = events[-1]
    assert (last.trend, last.detector, last.limit_at) == (Trend.GROWING, Detector.SLOW, "host")
    assert last.per_hour == pytest.approx(10 * MIB, rel=0.1)
    assert last.per_hour_low <= last.per_hour <= last.per_hour_high
    assert last.reason.startswith("app.service holds 1.5 GiB and grows by 10.0 MiB an hour for 1 d 23 h")
    assert "towards the end of the host's memory, at 13.5 GiB, there in" in last.reason
    assert last.reason.endswith(" 51 d 4 h")


@pytest.mark.parametrize("minutes", [60, 120, 300])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_leak_is_a_warning_then_critical_before_the_limit(minutes, seed):
    watch = Watch()
    events = list(watch.follow(leak(Random(seed), 900 * 60 / minutes, 100, 3), minutes / 60 + 1, seed, limit=LIMIT))
    assert steps(events) == [Level.OK, Level.WARNING, Level.CRITICAL]
    warned = next(event for event in events if event.level is Level.WARNING)
    critical = next(event for event in events if event.level is Level.CRITICAL)
    assert warned.trend is Trend.EXHAUSTING
    assert warned.working_set > 0.8 * LIMIT
    pace = 900 * MIB / (minutes * 60)
    assert 120 < (LIMIT - critical.working_set) / pace < max(600, 0.05 * LIMIT / pace)
    assert "that is within act_within 10 min" in critical.reason or "at or above act_percent 95 %" in critical.reason


@pytest.mark.parametrize("period", [1 / 20, 1 / 3, 3])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_sawtooth_is_never_above_ok(period, seed):
    watch = Watch()
    events = watch.follow(sawtooth(Random(seed), period, 300, 600), 8, seed, limit=LIMIT)
    assert steps(events) == [Level.OK]


@pytest.mark.parametrize("tau", [3, 15, 60, 300])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_warm_up_to_a_plateau_is_never_above_ok(tau, seed):
    watch = Watch()
    events = watch.follow(warm_up(Random(seed), tau / 60, 100, 750), 8, seed, limit=LIMIT)
    assert steps(events) == [Level.OK]


def test_days_of_a_sawtooth_and_of_a_warm_up_are_never_above_ok():
    for level in (sawtooth(Random(1), 10), warm_up(Random(1), 12)):
        assert steps(Watch(every=TEN).follow(level, 72)) == [Level.OK]


def test_a_restart_begins_a_new_series_and_the_level_with_it():
    watch = Watch(every=TEN)
    *_, before = watch.follow(leak(Random(1), rate=10), 72)
    after = watch.app(200 * MIB, invocation="2")
    assert (before.level, before.instance) == (Level.WARNING, "1")
    assert (after.level, after.instance, after.trend) == (Level.OK, "2", Trend.LEARNING)
    assert abs(after.series_since - after.observed_at) < timedelta(seconds=1)
    assert after.sparkline == (200 * MIB,)


def test_growth_to_where_the_last_three_runs_stood_is_no_leak():
    watch = Watch(every=TEN)
    for run in range(3):
        began = watch.now
        for when, value in sampled(leak(Random(run), rate=0, base=1500), Random(run), 48, TEN):
            watch.now = began + (when - START)
            event = watch.app(value, invocation=str(run))
        assert event.trend is Trend.STEADY
        watch.now += TEN
    began = watch.now
    for when, value in sampled(leak(Random(9), rate=10, base=700), Random(9), 72, TEN):
        watch.now = began + (when - START)
        event = watch.app(value, invocation="last")
        assert event.level is Level.OK
    assert any("its normal size" in finding for finding in event.findings)


def test_what_stopped_is_no_target_and_is_forgotten_after_a_day(watch):
    watch.app(100 * MIB)
    watch.machine.stop()
    assert watch.look() == {}
    assert APP in watch.memory.targets
    watch.now += timedelta(hours=25)
    watch.look()
    assert watch.memory.targets == {}


def test_systemd_that_is_silent_does_not_bring_back_what_stopped(watch):
    watch.app(100 * MIB)
    watch.machine.unit("other.service", MIB)
    watch.look()
    watch.machine.stop()
    watch.look()
    watch.machine.broken = {"services": "systemctl does not answer"}
    events = watch.look()
    assert set(events) == {"unit:other.service"}
    event = events["unit:other.service"]
    assert (event.level, event.held, event.instance) == (Level.UNKNOWN, None, "1")
    assert event.reason == "unit:other.service can't be read: systemctl does not answer"


def test_one_that_cannot_be_read_is_unknown_and_its_series_goes_on():
    watch = Watch(every=TEN)
    *_, before = watch.follow(leak(Random(1), rate=10), 72)
    watch.machine.broken = {"/system.slice/app.service": "broken"}
    assert watch.look()[APP].level is Level.UNKNOWN
    watch.machine.broken = {}
    after = watch.app(1500 * MIB)
    assert (after.level, after.series_since) == (Level.WARNING, before.series_since)


def test_a_pause_begins_the_series_anew(watch):
    watch.app(100 * MIB)
    watch.now += HOUR
    assert watch.app(100 * MIB).series_since == watch.now - MINUTE


def test_a_collector_that_is_killed_forgets_no_more_than_it_had_not_saved(watch):
    watch.app(100 * MIB)
    watch.now += timedelta(minutes=7)  # the last save, a crash, a start
    watch.restart()
    assert watch.app(100 * MIB).series_since == START


def stalled(waited, used=500):
    return {"high": 500 * MIB, "usage": used * MIB, "pressure": Pressure(full60=waited)}


def test_a_service_that_its_high_strangles_is_a_warning_though_it_does_not_grow(watch):
    watch.app(490 * MIB, **stalled(0))
    first, second = (watch.app(490 * MIB, **stalled(60)) for _ in range(2))
    assert (first.level, first.strangled) == (Level.OK, True)
    assert (second.level, second.strangled, second.trend) == (Level.WARNING, True, Trend.LEARNING)
    told = "its MemoryHigh of 500 MiB strangles it: all of its tasks waited for memory in 60 % of a minute"
    assert told in second.reason
    assert second.findings == (f"{told}; it neither dies nor does its work: raise or lift that limit",)


def test_it_is_strangled_until_it_clearly_waits_less(watch):
    for waited in (60, 60, 39, 45, 27):
        assert watch.app(490 * MIB, **stalled(waited)).strangled
    event = watch.app(490 * MIB, **stalled(26))
    assert (event.level, event.strangled, event.findings) == (Level.OK, False, ())


@pytest.mark.parametrize("group", [stalled(39), stalled(90, 480), {**stalled(90), "high": None}])
def test_who_waits_for_memory_for_another_reason_is_not_strangled(watch, group):
    for _ in range(3):
        assert watch.app(450 * MIB, **group).level is Level.OK


def test_one_for_which_no_time_was_left_is_as_it_was_read_last(monkeypatch):
    watch = Watch(every=TEN)
    *_, before = watch.follow(leak(Random(1), rate=10), 72)
    monkeypatch.setattr(instances, "READ_SHARE", 0.0)
    event = watch.look()[APP]
    assert (event.level, event.trend, event.instance) == (Level.WARNING, Trend.GROWING, "1")
    assert (event.observed_at, event.held, event.per_hour) == (before.observed_at, before.held, before.per_hour)
    assert "was read last; no time was left" in event.reason
    event = watch.look()[APP]
    assert event.level is Level.UNKNOWN
    assert watch.memory.targets[APP].sampled_at == before.observed_at


def test_lines_through_hourly_minima_are_fitted_once_an_hour():
    watch = Watch()
    for when, value in sampled(leak(Random(1), rate=10), Random(1), 60, TEN):
        watch.now, watch.settings = when, watch.settings.model_copy(update={"every": TEN})
        watch.app(value)
    growth._fit_hourly.cache_clear()
    watch.settings, watch.now = watch.settings.model_copy(update={"every": MINUTE}), watch.now + MINUTE
    for _ in range(180):
        watch.app(1400 * MIB)
    assert growth._fit_hourly.cache_info().misses <= 2 * 4


def test_three_hundred_services_that_start_at_once_are_no_leak():
    """They warm up together: for each of them what all others take looks like an end that comes near."""
    watch, count = Watch(forgetful=1000), 300
    taus, sizes = ([Random(seed).uniform(*span) for seed in range(count)] for span in ((1, 60), (20, 80)))
    for minute in range(75):
        held = [size * (1 - exp(-minute / tau)) * MIB for size, tau in zip(sizes, taus, strict=True)]
        for number, each in enumerate(held):
            watch.machine.unit(f"app{number}.service", int(each))
        watch.machine.host(available=int(16 * GIB - sum(held)))
        assert {event.level for event in watch.look().values()} == {Level.OK}


def test_a_kill_for_lack_of_memory_is_a_warning_for_a_quarter_of_an_hour(watch):
    watch.app(100 * MIB, out_of_memory_kills=3)
    event = watch.app(50 * MIB, out_of_memory_kills=5)
    assert (event.level, event.trend, event.out_of_memory_kills) == (Level.WARNING, Trend.LEARNING, 5)
    assert event.findings == ("2 of its processes were killed for lack of memory at 12:01 UTC",)
    assert event.reason.endswith(event.findings[0])
    assert watch.look(14)[APP].level is Level.WARNING
    event = watch.look()[APP]
    assert (event.level, event.findings) == (Level.OK, ())


def test_kills_of_before_the_first_sample_are_no_news(watch):
    assert watch.app(100 * MIB, out_of_memory_kills=3).level is Level.OK


def test_a_counter_that_begins_anew_counts_from_zero(watch):
    watch.app(100 * MIB, out_of_memory_kills=3)
    assert watch.app(100 * MIB, out_of_memory_kills=0, invocation="2").level is Level.OK
    assert watch.app(100 * MIB, out_of_memory_kills=1, invocation="3").level is Level.WARNING


def test_a_kill_with_restart_no_says_that_nothing_starts_it_again(watch):
    watch.app(100 * MIB, restart_policy="no")
    event = watch.app(100 * MIB, restart_policy="no", out_of_memory_kills=1)
    assert event.findings[1] == (
        "nothing starts app.service again when the kernel kills it; see its restart policy"
    )  # fmt: skip


def test_a_unit_that_was_killed_and_stays_down_is_a_warning_for_a_day(watch):
    watch.app(100 * MIB, restart_policy="no")
    watch.app(900 * MIB, restart_policy="no")
    watch.machine.stop(active="failed", result="oom-kill")
    event = watch.look()[APP]
    assert (event.level, event.instance, event.held) == (Level.WARNING, "1", None)
    assert event.reason == (
        "app.service was ended for lack of memory (oom-kill) and does not run; it held 900 MiB when it was last seen"
    )
    assert event.findings == ("nothing starts app.service again: its restart policy leaves it down",)
    assert event.sparkline == (100 * MIB, 900 * MIB)
    watch.now += timedelta(hours=20)
    assert watch.look()[APP].level is Level.WARNING
    watch.now += timedelta(hours=5)
    assert watch.look() == {}


def test_a_killed_unit_that_was_started_again_stays_a_warning_for_a_while(watch):
    watch.app(900 * MIB)
    watch.machine.stop(active="activating", sub="auto-restart", result="oom-kill")
    watch.look(3)
    event = watch.app(100 * MIB, invocation="2")
    assert (event.level, event.instance) == (Level.WARNING, "2")
    assert event.findings == ("1 of its processes was killed for lack of memory at 12:01 UTC",)
    assert watch.look(20)[APP].level is Level.OK


def test_growth_in_shared_memory_is_told_as_what_a_restart_does_not_free():
    watch = Watch(every=TEN)
    for when, value in sampled(leak(Random(1), rate=10), Random(1), 60, TEN):
        watch.now = when
        event = watch.app(value, shared=value - 700 * MIB)
    assert event.trend is Trend.GROWING
    (finding,) = event.findings
    assert "of the growth is shared memory or files in tmpfs" in finding


def test_a_level_is_left_when_growth_is_clearly_less_and_says_so_meanwhile():
    watch = Watch(every=TEN)
    *_, event = watch.follow(leak(Random(1), rate=10, deviation=1), 60)
    assert event.level is Level.WARNING
    said = []
    for _ in range(6 * 48):
        event = watch.app(1400 * MIB)
        said.append((event.level, event.trend))
        if event.level is Level.WARNING and event.trend is Trend.STEADY:
            assert event.reason.endswith("; it stays warning until it clearly grows less")
    assert said[-1] == (Level.OK, Trend.STEADY)
    assert (Level.WARNING, Trend.STEADY) in said
    assert steps([type("Said", (), {"level": level}) for level, _ in said]) == [Level.WARNING, Level.OK]


def test_a_growing_service_near_its_limit_is_critical_at_any_pace():
    watch = Watch(every=TEN)
    events = list(watch.follow(leak(Random(1), rate=5, base=650, deviation=1), 72, limit=LIMIT))
    assert steps(events) == [Level.OK, Level.WARNING, Level.CRITICAL]
    critical = next(event for event in events if event.level is Level.CRITICAL)
    assert critical.working_set >= 0.95 * LIMIT
    assert critical.seconds_to_limit > 3600
    assert "MiB are in use, 95 % of it, at or above act_percent 95 %" in critical.reason


def test_a_critical_level_needs_a_second_sample(watch):
    for event in watch.follow(leak(Random(3), 900, 100, 1), 2, limit=LIMIT):
        if "critical is believed" in event.reason:
            assert event.level is Level.WARNING
            assert event.reason.endswith("critical is believed after 2 samples in a row, this is number 1")
            return
    raise AssertionError("it never became critical")


def test_the_detectors_follow_the_settings():
    leaking = leak(Random(1), rate=10)
    assert steps(Watch(every=TEN, minimum_growth="10G").follow(leaking, 72)) == [Level.OK]
    assert steps(Watch(every=TEN, minimum_growth_percent=90).follow(leaking, 72)) == [Level.OK]
    quick = {"alert_within": "5 min", "act_within": "1 min", "act_percent": 100}
    events = list(Watch(**quick).follow(leak(Random(1), 900, 100, 3), 2, limit=LIMIT))
    assert next(event.working_set for event in events if event.level is not Level.OK) > 0.9 * LIMIT


def test_a_target_that_was_never_read_is_told_and_not_kept(watch):
    event = trend.unknown(TrendMemory(), "unit:x", "no answer", START)
    assert (event.target, event.level, event.instance) == ("unit:x", Level.UNKNOWN, "")
    watch.machine.unit()
    watch.machine.broken = {"/system.slice/app.service": "broken"}
    watch.machine.uncounted["/system.slice/app.service"] = (4,)
    assert watch.look()[APP].level is Level.UNKNOWN
    watch.machine.stop()
    watch.look()
    assert watch.memory.targets == {}


@examples(max_examples=60)
@given(st.integers(1, 5000), st.sampled_from([60, 600]), st.integers(0, 2**40))
def test_a_sparkline_has_at_most_sixty_points_between_the_least_and_the_most(count, every, base):
    series, dice = Series(), Random(count)
    values = [base + dice.randrange(2**30) for _ in range(count)]
    for number, value in enumerate(values):
        series = series.add(START + timedelta(seconds=number * every), value, every=timedelta(seconds=every))
    sparks = sparkline(series)
    assert 1 <= len(sparks) <= 60
    assert len(sparks) >= min(60, count, 2)
    assert min(values) <= min(sparks)
    assert max(sparks) <= max(values)


def test_a_sparkline_is_evenly_spaced_over_all_that_is_remembered():
    assert sparkline(Series()) == ()
    series = Series()
    for number in range(72 * 60):
        series = series.add(START + number * MINUTE, number * MIB)
    sparks = sparkline(series)
    assert len(sparks) == 60
    distances = [(after - before) / MIB for before, after in pairwise(sparks)]
    assert max(distances) <= 2 * 72
    assert sparks[0] < 100 * MIB
    assert sparks[-1] > 71 * 60 * 0.95 * MIB


@examples(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2 * GIB), st.booleans()), min_size=1, max_size=40))
def test_whatever_happens_there_is_one_event_for_all_that_runs(looks):
    watch = Watch(forgetful=1)
    for invocation, held, fails in looks:
        if invocation == 0:
            watch.machine.unit(held=held)
            watch.machine.stop()
        else:
            watch.machine.unit(held=held, invocation=str(invocation), limit=2 * GIB, out_of_memory_kills=invocation)
        watch.machine.broken = {"/system.slice/app.service": "broken"} if fails else {}
        events = watch.look()
        assert set(events) == ({APP} if invocation else set())
        for event in events.values():
            assert (event.level is Level.UNKNOWN) == fails
            assert event.instance in {"", "1", "2", "3"}


async def test_what_is_gone_gets_a_last_event(tmp_path):
    machine, outlet, clock = Machine(), FakeOutlet(), FakeClock()
    machine.unit()
    run = CollectorRun(COLLECTOR, MemoryMonitoring(), machine, outlet, "web-1", directory=tmp_path, clock=clock)
    await run.look()
    assert [(event.target, event.level) for event in outlet.take()] == [(APP, Level.OK)]
    machine.stop()
    await run.look()
    (event,) = outlet.take()
    assert (event.target, event.level, event.instance) == (APP, Level.UNKNOWN, "1")
    assert "is gone" in event.reason
    await run.look()
    assert outlet.take() == []
