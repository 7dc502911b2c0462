"""A plan on its way: what stops it between two actions, what is taken back, and what is left for the next process."""

import asyncio
from datetime import timedelta

import pytest

from functions.core.case_file import Cause
from functions.core.ports import Token
from schemas.fleet import Fleet
from schemas.freeze import Freeze
from schemas.incident import IncidentState
from schemas.remediation import Mode, Outcome
from tests.functions.core.conftest import passed, quiet, settled
from tests.functions.core.situations import HOUR, MINUTE
from tests.functions.core.tank import Blast, Drain, Plant, Pour, Setting, Tanks, remedy


def drain(name: str, litres: int, kind: type[Drain] = Drain) -> Drain:
    return kind(tank="a", litres=litres, name=name)


def during(plant: Plant, name: str, happens) -> None:
    """Let something happen while the action *name* is being applied."""
    apply = plant.tanks.drain

    def with_it(tank, amount, drained):
        if drained == name:
            happens()
        return apply(tank, amount, drained)

    plant.tanks.drain = with_it


def last(plant: Plant, step: str) -> dict:
    return next(record for record in reversed(plant.story.records) if record["step"] == step)


# The kill switch.


async def test_a_freeze_in_the_middle_halts_before_the_next_action_and_counts_as_no_attempt(plants):
    plant = plants(Tanks(a=20), remedy((drain("x", 3), drain("y", 9)), once=True), max_attempts=1)
    during(plant, "x", lambda: setattr(plant.brake, "freeze", Freeze(since=plant.clock.now(), reason="stop")))

    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == ["x"]
    memory = plant.incident()
    assert (memory.state, memory.attempts, memory.attempted_at, memory.begun) == (IncidentState.OPEN, 0, None, None)
    assert "frozen in the middle" in last(plant, "unhealed")["text"]
    assert [alert.state for alert in plant.story.alerts] == ["opened"]

    await plant.engine.on_health(plant.event())
    assert plant.tanks.log == ["x"]
    plant.brake.freeze = None
    plant.engine.look_again()
    await settled(lambda: plant.tanks.log == ["x", "y"])
    await quiet(plant)
    assert plant.incident().state is IncidentState.CLOSED


async def test_a_freeze_before_the_first_action_is_told_once_and_goes_on_when_it_is_lifted(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)))
    plant.brake.freeze = Freeze(since=plant.clock.now(), reason="migration", where="/etc/ansai/freeze")
    for _ in range(3):
        await plant.engine.on_health(plant.event())

    assert plant.tanks.log == []
    assert plant.refused() == ["freeze"]
    assert "migration" in last(plant, "refused")["seen"]
    plant.brake.freeze = None
    plant.engine.look_again()
    await settled(lambda: plant.tanks.log == ["x"])


async def test_a_freeze_leaves_what_a_crash_left_until_it_is_lifted(plants):
    plant = plants(Tanks(a=20), remedy((drain("x", 2, Pour),)))
    await killed(plant, "acted")
    plant.brake.freeze = Freeze(since=plant.clock.now())
    plant.engine = plant.new_engine()
    plant.engine.look_again()
    await quiet(plant)

    assert plant.tanks.log == ["x"]
    assert plant.incident().state is IncidentState.ACTING


async def test_a_gap_that_is_closed_is_healed_although_it_is_frozen(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9), drain("y", 9))))
    during(plant, "x", lambda: setattr(plant.brake, "freeze", Freeze(since=plant.clock.now())))

    await plant.engine.on_health(plant.event())

    assert plant.incident().state is IncidentState.CLOSED


# Somebody else holds the target.


async def test_a_holder_that_slept_through_its_lease_changes_nothing_and_writes_no_incident(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)))
    plant.fence.latest["tank:a"] = Token(1, 1000)

    verdict = await plant.engine.on_health(plant.event())

    assert verdict.retry_after is not None
    assert plant.tanks.log == []
    refused = last(plant, "refused")
    assert (refused["rule"], refused["incident"]) == ("fenced", "")
    # What was written last is what it wrote before it was fenced: an action that had begun, for the other to recover.
    assert plant.incident().state is IncidentState.ACTING
    assert plant.incident().begun is not None
    assert plant.permits.given_back == 1


async def test_a_lease_that_is_lost_in_the_middle_halts_before_the_next_action(plants):
    plant = plants(Tanks(a=20), remedy((drain("x", 2, Pour), drain("y", 9))))

    def lose():
        plant.leases.held["tank:a"].lost = True

    during(plant, "x", lose)
    verdict = await plant.engine.on_health(plant.event())
    saves = plant.ledger.saves

    assert verdict.retry_after is not None
    assert plant.tanks.log == ["x"]
    assert plant.refused() == ["fenced"]
    assert "lost before the next action" in last(plant, "refused")["text"]
    assert plant.ledger.saves == saves


