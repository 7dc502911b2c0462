"""Clocks that jump by a day, incidents from the future, and a change of the clock in a maintenance window."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from bus import subjects
from bus.port import Bucket
from infra.hosts.function_host import FunctionHost
from schemas.alert import AlertState
from schemas.audit import Step
from schemas.fleet import Spent
from tests.chaos.fleet_site import FUNCTION, HOST, SetClock, Site, World, draining, open_site
from tests.waiting import until

DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
COOLDOWN = 15 * MINUTE
SLOW = 0.001
"""Time passes when the test lets it pass, on a slow machine as well."""
LIMITS = {"cooldown": COOLDOWN, "max_cooldown": COOLDOWN, "max_attempts": 20}
JUMPS = pytest.mark.parametrize("by", [DAY, -DAY], ids=["a-day-on", "a-day-back"])


@pytest.fixture
async def site(tmp_path):
    async with open_site(tmp_path) as made:
        yield made


class Patient:
    """One host with one tank that needs two attempts of two actions each, and the clock of both."""

    def __init__(self, site: Site, begin: datetime | None = None, water: int = 22) -> None:
        self.site = site
        self.clock = SetClock(SLOW, begin)
        self.world = World(HOST, {"a": water}, clock=self.clock)
        self.host: FunctionHost

    async def start(self, **limits: object) -> None:
        self.host = await self.site.host(
            self.world, draining(actions=2), policy={"default": {**LIMITS, **limits}}, ack_wait=timedelta(seconds=2)
        )

    async def report(self) -> None:
        """What a collector on the same machine says, by the same clock; return when it was heard and answered."""
        await self.site.report(at=self.clock.now())
        await until(self.site.answered)

    async def refused_by_clock(self) -> bool:
        return bool(await self.site.alerts(AlertState.REFUSED, saying="refused by clock"))

    async def let_pass(self, minutes: int, enough: Callable[[], bool] = lambda: False) -> None:
        """A minute at a time, until *enough*; after each one all timers have done what was due."""
        for _ in range(minutes):
            self.clock.advance(MINUTE)
            await until(lambda: not self.clock.due)
            await until(self.idle)
            if enough():
                return

    def idle(self) -> bool:
        return not any(engine._running for engine in self.host._engines)


FIRST, SECOND = ["a from 22", "a from 19"], ["a from 16", "a from 13"]


@JUMPS
async def test_a_jump_while_an_incident_waits_stops_it_until_the_new_time_has_held_for_a_cooldown(site, by):
    patient = Patient(site)
    await patient.start()
    await patient.report()
    await until(lambda: site.records(Step.UNHEALED))

    patient.clock.jump(by)
    await patient.report()
    await until(patient.refused_by_clock)
    await patient.let_pass(14)
    assert patient.world.done == FIRST, "neither has the cooldown passed, nor can the clock be trusted"

    await patient.let_pass(40, lambda: len(patient.world.done) == 4)
    await until(lambda: site.records(Step.HEALED))

    assert patient.world.done == FIRST + SECOND
    assert len(await site.alerts(AlertState.REFUSED, saying="refused by clock")) == 1
    assert (await site.verified()).problems == ()


@JUMPS
async def test_a_jump_between_two_actions_lets_no_other_attempt_come_early(site, by):
    patient = Patient(site)
    patient.world.during = lambda name: patient.clock.jump(by) if name == FIRST[0] else None
    await patient.start()
    await patient.report()
    await until(lambda: site.records(Step.UNHEALED))

    await patient.report()
    await until(patient.refused_by_clock)
    await patient.let_pass(14)
    assert patient.world.done == FIRST

    await patient.let_pass(40, lambda: len(patient.world.done) == 4)
    await until(lambda: site.records(Step.HEALED))

    assert patient.world.done == FIRST + SECOND
    assert len(await site.alerts(AlertState.REFUSED, saying="refused by clock")) == 1


@JUMPS
async def test_a_clock_that_comes_back_lets_it_go_on_when_the_cooldown_is_over_and_not_before(site, by):
    patient = Patient(site)
    await patient.start()
    await patient.report()
    await until(lambda: site.records(Step.UNHEALED))
    patient.clock.jump(by)
    await patient.report()
    await until(patient.refused_by_clock)
    await patient.let_pass(3)

    patient.clock.jump(-by)
    await patient.let_pass(10)
    assert patient.world.done == FIRST, "thirteen minutes of fifteen have passed"

    await patient.let_pass(20, lambda: len(patient.world.done) == 4)
    await until(lambda: site.records(Step.HEALED))

    assert patient.world.done == FIRST + SECOND
    assert len(await site.alerts(AlertState.REFUSED, saying="refused by clock")) == 1


async def test_an_incident_that_a_clock_a_day_ahead_wrote_is_taken_over_with_its_waits_begun_anew(site):
    ahead = Patient(site, begin=datetime.now(UTC) + DAY)
    await ahead.start()
    await ahead.report()
    await until(lambda: site.records(Step.UNHEALED))
    await ahead.host.stop()

    right = Patient(site, water=ahead.world.water["a"])
    await right.start()
    await until(lambda: site.records(Step.DEFERRED, rule="cooldown"))
    await right.let_pass(14)
    assert right.world.done == []

    await right.let_pass(20, lambda: len(right.world.done) == 2)
    await until(lambda: site.records(Step.HEALED))

    assert right.world.done == SECOND
    assert len({incident.id for incident in await site.incidents()}) == 1
    assert (await site.verified()).problems == ()


async def test_what_a_clock_a_day_ahead_spent_of_the_budget_blocks_nobody_for_a_day(site):
    ahead = Patient(site, begin=datetime.now(UTC) + DAY)
    budget = {"budget": {"per_function": 1, "per_host": 1, "irreversible": 5}}
    await ahead.start(**budget)
    await ahead.report()
    await until(lambda: site.records(Step.UNHEALED))
    await ahead.host.stop()
    entry = await (await site.bucket(Bucket.FLEET)).get(subjects.spent_key(HOST))
    assert entry is not None
    assert Spent.model_validate_json(entry.value).attempts[FUNCTION]

    right = Patient(site, water=25)
    await right.start(**budget)
    await right.let_pass(80, lambda: len(right.world.done) == 2)
    assert right.world.done == ["a from 25", "a from 22"]
    await right.let_pass(40)
    await until(lambda: site.alerts(AlertState.REFUSED, saying="refused by budget"))
    assert len(right.world.done) == 2, "what it spent itself counts"


def window(cron: str, duration: str) -> dict[str, object]:
    return {"cron": cron, "duration": duration, "zone": "Europe/Berlin", "name": "nightly"}


async def test_a_window_in_which_summer_time_begins_is_open_for_its_whole_length_and_no_longer(site):
    """On 29 March 2026 the clock in Berlin goes from 02:00 to 03:00: that is 01:00 UTC."""
    opens, changes, closes = (datetime(2026, 3, 29, *at, tzinfo=UTC) for at in ((0, 30), (1, 0), (1, 30)))
    patient = Patient(site, begin=opens - 10 * MINUTE, water=100)
    await patient.start(maintenance_windows=[window("30 1 * * *", "1 h")])
    await patient.report()
    (wait,) = await until(lambda: site.records(Step.DEFERRED, rule="maintenance_windows"))
    assert wait.limit == "nightly"
    assert patient.world.done == []

    await patient.let_pass(90)

    acted = [effect.at for effect in patient.world.effects]
    assert all(opens <= moment < closes for moment in acted)
    assert len([moment for moment in acted if moment < changes]) == 4, "two attempts of two actions before the change"
    assert len([moment for moment in acted if moment >= changes]) == 4
    assert patient.world.water["a"] > 10, "it is still unhealthy, and waits for the next night"


async def test_a_window_whose_begin_occurs_twice_in_the_night_is_opened_once(site):
    """On 25 October 2026 it is 02:30 in Berlin at 00:30 UTC, and again at 01:30 UTC."""
    again = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    patient = Patient(site, begin=again - 10 * MINUTE)
    await patient.start(maintenance_windows=[window("30 2 * * *", "30 minutes")])
    await patient.report()
    await until(lambda: site.records(Step.DEFERRED, rule="maintenance_windows"))

    await patient.let_pass(50)
    assert patient.world.done == []

    patient.clock.advance(DAY - 40 * MINUTE)
    await until(lambda: len(patient.world.done) == 2)
    assert patient.world.effects[0].at >= again + DAY
