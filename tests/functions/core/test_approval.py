"""A person is asked about exactly one plan; that plan runs once, while it still makes sense, and no other."""

from datetime import timedelta

import pytest

from functions.core.approval import read_plan
from functions.core.ports import NotStored
from schemas.approval import Approval, ApprovalState
from schemas.fleet import Fleet
from schemas.freeze import Freeze
from schemas.health import Level
from schemas.incident import IncidentState
from schemas.remediation import Mode
from schemas.trigger import Asked, Trigger
from tests.functions.core.conftest import passed, quiet
from tests.functions.core.situations import HOUR, MINUTE, SECOND
from tests.functions.core.tank import Drain, Plant, Pour, Tanks, remedy

DAY = timedelta(days=1)
DRAIN = Drain(tank="a", litres=9, name="drain")
POUR = Pour(tank="a", litres=2, name="pour")
SHIPPED = {"risk_modes": {"irreversible": "approve"}}


@pytest.fixture
async def asked(plants) -> Plant:
    """A plant that waits for an answer."""
    plant = plants(Tanks(a=15), remedy((DRAIN,)), **SHIPPED)
    await plant.engine.on_health(plant.event())
    return plant


def answer(plant: Plant, state: ApprovalState = ApprovalState.GRANTED, plan_hash: str = "") -> Approval:
    question = plant.story.questions[-1]
    return Approval(
        host=question.host, function=question.function, target=question.target, hash=plan_hash or question.hash,
        state=state, reason="as discussed",
    )  # fmt: skip


async def grant(plant: Plant, **fields) -> None:
    await plant.engine.on_answer(answer(plant, **fields), "answered", "ada")


def last(plant: Plant, step: str) -> dict:
    return next(record for record in reversed(plant.story.records) if record["step"] == step)


async def test_a_plan_that_nobody_granted_is_stored_asked_about_and_not_carried_out(asked):
    assert asked.tanks.log == []
    assert asked.story.steps == ["opened", "requested"]
    question = asked.story.questions[0]
    assert question.state is ApprovalState.REQUESTED
    assert question.summary.rungs[0].actions[0].title == "drain 9 l by drain"
    assert list(asked.plans.waiting) == [("tank:a", question.hash)]
    assert asked.incident().pending.hash == question.hash
    told = asked.story.alerts[-1]
    assert (told.state, question.hash[:12] in told.next) == ("requested", True)


async def test_a_granted_plan_runs_and_the_audit_says_who_granted_it(asked):
    await grant(asked)

    assert asked.tanks.log == ["drain"]
    assert asked.story.steps[2:] == ["granted", "planned", "acting", "acted", "healed"]
    granted = last(asked, "granted")
    assert (granted["who"], granted["plan_hash"]) == ("ada", asked.story.questions[0].hash)
    assert granted["text"] == "ada granted the plan: as discussed"
    assert last(asked, "acting")["who"] == "ada"
    assert last(asked, "planned")["plan_hash"] == asked.story.questions[0].hash


async def test_exactly_the_granted_plan_runs_although_another_would_be_made_by_now(asked):
    object.__setattr__(asked.remedy, "plan", remedy((Drain(tank="a", litres=1, name="other"),)).plan)

    await grant(asked)

    assert asked.tanks.log == ["drain"]


async def test_an_approval_is_good_for_once(asked):
    asked.tanks.leak = {"drain"}
    once = answer(asked)
    await asked.engine.on_answer(once, "answered", "ada")
    await asked.engine.on_answer(once, "answered", "ada")

    assert asked.tanks.log == ["drain"]
    assert asked.refused() == ["approval"]
    assert "no plan" in last(asked, "refused")["text"]


async def test_an_approval_that_somebody_else_uses_up_meanwhile_carries_out_nothing(asked, monkeypatch):
    taken = asked.permits.take

    async def take(judge, *, irreversible):
        await asked.plans.take("tank:a", asked.story.questions[0].hash)
        return await taken(judge, irreversible=irreversible)

    monkeypatch.setattr(asked.permits, "take", take)
    await grant(asked)

    assert asked.tanks.log == []
    assert last(asked, "refused")["seen"] == "used"
    assert asked.permits.given_back == 1


