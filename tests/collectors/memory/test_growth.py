"""Leaks are told from warm-ups, waves, saws and levels; the rates are those of many seeded traces."""

from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from collectors.memory.growth import Criteria, Figures, judge, remember
from collectors.memory.series import Series
from schemas.facts.memory import Detector, Growth, Trend
from tests.collectors.memory.traces import FAST, LIMIT, MIB, SLOW, Shape, flat, leak, sampled, sawtooth, warm_up
from tests.fakes import START

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
TEN = timedelta(minutes=10)
RUNS = 15
AT_MOST = {"autocorrelated noise": 0.2, "wandering at 85 %": 0.3}
"""Share of false alarms in three days or six hours where the level itself wanders; none elsewhere."""
AT_LEAST = {
    "leak 5 MiB/h in a daily wave": 0.4,
    "to the limit in 120 min, noisy": 0.9,
    "leak under a sawtooth of 2 min": 0.2,
}
"""Share of leaks that are found where something hides them; all elsewhere."""


def hourly(shape: Shape, seed: int) -> Growth | None:
    """What is said first of a leak, with a look an hour over three days."""
    dice, series, hours = Random(f"{shape.name}{seed}"), Series(), 0
    for when, value in sampled(shape.level(dice), dice, 72, TEN):
        series = series.add(when, value, every=TEN)
        if len(series.hourly) > hours:
            hours = len(series.hourly)
            growth = judge(series, Figures(value, None))
            if growth.trend is Trend.GROWING:
                return growth
    return None


def watched(level, dice, hours=6.0, limit=LIMIT * MIB, plateaus=()):
    """(the last verdict, bytes then): a look a minute, until the memory is said to be exhausted, or is."""
    series, growth, value = Series(), None, 0
    for when, value in sampled(level, dice, hours, MINUTE):
        if value >= limit:
            break
        series = series.add(when, value)
        growth = judge(series, Figures(value, limit), before=growth, plateaus=plateaus)
        if growth.trend is Trend.EXHAUSTING:
            break
    assert growth is not None
    return growth, value


def rate(shape, flagged):
    least = 0 if not shape.leaks else AT_LEAST.get(shape.name, 1)
    most = 1 if shape.leaks is not False else AT_MOST.get(shape.name, 0)
    assert least <= flagged / RUNS <= most, f"{shape.name}: {flagged} of {RUNS} flagged"


@pytest.mark.parametrize("shape", SLOW, ids=lambda shape: shape.name)
def test_days_of_growth_are_told_from_days_of_anything_else(shape):
    rate(shape, sum(hourly(shape, seed) is not None for seed in range(RUNS)))


@pytest.mark.parametrize("shape", FAST, ids=lambda shape: shape.name)
def test_a_straight_way_to_the_limit_is_told_from_every_other_way_of_being_near_it(shape):
    said = [
        watched(shape.level(dice), dice)[0].trend for dice in (Random(f"{shape.name}{seed}") for seed in range(RUNS))
    ]
    rate(shape, said.count(Trend.EXHAUSTING))


@pytest.mark.parametrize("minutes", [45, 60, 90, 200])
def test_a_leak_is_told_well_before_its_limit(minutes):
    dice = Random(minutes)
    growth, value = watched(leak(dice, 900 * 60 / minutes, 100, 3), dice)
    assert growth.detector is Detector.FAST
    assert value < 0.93 * LIMIT * MIB
    left = (LIMIT * MIB - value) / (900 * MIB / minutes) * 60
    assert growth.seconds_to_limit == pytest.approx(left, rel=0.3)
    assert growth.seconds_to_limit > 240


def run(level, dice, hours, limit=None, every=TEN, **known):
    series, value = Series(), 0
    for when, value in sampled(level, dice, hours, every):
        series = series.add(when, value, every=every)
    return judge(series, Figures(value, limit), **known)


