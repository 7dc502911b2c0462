"""What is kept of a service's memory, and the line through it."""

from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.memory.series import HOURS, RECENT, Series, fit
from tests.collectors.memory import traces
from tests.fakes import START

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
HEIGHTS = st.lists(st.integers(0, 10**12), min_size=3, max_size=30)


def filled(values, every=MINUTE, start=START):
    series = Series()
    for number, value in enumerate(values):
        series = series.add(start + number * every, value, every=every)
    return series


def points(values):
    return [(3600.0 * hour, value) for hour, value in enumerate(values)]


def test_a_series_stays_small_however_long_it_runs():
    dice = Random(1)
    series = Series()
    for when, value in traces.sampled(traces.flat(dice), dice, 80, MINUTE):
        series = series.add(when, value)
    assert len(series.recent) <= RECENT / MINUTE + 1
    assert len(series.hourly) == HOURS
    assert len(series.model_dump_json()) < 5_000


def test_jitter_loses_no_sample_and_a_faster_clock_keeps_no_more():
    dice = Random(2)
    jittered = Series()
    for when, value in traces.sampled(traces.flat(dice), dice, 1, MINUTE):
        jittered = jittered.add(when, value)
    assert len(jittered.recent) == 60
    fast = Series()
    for second in range(0, 3600, 10):
        fast = fast.add(START + timedelta(seconds=second), 5)
    assert 60 <= len(fast.recent) <= 80


def test_an_hours_floor_counts_samples_that_are_too_close_to_be_kept():
    series = filled([100] * 60)
    lower = series.add(START + 59.2 * MINUTE, 40)
    assert lower.recent == series.recent
    assert lower.hourly[-1][1] == 40


@pytest.mark.parametrize("pause", [timedelta(minutes=16), timedelta(days=2), -MINUTE, -timedelta(days=2)])
def test_after_a_gap_or_with_the_clock_set_back_the_series_begins_anew(pause):
    series = filled([100] * 60)
    later = series.add(START + 59 * MINUTE + pause, 7)
    assert later.recent == ((later.began, 7),)
    assert (later.hourly, later.turned, later.age) == ((), None, 0)


def test_a_missed_sample_or_two_are_no_gap():
    series = filled([100] * 60).add(START + 63 * MINUTE, 7)
    assert len(series.recent) == 61


def test_the_first_half_hour_and_the_hour_that_is_not_over_are_no_floor():
    series = filled([1] * 30 + [100] * 60 + [90] * 60 + [2] * 10)
    assert [value for _, value in series.floors(48 * HOUR)] == [100, 90]


def test_a_fall_by_more_than_a_tenth_is_a_drop_and_its_crest_is_remembered():
    series = filled([100, 200, 300, 271, 300, 269, 350, 100])
    assert [moment - series.began for moment in series.drops()] == [300, 420]
    assert series.teeth() == (300, 120)
    assert series.turned is not None
    assert series.turned[1] == 350


def test_stretches_give_their_lowest_sample_counted_back_from_now():
    series = filled([9, 8, 7, 6, 5, 4, 3, 8])
    assert [value for _, value in series.minima(120, 3)] == [6, 4, 3]


@given(st.integers(-(10**9), 10**9), st.integers(0, 10**12), st.integers(3, 48))
def test_an_exact_line_has_its_exact_slope_and_no_doubt(slope, start, count):
    line = fit([(float(second), start + slope * second) for second in range(count)])
    assert line is not None
    assert (line.slope, line.low, line.high, line.start) == (slope, slope, slope, start)
    assert line.end == start + slope * (count - 1)


@given(HEIGHTS, st.integers(-(10**12), 10**12), st.floats(-1e9, 1e9))
def test_moving_all_values_or_all_times_moves_no_slope(values, up, later):
    line = fit(points(values))
    moved = fit([(moment + later, value + up) for moment, value in points(values)])
    assert line is not None
    assert moved is not None
    assert moved.z == pytest.approx(line.z)
    assert (moved.slope, moved.low, moved.high) == pytest.approx((line.slope, line.low, line.high), abs=1, rel=1e-5)


@given(HEIGHTS, st.integers(1, 1000))
def test_other_units_scale_the_slope_and_leave_the_certainty(values, factor):
    line, scaled = fit(points(values)), fit(points([value * factor for value in values]))
    assert line is not None
    assert scaled is not None
    assert scaled.slope == pytest.approx(line.slope * factor)
    assert scaled.z == pytest.approx(line.z)


@given(HEIGHTS)
def test_the_slope_lies_in_its_interval_and_falls_when_time_runs_backwards(values):
    line, back = fit(points(values)), fit(points(list(reversed(values))))
    assert line is not None
    assert back is not None
    assert line.low <= line.slope <= line.high
    assert back.slope == pytest.approx(-line.slope)
    assert back.z == pytest.approx(-line.z)


def test_z_and_the_interval_agree_with_figures_worked_by_hand():
    line = fit([(0.0, 10), (1.0, 15), (2.0, 15), (3.0, 14), (4.0, 20), (5.0, 22)])
    assert line is not None  # 12 pairs rise, 2 fall, 1 is level: S = 10; variance (510 - 18) / 18
    assert line.z == pytest.approx(9 / (492 / 18) ** 0.5)
    assert line.slope == pytest.approx(7 / 3)  # the eighth of the fifteen slopes
    assert (line.low, line.high) == (-0.5, 5.0)  # the second of them, and the last but one


def test_equal_values_are_no_trend_and_two_points_no_line():
    line = fit(points([5] * 20))
    assert line is not None
    assert (line.slope, line.z, line.start) == (0, 0, 5)
    assert fit(points([1, 2])) is None


def test_values_that_remember_the_one_before_make_a_trend_less_certain():
    dice = Random(3)
    noise = [dice.randrange(300) for _ in range(48)]
    fresh = fit(points([10 * hour + noise[hour] for hour in range(48)]))
    held = fit(points([10 * hour + noise[hour // 4 * 4] for hour in range(48)]))
    assert fresh is not None
    assert held is not None
    assert fresh.z > 1.3 * held.z


@given(st.lists(st.integers(0, 2**45), max_size=200))
def test_what_is_written_is_read_back_alike(values):
    series = filled(values)
    assert Series.model_validate_json(series.model_dump_json(exclude_defaults=True)) == series