async def test_an_incident_that_somebody_else_wrote_first_is_theirs(plants):
    plant = plants(Tanks(a=20), remedy((drain("x", 2), drain("y", 9))))

    def overwrite():
        memory, revision = plant.ledger.incidents["tank:a"]
        plant.ledger.incidents["tank:a"] = (memory.model_copy(update={"interruptions": 7}), revision + 1)

    during(plant, "x", overwrite)
    await plant.engine.on_health(plant.event())

    assert plant.refused() == ["fenced"]
    assert plant.incident().interruptions == 7
    assert plant.tanks.log == ["x"]


# Places and budgets.


@pytest.mark.parametrize(("kind", "irreversible"), [(Pour, False), (Drain, True)])
async def test_an_attempt_takes_one_place_says_how_grave_it_is_and_gives_it_back(plants, kind, irreversible):
    plant = plants(Tanks(a=15), remedy((drain("x", 9, kind), drain("y", 9, kind))))
    asked: list[bool] = []
    take = plant.permits.take

    async def noted(judge, *, irreversible):
        asked.append(irreversible)
        return await take(judge, irreversible=irreversible)

    plant.permits.take = noted
    await plant.engine.on_health(plant.event())

    assert asked == [irreversible]
    assert (plant.permits.taken, plant.permits.given_back) == (1, 1)


async def test_a_dry_run_takes_no_place(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)), Mode.DRY_RUN)
    await plant.engine.on_health(plant.event())

    assert (plant.permits.taken, plant.permits.given_back) == (0, 0)


async def test_a_place_is_given_back_when_the_audit_fails_in_the_middle(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)))
    plant.story.refuse_audit = {"acting"}
    await plant.engine.on_health(plant.event())

    assert (plant.permits.taken, plant.permits.given_back) == (1, 1)


async def test_what_other_hosts_took_meanwhile_is_judged_at_the_last_moment(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)))
    take = plant.permits.take

    async def full(judge, *, irreversible):
        return judge(Fleet(spent_function=10_000_000))

    plant.permits.take = full
    await plant.engine.on_health(plant.event())
    assert plant.tanks.log == []
    assert plant.refused() == ["budget"]
    assert "planned" not in plant.story.steps
    assert plant.incident().attempts == 0

    plant.permits.take = take
    await passed(plant, HOUR, lambda: plant.tanks.log == ["x"])


async def test_a_spent_budget_is_told_once_and_looked_at_again_by_itself(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)), budget={"per_function": 6})
    plant.permits.fleet = Fleet(spent_function=6)
    for _ in range(3):
        await plant.engine.on_health(plant.event())
    assert plant.refused() == ["budget"]
    assert [alert.state for alert in plant.story.alerts] == ["opened", "refused"]

    plant.permits.fleet = Fleet(spent_function=5)
    await passed(plant, HOUR, lambda: plant.tanks.log == ["x"])


# The end of a window.


async def test_a_window_that_ends_in_the_middle_lets_the_running_plan_end_and_no_new_one_begin(plants):
    plant = plants(
        Tanks(a=30), remedy((drain("x", 3), drain("y", 3))), cooldown=MINUTE,
        maintenance_windows=[{"cron": "0 0 1 1 *", "duration": "10 min"}],
    )  # fmt: skip
    during(plant, "x", lambda: plant.clock.advance(20 * MINUTE))
    await plant.engine.on_health(plant.event())
    assert plant.tanks.log == ["x", "y"]

    await passed(plant, HOUR, lambda: plant.waited()[-1:] == ["maintenance_windows"])

    assert plant.tanks.log == ["x", "y"]


# Taking back.


class Killed(BaseException):
    """Stands for the end of the process between two statements."""


async def killed(plant: Plant, step: str, name: str = "") -> None:
    """Run until the audit has *step* (about the action *name*), then die; the leases run out."""
    audit = plant.story.audit

    async def die(correlation, **fields):
        await audit(correlation, **fields)
        titled = fields["action"].title if fields.get("action") is not None else ""
        if str(fields["step"]) == step and titled.endswith(name):
            raise Killed

    plant.story.audit = die
    with pytest.raises(Killed):
        await plant.engine._treat(plant.engine._case("tank:a", plant.event().data), Cause("c"))
    plant.story.audit = audit
    plant.leases.held.clear()