def test_the_slope_and_its_interval_are_told_in_bytes_an_hour():
    dice = Random(1)
    growth = run(leak(dice, 10), dice, 60)
    assert (growth.trend, growth.detector, growth.minima) == (Trend.GROWING, Detector.SLOW, 48)
    assert growth.per_hour_low < 10 * MIB < growth.per_hour_high
    assert growth.per_hour == pytest.approx(10 * MIB, rel=0.05)
    assert growth.floor_now - growth.floor_start == pytest.approx(470 * MIB, rel=0.05)
    assert growth.z > 3


def test_the_time_to_a_distant_limit_follows_from_the_slow_slope():
    dice = Random(2)
    growth = run(leak(dice, 10), dice, 60, limit=2400 * MIB)
    assert growth.seconds_to_limit == pytest.approx(100 * 3600, rel=0.1)


def test_a_young_series_is_learnt_and_never_alarms():
    dice = Random(3)
    early = run(leak(dice, 1500, 100, 2), dice, 29 / 60, limit=1000 * MIB, every=MINUTE)
    assert (early.trend, early.near) == (Trend.LEARNING, 0)
    assert run(leak(dice, 10), dice, 30).trend is Trend.LEARNING
    assert run(flat(dice), dice, 40).trend is Trend.STEADY


def test_growth_that_does_not_count_says_why():
    dice = Random(4)
    warm = run(warm_up(dice, 12), dice, 50)
    assert warm.trend is Trend.STEADY
    assert "levels off" in warm.notes[0]
    slow_saw = run(sawtooth(dice, 20 / 60, 300, 600), dice, 3, limit=1000 * MIB, every=MINUTE)
    assert "between collections" in slow_saw.notes[-1]


def test_three_samples_in_a_row_must_agree_and_one_sample_counts_once():
    series, growth, seen = Series(), None, []
    for minute in range(60):
        value = (100 + 15 * minute) * MIB
        series = series.add(START + minute * MINUTE, value)
        for _ in range(3):
            growth = judge(series, Figures(value, LIMIT * MIB), before=growth)
        seen.append((growth.near, growth.trend))
    first = seen.index((3, Trend.EXHAUSTING))
    assert [near for near, _ in seen[first - 3 : first + 2]] == [0, 1, 2, 3, 4]
    assert seen[first - 1][1] is Trend.LEARNING


def test_after_a_gap_the_count_begins_anew():
    series = Series()
    for minute in range(55):
        series = series.add(START + minute * MINUTE, (100 + 15 * minute) * MIB)
    figures = Figures(910 * MIB, LIMIT * MIB)
    before = judge(series, figures).model_copy(update={"near": 5})
    assert judge(series, figures, before=before).near == 5
    stale = before.model_copy(update={"at": START - HOUR})
    assert judge(series, figures, before=stale).near == 1


def test_the_size_at_which_three_instances_stood_is_normal():
    plateaus = ()
    for seed in range(3):
        dice = Random(seed)
        plateaus = remember(plateaus, run(flat(dice, 1290), dice, 60))
    assert plateaus == pytest.approx((1290 * MIB,) * 3, rel=0.03)
    dice = Random(9)
    growth = run(leak(dice, 10), dice, 48, plateaus=plateaus)
    assert (growth.trend, growth.known_plateau) == (Trend.STEADY, True)
    assert "its normal size" in growth.notes[-1]
    assert run(leak(dice, 10), dice, 72, plateaus=plateaus).trend is Trend.GROWING  # and went on
    assert run(leak(dice, 10), dice, 48, plateaus=plateaus[:2]).trend is Trend.GROWING
    assert run(leak(dice, 10), dice, 48, plateaus=(*plateaus[:2], 2**31)).trend is Trend.GROWING


def test_only_an_instance_that_stood_still_for_long_has_a_plateau():
    dice = Random(5)
    for ended in (run(leak(dice, 10), dice, 60), run(flat(dice), dice, 20), run(flat(dice), dice, 0.2)):
        assert remember((1, 2, 3), ended) == (1, 2, 3)
    assert len(remember((1, 2, 3), run(flat(dice), dice, 60))) == 3


