"""The engine's path, on a world of tanks."""

import asyncio
from datetime import timedelta

import pytest

from functions.core.treatment import SETTLED
from schemas.health import Level
from schemas.incident import IncidentState
from schemas.remediation import Mode, Outcome
from schemas.trigger import Asked, Trigger
from tests.functions.core.conftest import settled
from tests.functions.core.tank import Blast, Drain, Pour, Setting, Tanks, remedy


def drain(name: str, litres: int, kind: type[Drain] = Drain, exact: bool = True) -> Drain:
    return kind(tank="a", litres=litres, name=name, exact_estimate=exact)


async def test_a_healthy_event_touches_nothing(plants):
    plant = plants(Tanks(a=5), remedy((drain("x", 5),)))

    assert await plant.engine.on_health(plant.event(level=Level.OK)) == SETTLED

    assert (plant.tanks.observed, plant.ledger.loads, plant.story.records) == (0, 0, [])


async def test_a_closed_gap_without_incident_touches_neither_ledger_nor_audit(plants):
    plant = plants(Tanks(a=5), remedy((drain("x", 5),)))

    assert await plant.engine.on_health(plant.event()) == SETTLED

    assert plant.tanks.observed == 1
    assert (plant.ledger.loads, plant.ledger.saves, plant.story.records) == (0, 0, [])


async def test_an_open_gap_is_healed_and_the_story_told_in_order(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 3), drain("y", 3)), (drain("z", 9),)))

    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == ["x", "y"]
    assert plant.story.steps == ["opened", "planned", "acting", "acted", "acting", "acted", "healed"]
    assert [alert.state for alert in plant.story.alerts] == ["opened", "resolved"]
    assert plant.incident().state is IncidentState.CLOSED
    report = plant.story.events[-1].report
    assert report is not None
    assert (report.outcome, report.gap_after.amount, report.rungs[0].freed) == (Outcome.DONE, -1, {"litres": 6})
    assert plant.story.events[-1].final


async def test_the_alert_is_stored_before_anything_is_planned(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)))
    plant.story.refuse_alerts = True

    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == []
    assert plant.story.records[-1]["rule"] == "alert_first"


async def test_what_live_does_is_the_prefix_that_the_dry_run_foretold(plants):
    ladder = ((drain("x", 2), drain("y", 2)), (drain("z", 2), drain("w", 2)))
    dry, live = plants(Tanks(a=15), remedy(*ladder), Mode.DRY_RUN), plants(Tanks(a=15), remedy(*ladder))

    await dry.engine.on_health(dry.event())
    await live.engine.on_health(live.event())

    assert dry.tanks.log == []
    assert dry.tanks.water == {"a": 15}
    foretold = dry.story.events[-1].report
    done = live.story.events[-1].report
    assert foretold is not None
    assert done is not None
    assert [rung.done for rung in foretold.rungs] == [rung.done for rung in done.rungs] == [2, 1]
    assert live.tanks.log == ["x", "y", "z"]
    assert dry.story.steps == ["opened", "planned", "would"]


async def test_a_dry_run_goes_on_past_an_estimate_that_is_only_at_most(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9, exact=False),), (drain("y", 9),)), Mode.DRY_RUN)

    await plant.engine.on_health(plant.event())

    assert [rung.outcome for rung in plant.story.events[-1].report.rungs] == [Outcome.WOULD, Outcome.WOULD]


async def test_no_audit_no_action(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)))
    plant.story.refuse_audit = {"acting"}

    verdict = await plant.engine.on_health(plant.event())
    await plant.engine.on_health(plant.event())

    assert verdict.retry_after is not None
    assert plant.tanks.log == []
    assert plant.leases.held == {}
    assert [alert.state for alert in plant.story.alerts] == ["opened", "refused"]
    assert "could not be written down: the audit stream is full" in plant.story.alerts[-1].title


async def test_an_expected_failure_is_told_and_the_next_rung_goes_on(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),), (drain("y", 9),)))
    plant.tanks.fail = {"x"}

    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == ["y"]
    assert "failed" in plant.story.steps
    report = plant.story.events[-1].report
    assert report.rungs[0].not_done[0].reason == "valve x is jammed; open it by hand"
    assert plant.incident().state is IncidentState.CLOSED


