"""The wall clock is trusted as long as it goes with the steady one; a new time is accepted once it has held."""

from datetime import timedelta

import pytest

from functions.core.steadiness import Steadiness
from tests.functions.core.tank import HandClock

TOLERANCE, HOLD, DAY = timedelta(minutes=5), timedelta(minutes=15), timedelta(days=1)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def off(clock):
    """By how many minutes it is found to be off."""
    steadiness = Steadiness(clock)
    return lambda: round(steadiness.jump(clock.now(), TOLERANCE, HOLD) / timedelta(minutes=1))


def test_time_that_passes_is_no_jump(clock, off):
    clock.advance(timedelta(days=400))

    assert off() == 0


@pytest.mark.parametrize("by", [5, -5, 1])
def test_a_small_correction_is_none_either(clock, off, by):
    clock.jump(timedelta(minutes=by) * 0.999)

    assert off() == 0


@pytest.mark.parametrize("by", [DAY, -DAY, TOLERANCE * 1.01])
def test_a_jump_holds_until_its_time_is_over(clock, off, by):
    clock.jump(by)

    assert off() == round(by / timedelta(minutes=1))
    clock.advance(HOLD * 0.99)
    assert off() == round(by / timedelta(minutes=1))
    clock.advance(HOLD * 0.02)
    assert off() == 0


def test_the_accepted_time_is_the_one_that_the_next_jump_is_measured_from(clock, off):
    clock.jump(DAY)
    off()
    clock.advance(HOLD)
    assert off() == 0

    clock.jump(-DAY)

    assert off() == -24 * 60


def test_a_clock_that_is_back_is_trusted_at_once(clock, off):
    clock.jump(DAY)
    assert off()

    clock.jump(-DAY)

    assert off() == 0


def test_a_second_jump_begins_to_hold_anew(clock, off):
    clock.jump(DAY)
    off()
    clock.advance(HOLD * 0.9)
    clock.jump(DAY)

    assert off() == 2 * 24 * 60
    clock.advance(HOLD * 0.9)
    assert off() == 2 * 24 * 60
    clock.advance(HOLD * 0.2)
    assert off() == 0


def test_many_small_corrections_add_up(clock, off):
    for _ in range(6):
        clock.jump(timedelta(minutes=1))
        clock.advance(timedelta(hours=1))

    assert off() == 6
