"""The guard at work: what is waited for, what is refused and told once, and what goes on by itself afterwards."""

import asyncio
import dataclasses
from datetime import timedelta

import pytest

from functions.core.ports import NotStored
from functions.core.practice import SETTLED
from schemas.fleet import Fleet
from schemas.health import Level
from schemas.incident import Incident, IncidentState
from schemas.remediation import Gap, Mode
from schemas.trigger import Asked, Trigger
from tests.functions.core.conftest import passed, quiet, settled
from tests.functions.core.situations import HOUR, MINUTE, SECOND
from tests.functions.core.tank import Drain, Restart, Tanks, TankSettings, remedy


def drain(name: str, litres: int, kind: type[Drain] = Drain) -> Drain:
    return kind(tank="a", litres=litres, name=name)


def last(plant, step: str) -> dict:
    return next(record for record in reversed(plant.story.records) if record["step"] == step)


CAREFUL = {"confirmation": {"needed": 3, "of": 4, "every": 10 * SECOND}, "second_source": True}


async def test_one_look_is_not_enough_and_the_engine_looks_again_by_itself(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)), **CAREFUL)
    await plant.engine.on_health(plant.event())
    assert plant.tanks.log == []
    assert (plant.waited(), last(plant, "deferred")["seen"]) == (["confirmation"], "2 of 2")

    await passed(plant, 11 * SECOND, lambda: plant.tanks.log == ["x"])


async def test_a_burst_of_events_confirms_nothing(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)), **CAREFUL)

    for _ in range(20):
        await plant.engine.on_health(plant.event())

    assert plant.tanks.log == []
    assert plant.waited() == ["confirmation"]


async def test_what_restarts_or_destroys_waits_for_a_second_look_of_its_own(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9, Restart),)), second_source=True)
    plant.ledger.incidents["tank:a"] = (remembered(plant, samples=()), 1)
    plant.engine.look_again()
    await passed(plant, MINUTE, lambda: plant.tanks.log == ["x"])

    assert plant.waited() == ["second_source"]


def remembered(plant, **fields) -> Incident:
    """An open incident that an earlier process left."""
    now = plant.clock.now()
    return Incident(
        **{
            "correlation": "c", "host": "host-1", "function": "water.drain", "target": "tank:a",
            "state": IncidentState.OPEN, "opened_at": now, "changed_at": now, "alerted_at": now,
            "gap": Gap(amount=5, unit="litres"), **fields,
        }
    )  # fmt: skip


async def test_an_alert_that_could_not_be_stored_is_tried_again_and_then_the_cure_goes_on(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)))
    plant.story.refuse_alerts = True
    for _ in range(2):
        await plant.engine.on_health(plant.event())
    assert plant.tanks.log == []
    plant.story.refuse_alerts = False

    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == ["x"]
    assert plant.refused() == ["alert_first"]


async def test_each_rule_is_told_once_although_they_take_turns(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)), budget={"per_function": 6})
    other, spent = Fleet(members=4, acting=("host-2",)), Fleet(spent_function=6)
    for fleet in (spent, other, spent, other, spent):
        since = plant.clock.now() - MINUTE
        plant.permits.fleet = fleet.model_copy(update={"unhealthy_since": since})
        await plant.engine.on_health(plant.event())

    assert (plant.refused(), plant.waited()) == (["budget"], ["fleet_share"])
    assert [alert.state for alert in plant.story.alerts] == ["opened", "refused"]


async def test_a_person_who_looks_is_told_and_leaves_no_trace_in_what_was_told(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)), protected_targets=("tank:*",))
    await plant.engine.on_health(plant.event())
    await plant.engine.on_trigger(Trigger(target="tank:a"), "c", "me")
    await plant.engine.on_health(plant.event())

    assert plant.refused() == ["protected_targets"] * 2  # once by itself, once for the person
    assert len([alert for alert in plant.story.alerts if alert.state == "refused"]) == 1


async def test_the_fourth_heal_in_a_day_is_refused_because_the_cure_treats_a_symptom(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)), max_fixes=3, cooldown=SECOND)
    for _ in range(4):
        plant.tanks.water["a"] = 15
        plant.clock.advance(HOUR)
        await plant.engine.on_health(plant.event())

    assert plant.tanks.log == ["x"] * 3
    assert plant.refused() == ["symptom_only"]
    assert plant.story.alerts[-1].state == "refused"
    await passed(plant, timedelta(days=1), lambda: plant.tanks.log == ["x"] * 4)