async def test_a_denied_plan_leaves_the_target_to_a_person(asked):
    await grant(asked, state=ApprovalState.DENIED)
    await asked.engine.on_health(asked.event())

    assert asked.tanks.log == []
    assert asked.incident().state is IncidentState.STUCK
    assert asked.incident().denied == asked.story.questions[0].hash
    denied = last(asked, "denied")
    assert (denied["who"], denied["text"]) == ("ada", "ada denied the plan: as discussed")
    assert asked.story.alerts[-1].state == "unhealed"
    await grant(asked)
    assert asked.tanks.log == []


async def test_a_question_is_no_answer(asked):
    await grant(asked, state=ApprovalState.REQUESTED)

    assert asked.tanks.log == []
    assert "granted" not in asked.story.steps


@pytest.mark.parametrize("change", [{"litres": 15}, {"name": "other"}, {"action": "unheard_of"}, {"more": 1}])
async def test_an_altered_plan_is_refused_and_people_are_told(asked, change):
    ((key, stored),) = asked.plans.waiting.items()
    plan = stored.model_dump(mode="json")["plan"]
    plan["rungs"][0]["actions"][0] |= change
    asked.plans.waiting[key] = stored.model_copy(update={"plan": plan})

    await grant(asked)

    assert asked.tanks.log == []
    assert asked.refused() == ["plan_hash"]
    assert (asked.story.alerts[-1].severity, "altered" in asked.story.alerts[-1].title) == ("critical", True)
    await quiet(asked)
    await asked.engine.on_health(asked.event())
    assert asked.refused() == ["plan_hash"]


async def test_a_stored_plan_is_read_back_as_it_was(asked):
    stored = next(iter(asked.plans.waiting.values()))

    read = read_plan(asked.remedy, stored)

    assert read is not None
    assert read.hash == stored.hash
    assert read.rungs[0].actions == (DRAIN,)
    assert read_plan(asked.remedy, stored.model_copy(update={"plan": {"rungs": "none"}})) is None
    assert read_plan(asked.remedy, stored.model_copy(update={"plan": {}})) is None


async def test_a_hash_that_nobody_asked_about_is_refused(asked):
    await grant(asked, plan_hash="0" * 64)

    assert asked.tanks.log == []
    assert asked.refused() == ["approval"]


async def test_silence_is_a_refusal_and_counts_as_an_attempt(asked):
    await passed(asked, DAY + MINUTE, lambda: asked.refused() == ["approval"])
    await quiet(asked)

    assert asked.tanks.log == []
    assert (asked.incident().attempts, asked.incident().pending) == (1, None)
    assert last(asked, "refused")["text"] == "nobody answered within 1 d, which is a refusal"
    assert asked.plans.waiting == {}


async def test_an_answer_that_comes_too_late_is_refused(asked):
    late = answer(asked)
    await passed(asked, DAY + MINUTE, lambda: asked.refused() == ["approval"])
    await quiet(asked)
    await asked.engine.on_answer(late, "answered", "ada")

    assert asked.tanks.log == []
    assert asked.refused() == ["approval", "approval"]


async def test_a_grant_that_comes_just_too_late_is_refused_before_silence_was_noticed(asked):
    for timer in [task for _, task in asked.engine._again.values()]:
        timer.cancel()
    asked.clock.advance(DAY)

    await grant(asked)

    assert asked.tanks.log == []
    assert asked.refused() == ["approval"]


async def test_people_are_asked_again_after_a_cooldown_and_left_alone_after_the_last_attempt(asked):
    await passed(asked, timedelta(days=4), lambda: asked.incident().state is IncidentState.STUCK)

    assert asked.tanks.log == []
    assert len(asked.story.questions) == 3
    assert "nobody approved" in asked.story.alerts[-1].title


async def test_one_question_at_a_time_however_many_events_come(asked):
    for _ in range(3):
        await asked.engine.on_health(asked.event())
        asked.clock.advance(MINUTE)

    assert len(asked.story.questions) == 1
    assert [alert.state for alert in asked.story.alerts] == ["opened", "requested"]