async def test_a_failed_action_brings_the_earlier_reversible_ones_back(plants):
    plant = plants(Tanks(a=20), remedy((drain("x", 2, Pour), drain("y", 2, Pour), drain("z", 9))))
    plant.tanks.fail = {"z"}

    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == ["x", "y", "undo-y", "undo-x"]
    assert plant.tanks.water == {"a": 20}
    assert plant.story.events[-1].report.outcome is Outcome.ROLLED_BACK


async def test_the_gap_is_measured_again_after_something_was_taken_back(plants):
    plant = plants(Tanks(a=20), remedy((drain("x", 5, Pour), drain("z", 9))))
    plant.tanks.fail = {"z"}

    await plant.engine.on_health(plant.event())

    assert plant.story.events[-1].report.gap_after.amount == 10


async def test_a_way_back_that_fails_leaves_the_target_to_a_person_and_nothing_more_is_done(plants):
    plant = plants(Tanks(a=20), remedy((drain("x", 2, Pour), drain("z", 9)), (drain("w", 9),)))
    plant.tanks.fail = {"z", "undo-x"}

    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == ["x"]
    assert plant.incident().state is IncidentState.STUCK
    assert "could not take back" in plant.story.alerts[1].title


async def test_a_setting_that_did_not_help_is_taken_back_and_the_next_rung_tried(plants):
    plant = plants(Tanks(a=20), remedy((drain("x", 2, Setting),), (drain("w", 12),)))
    plant.tanks.leak = {"x", "undo-x"}

    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == ["x", "undo-x", "w"]
    assert plant.incident().state is IncidentState.CLOSED


async def test_a_rung_that_was_only_put_off_is_tried_again(plants):
    plant = plants(Tanks(a=20), remedy((drain("x", 9),), (drain("y", 3),)), cooldown=timedelta(minutes=1))
    plant.tanks.busy = {"x"}
    await plant.engine.on_health(plant.event())
    plant.tanks.busy = set()
    await settled(plant.clock.waiting)
    plant.clock.advance(timedelta(minutes=2))

    await settled(lambda: plant.tanks.log[:2] == ["y", "x"])


async def test_an_unexpected_error_is_audited_and_taken_back(plants, caplog):
    plant = plants(Tanks(a=20), remedy((drain("x", 2, Pour), drain("z", 9, Pour)), (drain("w", 9),)))
    plant.tanks.crash = {"z"}

    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == ["x", "undo-z", "undo-x"]
    assert "the valve exploded" in caplog.text
    assert any("unexpected error in pour" in str(record.get("text")) for record in plant.story.records)


async def test_an_unexpected_error_that_cannot_be_taken_back_leaves_the_incident_to_a_person(plants):
    plant = plants(Tanks(a=20), remedy((drain("z", 9, Blast),)))
    plant.tanks.crash = {"z"}

    await plant.engine.on_health(plant.event())

    assert plant.incident().state is IncidentState.STUCK
    await plant.engine.on_health(plant.event())
    assert plant.tanks.log == []


async def test_a_rung_that_freed_nothing_is_left_out_for_hours(plants):
    plant = plants(Tanks(a=20), remedy((drain("x", 9),), (drain("y", 3),)), cooldown=timedelta(minutes=1))
    plant.tanks.leak = {"x"}

    await plant.engine.on_health(plant.event())
    assert plant.tanks.log == ["x", "y"]
    await settled(plant.clock.waiting)
    plant.clock.advance(timedelta(minutes=2))

    await settled(lambda: plant.tanks.log == ["x", "y", "y"])


async def test_after_the_last_attempt_a_person_must_look_and_a_live_order_lifts_it(plants):
    plant = plants(Tanks(a=20), remedy((drain("x", 1),)), cooldown=timedelta(minutes=1), max_attempts=2)
    await plant.engine.on_health(plant.event())
    await settled(plant.clock.waiting)
    plant.clock.advance(timedelta(minutes=2))
    await settled(lambda: plant.incident().state is IncidentState.STUCK)
    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == ["x", "x"]
    plant.tanks.water["a"] = 11
    await plant.engine.on_trigger(Trigger(target="tank:a", mode=Asked.LIVE), "c", "me")
    assert plant.incident().state is IncidentState.CLOSED


