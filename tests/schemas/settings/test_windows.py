"""Maintenance windows open when their zone's clock says so, and last as long as they say, whatever that clock does."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.settings.windows import MaintenanceWindow

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


def window(cron: str, duration: str = "1 h", zone: str = "UTC") -> MaintenanceWindow:
    return MaintenanceWindow.model_validate({"cron": cron, "duration": duration, "zone": zone})


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def openings(window: MaintenanceWindow, begin: datetime, length: timedelta) -> list[tuple[str, timedelta]]:
    """When it was found open first, and for how long, looked at every minute."""
    found: list[tuple[str, timedelta]] = []
    before = False
    for number in range(int(length / MINUTE)):
        now = begin + number * MINUTE
        if is_open := window.open_at(now):
            if not before:
                found.append((f"{now:%H:%M}", timedelta(0)))
            found[-1] = (found[-1][0], found[-1][1] + MINUTE)
        before = is_open
    return found


def test_it_is_open_from_its_begin_and_closed_at_its_end():
    nightly = window("0 2 * * *")

    assert not nightly.open_at(at("2026-01-05 02:00") - SECOND)
    assert nightly.open_at(at("2026-01-05 02:00"))
    assert nightly.open_at(at("2026-01-05 03:00") - SECOND)
    assert not nightly.open_at(at("2026-01-05 03:00"))


def test_it_may_last_over_midnight_and_longer_than_until_the_next_begin():
    assert window("0 23 * * sun", "3 h").open_at(at("2026-01-05 01:59"))
    assert window("0 * * * *", "2 h").open_at(at("2026-01-05 01:59"))


def test_it_names_its_next_begin_also_while_it_is_open():
    nightly = window("0 2 * * *")

    assert nightly.next_after(at("2026-01-05 01:00")) == at("2026-01-05 02:00")
    assert nightly.next_after(at("2026-01-05 02:00")) == at("2026-01-06 02:00")


# Clocks go forward: Berlin on 29 March 2026 at 01:00 UTC, New York on 8 March 2026 at 07:00 UTC.
# They go back: Berlin on 25 October 2026 at 01:00 UTC, New York on 1 November 2026 at 06:00 UTC.
CHANGES = [
    ("Europe/Berlin", "30 2 * * *", "2026-03-29", [("01:00", HOUR)], "the skipped begin comes right after the gap"),
    ("Europe/Berlin", "30 1 * * *", "2026-03-29", [("00:30", HOUR)], "the gap shortens no window"),
    ("Europe/Berlin", "0 3 * * *", "2026-03-29", [("01:00", HOUR)], "the first moment after the gap"),
    ("Europe/Berlin", "30 2 * * *", "2026-10-25", [("00:30", HOUR)], "what comes twice begins once, the first time"),
    ("Europe/Berlin", "30 1 * * *", "2026-10-24", [("23:30", HOUR)], "the fold lengthens no window"),
    ("America/New_York", "30 2 * * *", "2026-03-08", [("07:00", HOUR)], "the skipped begin comes right after"),
    ("America/New_York", "30 1 * * *", "2026-03-08", [("06:30", HOUR)], "the gap shortens no window"),
    ("America/New_York", "30 1 * * *", "2026-11-01", [("05:30", HOUR)], "what comes twice begins once"),
    ("America/New_York", "0 2 * * *", "2026-11-01", [("07:00", HOUR)], "after the fold"),
]


@pytest.mark.parametrize(
    ("zone", "cron", "day", "expected"), [case[:4] for case in CHANGES], ids=[case[4] for case in CHANGES]
)
def test_a_change_of_the_clock_gives_exactly_one_window_of_full_length(zone, cron, day, expected):
    begin = at(f"{day} 00:00") if zone == "America/New_York" else at(f"{day} 00:00") - HOUR
    if day == "2026-10-24":
        begin = at("2026-10-24 20:00")

    assert openings(window(cron, zone=zone), begin, timedelta(hours=20)) == expected


def test_a_short_window_in_the_hour_that_comes_twice_is_not_open_twice():
    short = window("30 1 * * *", "10 min", "America/New_York")

    assert openings(short, at("2026-11-01 05:00"), 3 * HOUR) == [("05:30", 10 * MINUTE)]


def test_the_next_begin_never_lies_in_the_past_in_the_hour_that_comes_twice():
    short = window("30 1 * * *", "10 min", "America/New_York")

    assert short.next_after(at("2026-11-01 06:10")) == at("2026-11-02 06:30")


crons = st.sampled_from(["30 2 * * *", "0 2 * * sun", "*/20 * * * *", "15 1,2,3 * * *", "0 0 29 2 *", "0 * * * *"])
zones = st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"])
moments = st.datetimes(datetime(2024, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis wants them naive


@given(crons, zones, moments, st.integers(1, 600))
def test_a_window_is_open_exactly_when_a_begin_lies_no_longer_back_than_its_duration(cron, zone, now, minutes):
    each = window(cron, f"{minutes} min", zone)
    begin = each.next_after(now - minutes * MINUTE)

    assert begin is not None
    assert begin > now - minutes * MINUTE
    assert each.open_at(now) == (begin <= now)
    assert each.open_at(begin)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"cron": "often"}, "no cron line of five fields"),
        ({"cron": "61 * * * *"}, "no cron line"),
        ({"cron": "0 0 30 2 *"}, "no cron line"),
        ({"cron": "0 0 */31 2 1#5"}, "a date that never comes"),
        ({"cron": "0 0 2 * * sun"}, "no cron line of five fields"),
        ({"zone": "Europe/Bielefeld"}, "no time zone"),
        ({"zone": "../../etc/passwd"}, "no time zone"),
        ({"zone": ""}, "no time zone"),
        ({"duration": "8 days"}, "at most 7 days"),
        ({"duration": "0 min"}, "greater than"),
        ({"duration": 60}, "has no unit"),
    ],
)
def test_an_impossible_window_is_refused_with_a_hint(fields, complaint):
    with pytest.raises(ValidationError, match=complaint):
        MaintenanceWindow.model_validate({"cron": "0 2 * * sun", "duration": "1 h", **fields})
