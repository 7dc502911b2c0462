"""Growth, told robustly."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.core.trend import Window, theil_sen
from tests.fakes import START

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def line(slope, count=20, start=1_000, step=60):
    return tuple((1e9 + index * step, start + slope * index * step) for index in range(count))


@given(st.integers(-1_000_000, 1_000_000), st.integers(10, 60), st.integers(0, 10**15))
def test_an_exact_line_gives_its_exact_slope(slope, count, start):
    assert theil_sen(line(slope, count, start)) == pytest.approx(slope)


@given(st.integers(-1000, 1000), st.sets(st.integers(0, 19), max_size=4), st.integers(-(10**9), 10**9))
def test_one_sample_in_five_may_be_anything(slope, positions, outlier):
    samples = [(moment, outlier if index in positions else value) for index, (moment, value) in enumerate(line(slope))]
    clean = [index for index in range(20) if index not in positions]
    assert len(clean) >= 16
    assert theil_sen(tuple(samples)) == pytest.approx(slope, abs=abs(slope) * 0.5 + 10**9 / 60) or not positions


def test_a_single_spike_does_not_move_the_slope_at_all():
    samples = list(line(7))
    samples[5] = (samples[5][0], 10**12)
    assert theil_sen(tuple(samples)) == 7


def test_a_flat_figure_has_slope_zero():
    assert theil_sen(line(0)) == 0


@pytest.mark.parametrize(("count", "step"), [(9, 60), (20, 10), (0, 60)])
def test_few_samples_or_a_short_time_tell_nothing(count, step):
    assert theil_sen(line(5, count=count, step=step)) is None


def fill(window, minutes, start=0, span=HOUR, spacing=MINUTE):
    for minute in range(start, start + minutes):
        window = window.add(START + minute * MINUTE, minute * 600, span=span, spacing=spacing)
    return window


def test_a_window_keeps_its_span_and_no_more():
    window = fill(Window(), 500)
    assert len(window.samples) == 61
    assert window.slope == pytest.approx(10)


def test_a_sample_that_comes_too_soon_is_left_out():
    window = fill(Window(), 10)
    assert window.add(START + 9.5 * MINUTE, 10**9, span=HOUR, spacing=MINUTE) is window


def test_after_a_pause_longer_than_the_span_the_window_begins_anew():
    window = fill(fill(Window(), 30), 1, start=300)
    assert len(window.samples) == 1
    assert window.slope is None


def test_samples_from_the_future_are_forgotten_when_the_clock_was_set_back():
    window = fill(Window(), 30).add(START - timedelta(days=1), 5, span=HOUR, spacing=MINUTE)
    assert [value for _, value in window.samples] == [5]


def test_what_is_written_is_read_back_alike():
    window = fill(Window(), 30)
    assert Window.model_validate_json(window.model_dump_json()) == window