async def restarted(plant: Plant) -> None:
    plant.engine = plant.new_engine()
    plant.engine.look_again()
    await quiet(plant)


@pytest.mark.parametrize("step", ["undoing", "undone"])
async def test_a_way_back_that_was_cut_off_is_never_gone_twice(plants, step):
    plant = plants(Tanks(a=20), remedy((drain("x", 2, Pour), drain("z", 9))), max_attempts=1)
    plant.tanks.fail = {"z"}

    await killed(plant, step, "undo-x")
    if step == "undoing":
        assert plant.incident().begun is None  # written down in the audit only: it can't have begun
    await restarted(plant)

    assert plant.tanks.log.count("undo-x") <= plant.tanks.log.count("x")


async def test_a_way_back_of_which_nobody_knows_how_far_it_got_is_left_to_a_person(plants):
    plant = plants(Tanks(a=20), remedy((drain("x", 2, Pour), drain("z", 9))))
    plant.tanks.fail = {"z"}
    await killed(plant, "undone", "undo-x")
    assert plant.incident().begun.undo

    await restarted(plant)

    assert plant.tanks.log == ["x", "undo-x"]
    assert plant.incident().state is IncidentState.STUCK
    assert "interrupted while taking back" in plant.story.alerts[-1].title


async def test_what_was_taken_back_after_a_crash_is_not_taken_back_again_after_the_next(plants):
    plant = plants(Tanks(a=20), remedy((drain("x", 2, Pour),)))
    await killed(plant, "acted")
    plant.engine = plant.new_engine()
    await killed(plant, "undone")

    await restarted(plant)

    assert plant.tanks.log == ["x", "undo-x"]
    assert plant.tanks.water == {"a": 20}
    assert plant.incident().state is IncidentState.STUCK


async def test_a_way_back_that_fails_unexpectedly_leaves_the_target_to_a_person(plants, caplog):
    plant = plants(Tanks(a=20), remedy((drain("x", 2, Pour), drain("z", 9)), (drain("w", 9),)))
    plant.tanks.fail, plant.tanks.crash = {"z"}, {"undo-x"}

    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == ["x"]
    assert plant.incident().state is IncidentState.STUCK
    assert "the valve exploded" in caplog.text
    assert last(plant, "undone")["outcome"] is Outcome.FAILED


async def test_a_broken_action_stays_known_while_those_before_it_are_taken_back(plants):
    plant = plants(Tanks(a=20), remedy((drain("x", 2, Pour), drain("z", 9, Blast))))
    plant.tanks.crash = {"z"}

    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == ["x", "undo-x"]
    assert plant.incident().state is IncidentState.STUCK
    assert any("unexpected error in blast" in alert.title for alert in plant.story.alerts)


async def test_a_setting_that_did_not_help_is_taken_back_once(plants):
    plant = plants(Tanks(a=20), remedy((drain("x", 2, Setting),)))
    plant.tanks.leak = {"x", "undo-x"}

    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == ["x", "undo-x"]
    assert plant.incident().begun is None


async def test_the_mode_of_what_follows_a_recovery_is_that_of_the_policy(plants):
    plant = plants(Tanks(a=20), remedy((drain("x", 2, Pour),)))
    await killed(plant, "acted")
    plant.policy = plant.policy.model_copy(update={"mode": Mode.OBSERVE})

    await restarted(plant)

    assert last(plant, "undone")["mode"] is Mode.AUTO
    assert (last(plant, "refused")["rule"], last(plant, "refused")["mode"]) == ("mode", Mode.OBSERVE)


# Telling.


async def test_every_audit_record_names_the_version_of_the_policy_in_force(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)))
    await plant.engine.on_health(plant.event())

    assert {record["policy"] for record in plant.story.records} == {plant.policy.version}


async def test_a_person_hears_of_a_stuck_target_although_the_audit_has_no_room(plants):
    plant = plants(Tanks(a=20), remedy((drain("x", 2, Blast),)), max_attempts=1)
    plant.story.refuse_audit = {"stuck"}

    await plant.engine.on_health(plant.event())

    assert plant.incident().state is IncidentState.STUCK
    assert any("needs a person" in alert.title for alert in plant.story.alerts)


async def test_a_target_settles_before_it_is_measured(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)), settle=timedelta(seconds=30))
    running = asyncio.ensure_future(plant.engine.on_health(plant.event()))
    await settled(lambda: plant.tanks.log == ["x"] and plant.clock.waiting())
    assert plant.clock.next_wake() <= timedelta(seconds=30)
    observed = plant.tanks.observed
    plant.clock.advance(timedelta(seconds=30))
    await running

    assert plant.tanks.observed == observed + 1
