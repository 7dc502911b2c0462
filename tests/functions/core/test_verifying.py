"""What only time can show: healthy for now is not healed, and nothing more is done meanwhile."""

import dataclasses
from datetime import timedelta

import pytest

from functions.core.practice import SETTLED
from functions.core.remedy import Case
from schemas.approval import Approval, ApprovalState
from schemas.freeze import Freeze
from schemas.health import Level
from schemas.incident import IncidentState
from schemas.remediation import ActionResult, Gap, Mode, Outcome
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


async def test_what_broke_and_left_it_healthy_for_now_is_watched_too():
    world = plant()

    def blown_up(tank: str, amount: int, name: str):
        world.tanks.water[tank] = 5
        raise RuntimeError("the valve exploded")

    world.tanks.drain = blown_up

    await hear(world, Level.CRITICAL)

    assert steps(world)[-1] == "verified"
    assert (world.incident().state, world.incident().watched) == (IncidentState.OPEN, "")


async def test_a_rung_that_did_nothing_is_not_blamed_when_it_does_not_last():
    world = plant()

    def closed_by_itself(tank: str, amount: int, name: str):
        world.tanks.water[tank] = 5
        return ActionResult(outcome=Outcome.SKIPPED, detail="it is empty by now")

    drain, world.tanks.drain = world.tanks.drain, closed_by_itself
    await hear(world, Level.CRITICAL)
    world.tanks.drain, world.tanks.water["a"] = drain, 15
    await pass_by(world, timedelta(hours=1))

    await hear(world, Level.CRITICAL)

    assert world.tanks.log == ["a"]
    assert world.incident().ineffective == {}


async def test_an_event_that_was_overtaken_closes_nothing():
    world = plant()
    late = world.event(level=Level.OK)
    await hear(world, Level.CRITICAL)

    await world.engine.on_health(late)

    assert world.incident().state is IncidentState.OPEN


async def test_an_event_from_before_the_attempt_does_not_end_the_alarm_after_it():
    world = plant(water=40)
    await hear(world, Level.CRITICAL)
    event = world.event(level=Level.OK)
    before = event.data.model_copy(update={"observed_at": world.incident().attempted_at - timedelta(microseconds=1)})
    opened = world.incident().model_copy(update={"opened_at": before.observed_at - timedelta(seconds=9), "samples": ()})
    world.ledger.incidents["tank:a"] = opened, world.ledger.incidents["tank:a"][1]
    world.signals.said.clear()

    await world.engine.on_health(event.model_copy(update={"data": before}))
    assert world.incident().state is IncidentState.OPEN

    await world.engine.on_health(world.event(level=Level.OK))
    assert world.incident().state is IncidentState.CLOSED


async def test_when_nothing_can_be_seen_and_no_event_comes_it_is_looked_at_again():
    world = plant()
    await hear(world, Level.CRITICAL)
    world.tanks.broken_probe = "the gauge is dirty"
    await pass_by(world, COOLDOWN * 1.1)
    world.tanks.broken_probe = ""
    world.signals.said["tank:a"] = world.event(level=Level.OK).data

    await pass_by(world, COOLDOWN * 1.1)

    assert world.incident().state is IncidentState.CLOSED


async def test_what_is_gone_is_looked_at_once_more_and_its_incident_is_closed():
    world = plant(protected_targets=("tank:*",))
    await hear(world, Level.CRITICAL)
    assert world.incident().state is IncidentState.OPEN
    world.tanks.water["a"] = 0
    object.__setattr__(world.engine.remedy, "gap", lambda case, seen: Gap(amount=0, unit="litres", reason="it is gone"))

    assert await hear(world, Level.UNKNOWN) == SETTLED
    await until(lambda: world.incident().state is IncidentState.CLOSED)

    assert world.tanks.log == []
    assert {sample.source for sample in world.incident().samples if not sample.unhealthy} == {"probe"}


async def test_a_freeze_in_the_meantime_changes_nothing_about_what_is_watched():
    world = plant()
    await hear(world, Level.CRITICAL)
    world.brake.freeze = Freeze(reason="audit", where="here")
    await pass_by(world, COOLDOWN * 1.1)
    assert world.incident().state is IncidentState.OPEN

    await hear(world, Level.OK)

    assert world.incident().state is IncidentState.CLOSED
    assert world.tanks.log == ["a"]


async def test_a_grant_for_what_is_healthy_for_now_is_used_up_and_another_is_asked_for_later():
    world = plant(risk_modes={"irreversible": "approve", "availability": "approve"})
    await hear(world, Level.CRITICAL)
    question = world.story.questions[-1]
    world.tanks.water["a"] = 5
    granted = Approval(
        host=question.host, function=question.function, target=question.target, hash=question.hash,
        state=ApprovalState.GRANTED,
    )  # fmt: skip

    await world.engine.on_answer(granted, "c", "anna")
    assert (world.tanks.log, world.plans.waiting, world.incident().pending) == ([], {}, None)
    assert "healthy for now, so the plan" in next(
        record["text"] for record in world.story.records if record["step"] == "refused"
    )
    world.tanks.water["a"] = 15
    await hear(world, Level.CRITICAL)

    assert world.tanks.log == []
    assert len(world.story.questions) == 2


@pytest.mark.parametrize("mode", [Mode.DRY_RUN, Mode.OBSERVE])
async def test_a_dry_run_never_ends_in_watching(mode):
    world = plant(mode=mode)

    await hear(world, Level.CRITICAL)

    assert world.tanks.log == []
    assert "verified" not in steps(world)