async def test_a_newer_question_takes_the_place_of_the_older_one(asked):
    old = answer(asked)
    asked.tanks.water["a"] = 5
    await asked.engine.on_health(asked.event(level=Level.OK))
    asked.tanks.water["a"] = 20
    object.__setattr__(asked.remedy, "plan", remedy((Drain(tank="a", litres=12, name="larger"),)).plan)
    await asked.engine.on_health(asked.event())

    await asked.engine.on_answer(old, "answered", "ada")
    assert asked.tanks.log == []
    assert asked.refused() == ["approval"]
    await grant(asked)
    assert asked.tanks.log == ["larger"]


async def test_the_same_plan_granted_in_an_earlier_incident_is_not_granted_in_the_next(asked):
    asked.tanks.water["a"] = 5
    await asked.engine.on_health(asked.event(level=Level.OK))
    await grant(asked)

    assert asked.incident().state is IncidentState.CLOSED
    assert asked.tanks.log == []
    assert asked.refused() == ["approval"]


async def test_a_gap_that_closed_meanwhile_needs_no_cure(asked):
    asked.tanks.water["a"] = 5

    await grant(asked)

    assert asked.tanks.log == []
    assert asked.story.steps[-2:] == ["granted", "healed"]
    assert asked.incident().state is IncidentState.CLOSED


async def test_a_plan_too_large_for_the_bus_is_refused_once_with_its_size(plants):
    plant = plants(Tanks(a=15), remedy((DRAIN,)), **SHIPPED)
    plant.plans.largest = 100

    for _ in range(3):
        await plant.engine.on_health(plant.event())

    assert plant.refused() == ["plan_size"]
    assert "bytes" in last(plant, "refused")["seen"]
    assert [alert.state for alert in plant.story.alerts] == ["opened", "refused"]
    assert plant.incident().pending is None


async def test_no_question_that_nobody_could_hear(asked, plants, monkeypatch):
    plant = plants(Tanks(a=15), remedy((DRAIN,)), **SHIPPED)

    async def away(correlation, approval):
        raise NotStored("the approval stream is full")

    monkeypatch.setattr(plant.story, "approval", away)
    verdict = await plant.engine.on_health(plant.event())

    assert verdict.retry_after is not None
    assert plant.incident().pending is None


# The rest of the plan.


async def test_what_may_run_by_itself_runs_first_and_a_person_is_asked_about_the_rest(plants):
    plant = plants(Tanks(a=15), remedy((POUR,), (DRAIN,), once=True), **SHIPPED)
    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == ["pour"]
    assert plant.story.steps == ["opened", "planned", "acting", "acted", "unhealed", "requested"]
    assert [rung.rung for rung in plant.story.questions[0].summary.rungs] == ["rung2"]
    await grant(plant)
    assert plant.tanks.log == ["pour", "drain"]
    assert plant.incident().state is IncidentState.CLOSED


async def test_people_are_not_asked_again_while_the_rest_is_tried_again(plants):
    plant = plants(Tanks(a=15), remedy((POUR,), (DRAIN,)), cooldown=MINUTE, max_attempts=9, **SHIPPED)
    plant.tanks.refill = 2
    await plant.engine.on_health(plant.event())
    for _ in range(3):
        plant.clock.advance(HOUR)
        await plant.engine.on_health(plant.event())

    assert plant.tanks.log == ["pour"] * 4
    assert len(plant.story.questions) == 1
    assert [alert.state for alert in plant.story.alerts].count("requested") == 1


async def test_nobody_is_asked_when_what_may_run_was_enough(plants):
    plant = plants(Tanks(a=12), remedy((POUR,), (DRAIN,)), **SHIPPED)
    await plant.engine.on_health(plant.event())

    assert (plant.tanks.log, plant.story.questions) == (["pour"], [])


async def test_a_live_order_does_not_stand_in_for_an_approval(plants):
    plant = plants(Tanks(a=15), remedy((DRAIN,)), Mode.APPROVE)
    await plant.engine.on_trigger(Trigger(target="tank:a", mode=Asked.LIVE), "c", "ada")

    assert plant.tanks.log == []
    assert len(plant.story.questions) == 1