def test_a_known_plateau_near_the_limit_is_no_way_to_it():
    dice = Random(6)
    assert watched(leak(dice, 900, 100, 3), dice, 50 / 60)[0].near > 0
    dice = Random(6)
    growth, _ = watched(leak(dice, 900, 100, 3), dice, 50 / 60, plateaus=(850 * MIB,) * 3)
    assert (growth.near, growth.known_plateau) == (0, True)


def test_a_series_without_a_sample_is_an_error():
    with pytest.raises(ValueError, match="without a sample"):
        judge(Series(), Figures(1, None))


def line(heights, every=TEN, start=START):
    series = Series()
    for number, height in enumerate(heights):
        series = series.add(start + number * every, height, every=every)
    return series


@given(st.integers(0, 2**45), st.integers(1, 300), st.integers(1, 2**46))
@examples(max_examples=30)
def test_a_constant_series_never_grows_however_near_the_limit(height, count, limit):
    growth = judge(line([height] * count), Figures(height, limit))
    assert growth.trend in (Trend.LEARNING, Trend.STEADY)
    assert growth.near == 0
    assert growth.seconds_to_limit is None


def wavy(dice, rate, height=500 * MIB, count=330):
    return [height + int(rate * number / 6) + dice.randrange(2 * MIB) for number in range(count)]


@given(st.integers(0, 10**6), st.integers(0, 40), st.integers(0, 40))
@examples(max_examples=20)
def test_what_grows_at_one_rate_grows_at_every_higher_one(seed, rate, more):
    slower = judge(line(wavy(Random(seed), rate * MIB)), Figures(0, None))
    faster = judge(line(wavy(Random(seed), (rate + more) * MIB)), Figures(0, None))
    assert faster.per_hour >= slower.per_hour
    assert faster.trend is Trend.GROWING or slower.trend is not Trend.GROWING


@given(st.integers(0, 10**6), st.integers(0, 20), st.integers(-(10**7), 10**7))
@examples(max_examples=20)
def test_the_verdict_does_not_depend_on_the_date(seed, rate, seconds):
    heights = wavy(Random(seed), rate * MIB)
    here = judge(line(heights), Figures(heights[-1], 2**40))
    there = judge(line(heights, start=START + timedelta(seconds=seconds)), Figures(heights[-1], 2**40))
    assert there.model_copy(update={"at": here.at}) == here


@given(st.integers(0, 10**6), st.integers(0, 20), st.integers(2, 50))
@examples(max_examples=20)
def test_the_verdict_does_not_depend_on_the_unit(seed, rate, factor):
    heights = wavy(Random(seed), rate * MIB)
    one = judge(line(heights), Figures(heights[-1], 2**40))
    other = judge(
        line([height * factor for height in heights]),
        Figures(heights[-1] * factor, factor * 2**40),
        criteria=Criteria(growth_bytes=factor * 64 * MIB),
    )
    assert (other.trend, other.z, other.minima) == (one.trend, one.z, one.minima)
    assert other.per_hour == pytest.approx(one.per_hour * factor, abs=factor)
    assert other.seconds_to_limit == pytest.approx(one.seconds_to_limit)


@given(st.integers(0, 10**6), st.integers(0, 20), st.floats(0, 0.9))
@examples(max_examples=20)
def test_a_restart_of_the_collector_changes_no_verdict(seed, rate, share):
    heights = wavy(Random(seed), rate * MIB)
    half = int(share * len(heights))
    whole, series = line(heights), Series.model_validate_json(line(heights[:half]).model_dump_json())
    for number, height in list(enumerate(heights))[half:]:
        series = series.add(START + number * TEN, height, every=TEN)
    figures = Figures(heights[-1], 2**40)
    assert series == whole
    said = judge(whole, figures)
    assert Growth.model_validate_json(said.model_dump_json()) == said