async def test_a_second_attempt_waits_for_the_cooldown(plants):
    plant = plants(Tanks(a=20), remedy((drain("x", 1),)), cooldown=timedelta(minutes=15))

    await plant.engine.on_health(plant.event())
    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == ["x"]


async def test_the_engine_looks_again_by_itself_after_the_grace_period(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),), grace=timedelta(minutes=5)))

    await plant.engine.on_health(plant.event())
    assert plant.tanks.log == []
    assert plant.story.steps == ["opened", "deferred"]
    await asyncio.sleep(0)
    plant.clock.advance(timedelta(minutes=6))
    await settled(lambda: plant.story.steps[-1] == "healed")

    assert plant.tanks.log == ["x"]


async def test_advice_is_told_but_never_carried_out(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),), advice="below critical"))

    await plant.engine.on_health(plant.event(level=Level.WARNING))

    assert plant.tanks.log == []
    assert plant.story.steps == ["opened", "planned", "would"]


def advised(plan):
    return lambda *arguments: plan(*arguments).model_copy(update={"advice": "below critical"})


async def test_a_cure_that_was_begun_is_brought_to_its_end_also_where_the_rest_is_advice(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 3), drain("y", 3)), once=True), max_actions=1)
    await plant.engine.on_health(plant.event())
    assert plant.tanks.log == ["x"]
    object.__setattr__(plant.engine.remedy, "plan", advised(plant.remedy.plan))
    await settled(plant.clock.waiting)
    plant.clock.advance(timedelta(hours=1))

    await settled(lambda: plant.tanks.log == ["x", "y"])


async def test_unknown_truth_neither_acts_nor_closes(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 1),)), cooldown=timedelta(0))
    await plant.engine.on_health(plant.event())
    plant.tanks.broken_probe = "the gauge is dirty"

    await plant.engine.on_health(plant.event())
    await plant.engine.on_health(plant.event(level=Level.UNKNOWN))

    assert plant.tanks.log == ["x"]
    assert plant.incident().open


async def test_an_incident_whose_gap_closed_by_itself_is_resolved(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)), Mode.DRY_RUN)
    await plant.engine.on_health(plant.event())
    plant.tanks.water["a"] = 3

    await plant.engine.on_health(plant.event(level=Level.OK))

    assert plant.incident().state is IncidentState.CLOSED
    assert plant.story.alerts[-1].state == "resolved"


async def test_a_busy_target_comes_back_later(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)))
    await plant.leases.acquire(["tank:a"])

    verdict = await plant.engine.on_health(plant.event())

    assert verdict.retry_after is not None
    assert plant.tanks.log == []


async def test_a_burst_of_events_is_one_plan_and_one_set_of_actions(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)))

    await asyncio.gather(*(plant.engine.on_health(plant.event()) for _ in range(10)))

    assert plant.tanks.log == ["x"]
    assert plant.story.steps.count("planned") == 1


async def test_a_backlog_of_events_about_one_target_costs_one_observation(plants):
    plant = plants(Tanks(a=5), remedy((drain("x", 9),)))
    backlog = [plant.event() for _ in range(100)]

    await asyncio.gather(*(plant.engine.on_health(event) for event in backlog))

    assert plant.tanks.observed == 1


async def test_a_protected_target_is_refused_once_with_the_rule(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)), protected_targets=("tank:*",))

    await plant.engine.on_health(plant.event())
    await plant.engine.on_health(plant.event())

    refusals = [record for record in plant.story.records if record["step"] == "refused"]
    assert [(record["rule"], record["limit"], record["seen"]) for record in refusals] == [
        ("protected_targets", "tank:*", "tank:a")
    ]
    assert plant.tanks.log == []


async def test_an_event_about_what_the_configuration_does_not_know_is_refused_once(plants):
    plant = plants(Tanks(a=15, hidden=15), remedy((drain("x", 9),)))
    object.__setattr__(plant.engine.remedy, "targets", lambda settings, probes: ["tank:a"])

    for _ in range(3):
        await plant.engine.on_health(plant.event("tank:hidden"))

    assert [(record["rule"], record["seen"]) for record in plant.story.records] == [("target", "tank:hidden")]
    assert (plant.tanks.log, plant.story.alerts, plant.ledger.incidents) == ([], [], {})