async def test_a_target_that_goes_to_and_fro_is_left_alone_until_it_is_calm(plants):
    plant = plants(Tanks(a=5), remedy((drain("x", 1),)), flapping={"begin": 6, "end": 3}, confirmation={"needed": 4})
    for _ in range(4):
        plant.tanks.water["a"] = 15
        await plant.engine.on_health(plant.event())
        plant.clock.advance(SECOND)
        plant.tanks.water["a"] = 5
        await plant.engine.on_health(plant.event(level=Level.OK))
        plant.clock.advance(SECOND)
    plant.tanks.water["a"] = 15
    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == []
    assert plant.refused() == ["flapping"]
    told = [alert.state for alert in plant.story.alerts]
    assert told == ["opened", "resolved"] * 3 + ["opened", "refused", "resolved"]
    await passed(plant, 2 * HOUR, lambda: plant.tanks.log)
    assert plant.story.alerts[len(told)].state == "opened"


# Among hosts.


def many(unhealthy: int, members: int = 5) -> Fleet:
    return Fleet(members=members, unhealthy=tuple(f"host-{number}" for number in range(1, unhealthy + 1)))


async def test_a_storm_is_told_once_among_all_hosts_and_nothing_is_done(plants):
    plant = plants(Tanks(a=15, b=15), remedy((drain("x", 9),)))
    plant.permits.fleet = many(3).model_copy(update={"unhealthy_since": plant.clock.now() - MINUTE})
    for _ in range(2):
        for target in ("tank:a", "tank:b"):
            await plant.engine.on_health(plant.event(target))

    assert plant.tanks.log == []
    assert plant.refused() == ["storm", "storm"]  # one of each incident
    assert [alert.title for alert in plant.story.alerts if alert.state == "storm"] == [
        "3 of 5 hosts are unhealthy at once: Drain full tanks"
    ]


async def test_a_storm_that_is_over_is_told_and_the_cure_goes_on(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)))
    plant.permits.fleet = many(3).model_copy(update={"unhealthy_since": plant.clock.now() - MINUTE})
    await plant.engine.on_health(plant.event())
    plant.permits.fleet = many(2).model_copy(update={"unhealthy_since": plant.clock.now() - MINUTE})

    await passed(plant, 5 * MINUTE, lambda: plant.tanks.log == ["x"])
    await quiet(plant)

    assert [alert.title for alert in plant.story.alerts if "over" in alert.title] == [
        "the storm is over: 2 of 5 hosts are unhealthy"
    ]
    assert not plant.permits.storming


async def test_the_group_is_told_and_given_a_moment_before_anything_is_done(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)))
    plant.permits.fleet = Fleet(members=3, unhealthy=("host-1",), unhealthy_since=plant.clock.now())
    await plant.engine.on_health(plant.event())
    assert (plant.waited(), plant.permits.reports) == (["gather"], [True])

    await passed(plant, 11 * SECOND, lambda: plant.tanks.log == ["x"])
    await quiet(plant)

    assert plant.permits.reports[-1] is False


async def test_the_group_hears_of_health_only_when_the_last_incident_here_is_over(plants):
    plant = plants(Tanks(a=15, b=15), remedy((drain("x", 9),)), Mode.DRY_RUN)
    for target in ("tank:a", "tank:b"):
        await plant.engine.on_health(plant.event(target))
    plant.tanks.water = {"a": 5, "b": 15}
    await plant.engine.on_health(plant.event("tank:a", Level.OK))
    assert plant.permits.reports[-1] is True
    plant.tanks.water = {"a": 5, "b": 5}
    await plant.engine.on_health(plant.event("tank:b", Level.OK))

    assert plant.permits.reports[-1] is False


async def test_a_group_that_could_not_be_told_is_told_at_the_next_look(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)), Mode.DRY_RUN)
    report = plant.permits.report

    async def away(*, unhealthy):
        raise NotStored("the bucket fleet is away")

    plant.permits.report = away
    assert (await plant.engine.on_health(plant.event())).retry_after is not None
    plant.permits.report = report
    await plant.engine.on_health(plant.event())

    assert plant.permits.reports == [True]


# Clocks.


@pytest.mark.parametrize("by", [1, -1])
async def test_a_clock_that_jumps_by_a_day_holds_everything_until_it_is_back(plants, by):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)))
    plant.clock.jump(by * timedelta(days=1))
    await plant.engine.on_health(plant.event())
    assert plant.tanks.log == []
    assert plant.refused() == ["clock"]
    assert "check time synchronisation" in last(plant, "refused")["text"]
    await quiet(plant)

    plant.clock.jump(-by * timedelta(days=1))
    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == ["x"]


