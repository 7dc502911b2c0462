"""The clock that tests and demos run faster."""

from datetime import UTC, datetime, timedelta

import pytest

from schemas.clock import SystemClock


def test_it_tells_the_machines_time():
    before = datetime.now(UTC)

    assert before <= SystemClock().now() <= datetime.now(UTC)


async def test_a_fast_clock_runs_as_fast_in_everything_it_tells():
    """Its wall time keeps step with its steady time, or everybody would take it for a clock that was set."""
    clock = SystemClock(3600)
    wall, steady = clock.now(), clock.monotonic()

    await clock.sleep(timedelta(minutes=3))

    assert clock.now() - wall >= timedelta(minutes=3)
    passed = clock.monotonic() - steady
    assert passed == pytest.approx((clock.now() - wall).total_seconds(), abs=60)