async def test_a_trigger_asks_for_live_but_the_policy_decides(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)), Mode.DRY_RUN)

    await plant.engine.on_trigger(Trigger(target="tank:a", mode=Asked.LIVE), "c", "me")

    assert plant.tanks.log == []
    refusal = next(record for record in plant.story.records if record["step"] == "refused")
    assert (refusal["rule"], refusal["limit"], refusal["seen"], refusal["who"]) == ("mode", "dry_run", "live", "me")


async def test_an_empty_trigger_evaluates_every_target_and_changes_none(plants):
    plant = plants(Tanks(a=15, b=5), remedy((drain("x", 9),)))

    await plant.engine.on_trigger(Trigger(mode=Asked.LIVE), "c", "me")

    assert plant.tanks.log == []
    assert {event.target for event in plant.story.events if event.final} == {"tank:a", "tank:b"}
    assert plant.ledger.incidents == {}


async def test_a_trigger_for_an_unknown_target_names_the_known_ones(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)))

    await plant.engine.on_trigger(Trigger(target="tank:q"), "c", "me")

    assert "known are tank:a" in plant.story.events[-1].text


async def test_a_target_may_be_named_by_its_last_part(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),)))

    await plant.engine.on_trigger(Trigger(target="a", mode=Asked.LIVE), "c", "me")

    assert plant.tanks.log == ["x"]


async def test_a_live_order_skips_grace_and_cooldown(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 9),), grace=timedelta(hours=1)))

    await plant.engine.on_trigger(Trigger(target="tank:a", mode=Asked.LIVE), "c", "me")

    assert plant.tanks.log == ["x"]


class Killed(BaseException):
    """Stands for the end of the process between two statements."""


@pytest.mark.parametrize("step", ["acting", "acted", "planned", "healed"])
async def test_a_new_process_ends_what_a_killed_one_left(plants, step, monkeypatch):
    plant = plants(Tanks(a=15), remedy((drain("x", 3), drain("y", 3))))
    audit = plant.story.audit

    async def die(correlation, **fields):
        await audit(correlation, **fields)
        if str(fields["step"]) == step:
            raise Killed

    monkeypatch.setattr(plant.story, "audit", die)
    with pytest.raises(Killed):
        await plant.engine.on_health(plant.event())
    monkeypatch.undo()
    plant.leases.held.clear()

    plant.engine = plant.new_engine()
    plant.engine.look_again()
    await settled(lambda: not plant.incident().open)

    assert plant.tanks.water["a"] <= 10
    assert len(plant.tanks.log) == len(set(plant.tanks.log)) or step == "acted"
    assert not plant.incident().open


async def test_an_interrupted_action_without_a_way_back_is_left_to_a_person(plants, monkeypatch):
    plant = plants(Tanks(a=15), remedy((drain("x", 9, Blast),)))
    save = plant.ledger.save

    async def die(incident, revision):
        revision = await save(incident, revision)
        if incident.begun is not None:
            raise Killed
        return revision

    monkeypatch.setattr(plant.ledger, "save", die)
    with pytest.raises(Killed):
        await plant.engine.on_health(plant.event())
    monkeypatch.undo()
    plant.leases.held.clear()
    plant.engine = plant.new_engine()
    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == []
    assert plant.incident().state is IncidentState.STUCK
    assert "how far it got is not known" in plant.story.alerts[-1].title


async def test_stopping_ends_after_the_running_action_and_the_next_start_goes_on(plants):
    plant = plants(Tanks(a=15), remedy((drain("x", 3), drain("y", 3)), once=True))
    first = plant.tanks.drain

    def stop_meanwhile(tank, amount, name):
        plant.engine._stopping = True
        return first(tank, amount, name)

    plant.tanks.drain = stop_meanwhile
    verdict = await plant.engine.on_health(plant.event())
    assert verdict.retry_after is not None
    assert plant.tanks.log == ["x"]
    plant.tanks.drain = first

    plant.engine = plant.new_engine()
    plant.engine.look_again()
    await settled(lambda: not plant.incident().open)

    assert plant.tanks.log == ["x", "y"]
    assert "recovered" in plant.story.steps