@pytest.mark.parametrize("by", [1, -1])
async def test_a_new_time_that_holds_for_a_cooldown_is_accepted(plants, by):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)), cooldown=15 * MINUTE)
    plant.clock.jump(by * timedelta(days=1))
    await plant.engine.on_health(plant.event())

    await passed(plant, 17 * MINUTE, lambda: plant.tanks.log == ["x"])

    assert plant.refused() == ["clock"]


async def test_what_a_clock_a_day_ahead_wrote_delays_nothing_by_a_day(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)), cooldown=15 * MINUTE)
    tomorrow = plant.clock.now() + timedelta(days=1)
    plant.ledger.incidents["tank:a"] = (
        remembered(plant, attempts=1, attempted_at=tomorrow, changed_at=tomorrow, opened_at=tomorrow), 1
    )  # fmt: skip
    plant.engine.look_again()

    await passed(plant, 16 * MINUTE, lambda: plant.tanks.log == ["x"])


# Settings that change meanwhile.


async def test_a_treatment_ends_under_the_policy_it_began_with(plants):
    plant = plants(Tanks(a=20), remedy((drain("x", 3), drain("y", 9))))
    lower = plant.policy.model_copy(update={"mode": Mode.OBSERVE})
    apply = plant.tanks.drain

    def lower_meanwhile(tank, amount, name):
        plant.engine.reconfigure(TankSettings(limit=1), lower)
        return apply(tank, amount, name)

    plant.tanks.drain = lower_meanwhile
    await plant.engine.on_health(plant.event())
    assert plant.tanks.log == ["x", "y"]
    assert {record["policy"] for record in plant.story.records} == {plant.policy.version}

    plant.tanks.drain, plant.tanks.water["a"] = apply, 20
    await plant.engine.on_health(plant.event())
    assert plant.tanks.log == ["x", "y"]
    assert (plant.refused(), plant.story.records[-1]["policy"]) == (["mode"], lower.version)


async def test_a_raised_mode_is_followed_when_the_engine_looks_again(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)), Mode.DRY_RUN)
    await plant.engine.on_health(plant.event())
    assert plant.tanks.log == []

    plant.engine.reconfigure(TankSettings(), plant.policy.model_copy(update={"mode": Mode.AUTO}))
    plant.engine.look_again()

    await settled(lambda: plant.tanks.log == ["x"])


async def test_a_function_that_is_switched_off_does_not_even_observe(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)), enabled=False)
    plant.ledger.incidents["tank:a"] = (remembered(plant, state=IncidentState.ACTING), 1)

    assert await plant.engine.on_health(plant.event()) == SETTLED
    plant.engine.look_again()
    await quiet(plant)

    assert (plant.tanks.observed, plant.story.records) == (0, [])
    await plant.engine.on_trigger(Trigger(target="tank:a", mode=Asked.LIVE), "c", "me")
    assert plant.tanks.log == []
    assert plant.refused() == ["enabled"]


# Engines beside each other.


async def test_two_functions_that_may_change_one_thing_take_turns(plants):
    first = plants(Tanks(a=15), remedy((drain("x", 9),)))
    second = plants(Tanks(a=15), remedy((drain("y", 9),)))
    for plant in (first, second):
        plant.leases = first.leases
        plant.remedy = dataclasses.replace(plant.remedy, resources=lambda case: ("pipe", case.target))
        plant.engine = plant.new_engine()
    together: list[int] = []
    apply = first.tanks.drain

    def beside(tank, amount, name):
        together.append(
            asyncio.run_coroutine_threadsafe(second.engine.on_health(second.event()), loop).result(5) == SETTLED
        )
        return apply(tank, amount, name)

    loop, first.tanks.drain = asyncio.get_running_loop(), beside
    await first.engine.on_health(first.event())
    assert (together, first.tanks.log, second.tanks.log) == ([False], ["x"], [])
    await second.engine.on_health(second.event())
    assert second.tanks.log == ["y"]


async def test_an_unexpected_error_in_a_timer_is_logged_and_the_next_event_looks_again(plants, caplog):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),), grace=MINUTE))
    await plant.engine.on_health(plant.event())
    plan = plant.remedy.plan

    def broken(*arguments):
        raise RuntimeError("a defect")

    object.__setattr__(plant.engine.remedy, "plan", broken)
    await passed(plant, 2 * MINUTE, lambda: "a defect" in caplog.text)
    object.__setattr__(plant.engine.remedy, "plan", plan)
    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == ["x"]