# A grant that has to wait for something else.


async def test_a_plan_granted_while_another_host_acts_runs_when_there_is_a_place(asked):
    asked.permits.fleet = Fleet(members=4, acting=("host-2",), unhealthy_since=asked.clock.now() - MINUTE)
    await grant(asked)
    assert asked.waited() == ["fleet_share"]
    asked.permits.fleet = Fleet(members=4, unhealthy_since=asked.clock.now() - MINUTE)

    await passed(asked, MINUTE, lambda: asked.tanks.log == ["drain"])
    await quiet(asked)

    assert last(asked, "acting")["who"] == "ada"
    assert asked.story.steps.count("granted") == 1


async def test_a_place_that_is_lost_at_the_last_moment_leaves_the_approval_unused(asked, monkeypatch):
    take = asked.permits.take

    async def too_late(judge, *, irreversible):
        return judge(Fleet(members=4, acting=("host-2",)))

    monkeypatch.setattr(asked.permits, "take", too_late)
    await grant(asked)
    assert asked.tanks.log == []
    assert list(asked.plans.waiting)
    monkeypatch.setattr(asked.permits, "take", take)

    await passed(asked, MINUTE, lambda: asked.tanks.log == ["drain"])


async def test_a_plan_granted_outside_its_window_runs_when_it_opens(plants):
    windows = [{"cron": "0 2 * * *", "duration": "1 h"}]
    plant = plants(Tanks(a=15), remedy((DRAIN,)), maintenance_windows=windows, **SHIPPED)
    await plant.engine.on_health(plant.event())
    await grant(plant)
    assert plant.waited() == ["maintenance_windows"]

    await passed(plant, 3 * HOUR, lambda: plant.tanks.log == ["drain"])

    assert 2 <= plant.clock.now().hour < 3


async def test_a_plan_granted_during_a_freeze_runs_when_it_is_lifted(asked):
    asked.brake.freeze = Freeze(since=asked.clock.now(), reason="migration")
    await grant(asked)
    assert asked.tanks.log == []
    assert asked.refused() == ["freeze"]

    asked.brake.freeze = None
    asked.engine.look_again()

    await passed(asked, MINUTE, lambda: asked.tanks.log == ["drain"])


async def test_a_granted_plan_that_still_waits_is_known_after_a_restart(asked):
    asked.brake.freeze = Freeze(since=asked.clock.now())
    await grant(asked)
    await asked.engine.stop()
    asked.brake.freeze = None

    asked.engine = asked.new_engine()
    asked.engine.look_again()

    await passed(asked, MINUTE, lambda: asked.tanks.log == ["drain"])


async def test_a_granted_plan_that_could_not_run_in_time_is_refused(asked):
    asked.permits.fleet = Fleet(members=4, acting=("host-2",), unhealthy_since=asked.clock.now() - MINUTE)
    await grant(asked)
    asked.clock.advance(DAY)
    await asked.engine.on_health(asked.event())
    await quiet(asked)

    assert asked.tanks.log == []
    assert last(asked, "refused")["text"] == "ada granted the plan, but it could not be carried out within 1 d"


async def test_a_granted_plan_does_not_run_under_a_policy_that_was_lowered_since(asked):
    lower = asked.policy.model_copy(update={"risk_modes": {"irreversible": Mode.DRY_RUN}})
    asked.engine.reconfigure(type(asked.engine._practice.settings)(), lower)

    await grant(asked)

    assert asked.tanks.log == []
    assert asked.refused() == ["risk_modes"]
    assert list(asked.plans.waiting)


async def test_an_approval_skips_what_only_guards_against_haste(plants):
    plant = plants(
        Tanks(a=15), remedy((DRAIN,)), Mode.APPROVE,
        confirmation={"needed": 3, "of": 4, "every": 10 * SECOND}, second_source=True, max_fixes=1,
    )  # fmt: skip
    await plant.engine.on_health(plant.event())
    await passed(plant, MINUTE, lambda: plant.story.questions)
    await quiet(plant)

    await grant(plant)

    assert plant.tanks.log == ["drain"]
