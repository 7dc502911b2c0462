"""When a level is believed."""

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.core.levels import Standing, stand
from schemas.health import Level
from tests.fakes import START

OK, WARNING, CRITICAL, EMERGENCY = Level.OK, Level.WARNING, Level.CRITICAL, Level.EMERGENCY
KNOWN = [OK, WARNING, CRITICAL, EMERGENCY]
EVERY = timedelta(seconds=30)


def believed(raws, *, confirm=2, eased=None, pauses=None):
    """The levels that are believed after each sample."""
    standing, levels, now = None, [], START
    for position, raw in enumerate(raws):
        now += (pauses or {}).get(position, EVERY)
        softer = eased[position] if eased else raw
        standing = stand(standing, raw, softer, now, confirm=confirm, recent=3 * EVERY)
        levels.append(standing.level)
    return levels


@pytest.mark.parametrize(
    ("raws", "expected"),
    [
        ([WARNING], [WARNING]),
        ([OK, WARNING, WARNING], [OK, OK, WARNING]),
        ([OK, WARNING, OK, WARNING], [OK, OK, OK, OK]),
        ([OK, EMERGENCY], [OK, EMERGENCY]),
        ([OK, WARNING, CRITICAL, CRITICAL], [OK, OK, WARNING, CRITICAL]),
        ([OK, CRITICAL, WARNING, WARNING], [OK, OK, WARNING, WARNING]),
        ([CRITICAL, OK], [CRITICAL, OK]),
        ([EMERGENCY, WARNING], [EMERGENCY, WARNING]),
    ],
    ids=lambda levels: " ".join(level.value for level in levels),
)
def test_worse_is_believed_when_confirmed_better_and_emergency_at_once(raws, expected):
    assert believed(raws) == expected


def test_with_confirm_1_every_sample_is_believed():
    assert believed([OK, WARNING, CRITICAL, OK], confirm=1) == [OK, WARNING, CRITICAL, OK]


def test_a_level_is_kept_while_the_eased_limits_are_still_exceeded():
    assert believed([WARNING, OK, OK], eased=[WARNING, WARNING, OK]) == [WARNING, WARNING, OK]


def test_from_emergency_it_falls_to_what_the_eased_limits_say():
    assert believed([EMERGENCY, WARNING, OK], eased=[EMERGENCY, CRITICAL, WARNING]) == [EMERGENCY, CRITICAL, WARNING]


def test_after_a_long_pause_a_worse_sample_needs_no_confirmation():
    assert believed([OK, CRITICAL], pauses={1: timedelta(hours=2)}) == [OK, CRITICAL]


def test_a_clock_that_was_set_back_does_not_count_as_a_pause():
    assert believed([OK, CRITICAL], pauses={1: timedelta(hours=-2)}) == [OK, OK]


levels = st.sampled_from(KNOWN)


@given(st.lists(levels, max_size=5), levels, levels, st.integers(1, 4))
def test_on_a_constant_sample_the_level_settles_and_never_changes_again(past, raw, other, confirm):
    eased = max(raw, other, key=lambda level: level.rank)
    raws, softer = past + [raw] * 12, past + [eased] * 12
    seen = believed(raws, eased=softer, confirm=confirm)[len(past) :]
    changes = sum(before is not after for before, after in pairwise(seen))
    assert changes <= 2  # a milder worse level on the way at most
    assert len(set(seen[2 * confirm :])) == 1
    assert raw.rank <= seen[-1].rank <= eased.rank


@given(st.lists(levels, min_size=1, max_size=30), st.integers(1, 4))
def test_nothing_is_believed_that_is_worse_than_everything_seen(raws, confirm):
    for position, level in enumerate(believed(raws, confirm=confirm)):
        assert level.rank <= max(raw.rank for raw in raws[: position + 1])


@given(st.lists(levels, min_size=1, max_size=30), st.integers(1, 4))
def test_without_easing_the_level_is_never_worse_than_the_sample_it_was_told_with(raws, confirm):
    assert all(level.rank <= raw.rank for level, raw in zip(believed(raws, confirm=confirm), raws, strict=True))


def test_memory_from_an_older_version_is_read():
    assert Standing.model_validate_json('{"level": "ok", "at": "2026-03-01T12:00:00Z", "later": 1}').level is OK
