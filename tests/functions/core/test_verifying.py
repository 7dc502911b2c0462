"""What only time can show: healthy for now is not healed, and nothing more is done meanwhile."""

import dataclasses
from datetime import timedelta

import pytest

from functions.core.practice import SETTLED
from functions.core.remedy import Case
from schemas.health import Level
from schemas.incident import IncidentState
from schemas.remediation import Gap, Mode, Outcome
from schemas.trigger import Asked, Trigger
from tests.functions.core.tank import Drain, Plant, Restart, Tanks, TankSeen, TankSettings, remedy
from tests.waiting import until

COOLDOWN = timedelta(minutes=15)


def gap(case: Case[TankSettings], seen: TankSeen) -> Gap:
    """A level below the limit lasts only when the collector has said so."""
    over = seen.water - case.settings.limit
    lasts = case.heard is not None and case.heard.level is Level.OK
    return Gap(amount=over, unit="litres", reason="not seen for long enough", provisional=over <= 0 and not lasts)


def plant(water: float = 15, **policy) -> Plant:
    rungs = ((Drain(tank="a", litres=9, name="a"),), (Restart(tank="a", litres=1, name="b"),))
    treatment = dataclasses.replace(remedy(*rungs), gap=gap)
    return Plant(Tanks(a=water), treatment, **{"cooldown": COOLDOWN, **policy})


async def hear(world: Plant, level: Level):
    event = world.event(level=level)
    world.signals.said["tank:a"] = event.data
    return await world.engine.on_health(event)


async def pass_by(world: Plant, duration: timedelta) -> None:
    world.clock.advance(duration)
    await until(lambda: not world.busy())


def steps(world: Plant) -> list[str]:
    return [str(record["step"]) for record in world.story.records]


async def test_a_walk_that_is_healthy_for_now_ends_there_and_the_incident_stays_open():
    world = plant()

    verdict = await hear(world, Level.CRITICAL)

    assert world.tanks.log == ["a"]  # the second rung was not needed
    assert world.incident().state is IncidentState.OPEN
    assert steps(world)[-1] == "verified"
    assert world.story.events[-1].outcome is Outcome.IN_PROGRESS
    assert world.story.events[-1].final
    assert "watched until that has lasted" in world.story.events[-1].report.next
    assert abs(verdict.look_again - world.clock.now() - COOLDOWN) < timedelta(seconds=1)


async def test_nothing_is_done_while_it_is_watched_and_an_attempt_does_not_count_twice():
    world = plant(max_attempts=1)
    await hear(world, Level.CRITICAL)

    for level in (Level.WARNING, Level.CRITICAL):
        await pass_by(world, timedelta(seconds=30))
        await hear(world, level)

    assert world.tanks.log == ["a"]
    assert world.incident().state is IncidentState.OPEN
    assert world.incident().attempts == 1


async def test_it_is_healed_when_the_collector_says_that_it_lasted():
    world = plant()
    await hear(world, Level.CRITICAL)
    await pass_by(world, timedelta(minutes=20))

    assert await hear(world, Level.OK) == SETTLED

    assert world.incident().state is IncidentState.CLOSED
    assert steps(world)[-1] == "healed"
    assert world.incident().fixes


async def test_when_it_did_not_last_the_next_attempt_leaves_out_what_helped_for_a_while_only():
    world = plant()
    await hear(world, Level.CRITICAL)
    world.tanks.water["a"] = 11
    await pass_by(world, timedelta(hours=1))

    await hear(world, Level.CRITICAL)

    assert world.tanks.log == ["a", "b"]
    assert "rung1" in world.incident().ineffective


async def test_what_lasted_is_tried_again_the_next_time():
    world = plant()
    await hear(world, Level.CRITICAL)
    await pass_by(world, timedelta(minutes=20))
    await hear(world, Level.OK)
    world.tanks.water["a"] = 15
    await pass_by(world, timedelta(hours=1))

    await hear(world, Level.CRITICAL)

    assert world.tanks.log == ["a", "a"]


async def test_what_was_never_open_is_left_alone_while_it_is_healthy_for_now():
    world = plant(water=5)

    assert await hear(world, Level.CRITICAL) == SETTLED

    assert "tank:a" not in world.ledger.incidents
    assert world.tanks.log == []


async def test_a_person_who_asks_hears_that_there_is_nothing_to_do_for_now():
    world = plant(water=5)

    await world.engine.on_trigger(Trigger(target="tank:a", mode=Asked.LIVE), "c", "anna")

    assert "healthy for now" in world.story.events[-1].text
    assert world.tanks.log == []


async def test_without_an_event_the_latest_that_was_said_is_what_was_heard():
    world = plant(water=5)
    world.signals.said["tank:a"] = world.event(level=Level.OK).data

    await world.engine.on_trigger(Trigger(target="tank:a", mode=Asked.LIVE), "c", "anna")

    assert "is healthy; nothing to do" in world.story.events[-1].text


@pytest.mark.parametrize("mode", [Mode.DRY_RUN, Mode.OBSERVE])
async def test_a_dry_run_never_ends_in_watching(mode):
    world = plant(mode=mode)

    await hear(world, Level.CRITICAL)

    assert world.tanks.log == []
    assert "verified" not in steps(world)
