"""What is taken back when a later action fails, whichever walk did it, and whoever died in between."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, ClassVar, Literal

import pytest

from functions.core import case_file
from functions.core.case_file import Cause
from functions.core.plan import Action
from functions.core.remedy import Remedy
from schemas.freeze import Freeze
from schemas.incident import IncidentState
from schemas.remediation import ActionResult, Mode, Outcome, UndoWhen
from schemas.trigger import Asked, Trigger
from tests.functions.core.conftest import passed, quiet
from tests.functions.core.situations import HOUR, MINUTE
from tests.functions.core.tank import Blast, Drain, Plant, Pour, Setting, TankFound, Tanks, remedy

NAMED = "tank:a"


class LeverBack(Drain):
    """Looks whether it was done already, so that it may begin again."""

    action: Literal["lever_back"] = "lever_back"

    def apply(self, tools: Any) -> ActionResult:
        if self.name.removeprefix("undo-") not in in_effect(tools.log):
            return ActionResult(outcome=Outcome.SKIPPED)
        return super().apply(tools)


class Lever(Drain):
    """Bound to what comes later; its way back may be gone twice."""

    undo_when: ClassVar[UndoWhen] = UndoWhen.FAILED
    repeatable: ClassVar[bool] = False
    action: Literal["lever"] = "lever"

    def inverse(self, result: ActionResult | None) -> LeverBack:
        return LeverBack(tank=self.tank, litres=-self.litres, name=f"undo-{self.name}")


class BackOnce(LeverBack):
    repeatable: ClassVar[bool] = False
    action: Literal["back_once"] = "back_once"


class LeverOnce(Lever):
    """When its way back is cut off, nobody knows how far that got."""

    action: Literal["lever_once"] = "lever_once"

    def inverse(self, result: ActionResult | None) -> BackOnce:
        return BackOnce(tank=self.tank, litres=-self.litres, name=f"undo-{self.name}")


class CheckedLever(Lever):
    """May itself begin again."""

    repeatable: ClassVar[bool] = True
    action: Literal["checked_lever"] = "checked_lever"


class OneWay(Drain):
    """Is bound to what comes later, and has no way back."""

    undo_when: ClassVar[UndoWhen] = UndoWhen.FAILED
    repeatable: ClassVar[bool] = False
    action: Literal["one_way"] = "one_way"


KINDS = (Drain, Pour, Setting, Blast, Lever, LeverOnce, CheckedLever, LeverBack, BackOnce, OneWay)


def act(name: str, kind: type[Drain] = Lever, litres: int = 1) -> Drain:
    return kind(tank="a", litres=litres, name=name)


def repair(*rungs: tuple[Action, ...]) -> Remedy[Any, Any, Any]:
    """Leaves out what is in effect."""

    def survey(case: Any, seen: Any, probes: Tanks) -> TankFound:
        return TankFound(done=tuple(in_effect(probes.log)))

    return dataclasses.replace(remedy(*rungs), survey=survey, actions=KINDS)


def in_effect(log: Sequence[str]) -> list[str]:
    """What was done and not taken back, oldest first."""
    there: list[str] = []
    for name in log:
        if name.startswith("undo-"):
            there.remove(name.removeprefix("undo-"))
        else:
            there.append(name)
    return there


def orderly(log: Sequence[str]) -> bool:
    """Each was taken back once, and always the latest of those in effect."""
    there: list[str] = []
    for name in log:
        if not name.startswith("undo-"):
            there.append(name)
        elif not there or there.pop() != name.removeprefix("undo-"):
            return False
    return len(there) == len(set(there))


class Killed(BaseException):
    """Stands for the end of the process between two statements."""


class Fuse:
    """Kills at the boundary of that number: before and after each record, each save and each effect."""

    def __init__(self, number: int) -> None:
        self.left = number

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed

    @contextmanager
    def lit(self, plant: Plant) -> Iterator[None]:
        audit, save, drain = plant.story.audit, plant.ledger.save, plant.tanks.drain

        async def around_audit(correlation, **fields):
            self.burn()
            await audit(correlation, **fields)
            self.burn()

        async def around_save(incident, revision):
            self.burn()
            revision = await save(incident, revision)
            self.burn()
            return revision

        def around_drain(tank, amount, name):
            self.burn()
            result = drain(tank, amount, name)
            self.burn()
            return result

        plant.story.audit, plant.ledger.save, plant.tanks.drain = around_audit, around_save, around_drain  # type: ignore[method-assign]
        try:
            yield
        finally:
            plant.story.audit, plant.ledger.save, plant.tanks.drain = audit, save, drain  # type: ignore[method-assign]


async def killed(plant: Plant, number: int) -> bool:
    """One process that dies at that boundary; whether it came so far."""
    plant.engine = plant.new_engine()
    with Fuse(number).lit(plant):
        try:
            await plant.engine._treat(plant.engine._case(NAMED, plant.event().data), Cause("c"))
        except Killed:
            plant.leases.held.clear()
            return True
    return False


async def killed_at(plant: Plant, step: str, name: str = "") -> None:
    """One process that dies when that record, about the action *name*, is stored."""
    audit = plant.story.audit

    async def die(correlation, **fields):
        await audit(correlation, **fields)
        titled = fields["action"].title if fields.get("action") is not None else ""
        if str(fields["step"]) == step and titled.endswith(name):
            raise Killed

    plant.engine = plant.new_engine()
    plant.story.audit = die  # type: ignore[method-assign]
    with pytest.raises(Killed):
        await plant.engine._treat(plant.engine._case(NAMED, plant.event().data), Cause("c"))
    plant.story.audit = audit  # type: ignore[method-assign]
    plant.leases.held.clear()


async def restarted(plant: Plant) -> None:
    plant.engine = plant.new_engine()
    await plant.engine.on_health(plant.event())
    await quiet(plant)


async def again(plant: Plant) -> None:
    """The next attempt, when the cooldown is over."""
    attempts = plant.story.steps.count("planned")
    await passed(plant, HOUR, lambda: plant.story.steps.count("planned") > attempts)
    await quiet(plant)


def titles(plant: Plant) -> list[str]:
    return [alert.title for alert in plant.story.alerts]


# Whoever dies, and wherever.


@pytest.mark.parametrize("kind", [Lever, CheckedLever])
async def test_a_failure_takes_back_everything_bound_to_it_wherever_somebody_was_killed(plants, kind):
    rungs = ((act("x", kind), act("y", kind)), (act("z", kind),))
    number, reached = 1, True
    while reached:
        plant = plants(Tanks(a=20), repair(*rungs), max_attempts=1)
        plant.tanks.fail = {"z"}
        reached = await killed(plant, number)
        await restarted(plant)

        log = plant.tanks.log
        assert orderly(log), (number, log)
        assert in_effect(log) == [], (number, log)
        assert plant.incident().state is IncidentState.STUCK
        assert plant.incident().done == ()
        number += 1
    assert number > 40


async def test_nor_does_it_matter_where_the_one_that_recovers_is_killed(plants):
    rungs = ((act("x"), act("y")), (act("z"),))
    first, reached = 1, True
    while reached:
        second, reached_again = 1, True
        while reached_again:
            plant = plants(Tanks(a=20), repair(*rungs), max_attempts=1)
            plant.tanks.fail = {"z"}
            reached = await killed(plant, first)
            reached_again = await killed(plant, second)
            await restarted(plant)

            log = plant.tanks.log
            assert orderly(log), (first, second, log)
            assert in_effect(log) == [], (first, second, log)
            assert plant.incident().state is IncidentState.STUCK
            second += 5
        first += 3


async def test_a_way_back_that_can_not_begin_again_is_left_to_a_person_and_the_others_are_gone(plants):
    rungs, number, reached, unknown = ((act("x", LeverOnce), act("y", LeverOnce)), (act("z"),)), 1, True, 0
    while reached:
        plant = plants(Tanks(a=20), repair(*rungs), max_attempts=1)
        plant.tanks.fail = {"z"}
        reached = await killed(plant, number)
        await restarted(plant)

        left = in_effect(plant.tanks.log)  # raises when one is taken back that is not there
        told = [title for title in titles(plant) if "interrupted while taking back" in title]
        unknown += bool(told)
        assert len(left) <= len(told), (number, plant.tanks.log)
        assert plant.incident().state is IncidentState.STUCK
        assert plant.incident().done == ()
        number += 1
    assert (
        unknown == 12
    )  # of each of two: its intent stored, before it, after it, before and after its record, not stored


async def test_one_that_broke_in_the_middle_is_not_forgotten_when_somebody_dies_while_earlier_ones_are_taken_back(
    plants,
):
    plant = plants(Tanks(a=20), repair((act("x"), act("z", Blast))))
    plant.tanks.crash = {"z"}
    await killed_at(plant, "undone", "undo-x")
    plant.tanks.crash = set()

    await restarted(plant)

    assert plant.tanks.log == ["x", "undo-x"]
    assert plant.incident().state is IncidentState.STUCK
    assert "broke in the middle of: drain 1 l by z; how far it got is not known" in titles(plant)[-1]


async def test_a_way_back_that_failed_is_known_to_have_failed_although_its_process_died_at_once(plants):
    plant = plants(Tanks(a=20), repair((act("x", Pour), act("y"), act("z"))))
    plant.tanks.fail = {"z", "undo-x"}
    await killed_at(plant, "undone", "undo-x")

    await restarted(plant)

    assert plant.tanks.log == ["x", "y", "undo-y"]
    assert plant.incident().state is IncidentState.STUCK


async def test_after_one_way_back_failed_the_next_process_goes_the_others(plants):
    plant = plants(Tanks(a=20), repair((act("x"), act("y"), act("z"))))
    plant.tanks.fail = {"z", "undo-y"}
    await killed_at(plant, "stuck")
    assert plant.incident().state is IncidentState.STUCK
    assert plant.tanks.log == ["x", "y"]

    await restarted(plant)

    assert plant.tanks.log == ["x", "y", "undo-x"]
    assert plant.incident().state is IncidentState.STUCK
    assert plant.story.steps.count("planned") == 1


async def test_a_way_back_that_ends_its_process_each_time_does_not_begin_for_ever(plants):
    plant = plants(Tanks(a=20), repair((act("x"), act("y"), act("z"))))
    plant.tanks.fail = {"z"}
    drain, begun = plant.tanks.drain, []

    def deadly(tank, amount, name):
        if name == "undo-y":
            begun.append(name)
            raise Killed
        return drain(tank, amount, name)

    plant.tanks.drain = deadly
    for _ in range(10):
        plant.engine = plant.new_engine()
        try:
            await plant.engine._treat(plant.engine._case(NAMED, plant.event().data), Cause("c"))
        except Killed:
            plant.leases.held.clear()

    assert len(begun) == 4
    assert plant.tanks.log == ["x", "y", "undo-x"]
    assert plant.incident().state is IncidentState.STUCK


async def test_what_is_healthy_by_the_time_somebody_goes_on_is_left_as_it_is(plants):
    plant = plants(Tanks(a=20), repair((act("x"), act("y"), act("z"))))
    plant.tanks.fail = {"z"}
    await killed_at(plant, "undone", "undo-y")
    plant.tanks.water["a"] = 5

    await restarted(plant)

    assert plant.tanks.log == ["x", "y", "undo-y"]
    assert (plant.incident().state, plant.incident().done) == (IncidentState.CLOSED, ())


async def test_an_action_of_a_kind_that_an_upgrade_took_away_is_left_to_a_person_and_the_others_are_taken_back(plants):
    plant = plants(Tanks(a=20), repair((act("x"), act("y", Pour), act("z"))))
    await killed_at(plant, "acted", "y")
    plant.tanks.fail = {"z"}
    await restarted(plant)
    assert plant.tanks.log == ["x", "y", "undo-y", "y", "undo-y", "undo-x"]

    plant = plants(Tanks(a=20), repair((act("x"), act("y", Pour), act("z"))))
    await killed_at(plant, "acting", "z")
    plant.tanks.fail = {"z"}
    plant.remedy = dataclasses.replace(plant.remedy, actions=tuple(kind for kind in KINDS if kind is not Pour))
    await restarted(plant)

    assert plant.tanks.log == ["x", "y", "undo-x"]
    assert plant.incident().state is IncidentState.STUCK
    assert "an action of a kind this version doesn't know is to be taken back: pour" in " ".join(titles(plant))


# Nobody dies, and yet another walk goes on.


async def test_a_later_attempt_that_fails_takes_back_what_an_earlier_one_did(plants):
    plant = plants(Tanks(a=20), repair((act("x"), act("z"))), cooldown=MINUTE)
    plant.tanks.busy = {"z"}
    await plant.engine.on_health(plant.event())
    assert plant.tanks.log == ["x"]
    plant.tanks.busy, plant.tanks.fail = set(), {"z"}

    await again(plant)

    assert plant.tanks.log == ["x", "undo-x"]
    assert plant.story.events[-1].report.outcome is Outcome.ROLLED_BACK
    assert plant.incident().done == ()


async def test_what_was_put_off_or_skipped_is_not_taken_back(plants):
    plant = plants(Tanks(a=20), repair((act("x"), act("y"), act("z"))))
    plant.tanks.busy, plant.tanks.fail = {"x"}, {"z"}

    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == ["y", "undo-y"]


async def test_what_failed_and_was_taken_back_is_not_taken_back_again_when_the_next_one_fails(plants):
    plant = plants(Tanks(a=20), repair((act("x", Pour), act("y", Pour))))
    plant.tanks.fail = {"x", "y"}

    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == ["undo-x", "undo-y"]  # each was half done, for all that is known


@pytest.mark.parametrize("how", ["stopped", "frozen"])
async def test_a_walk_that_goes_on_after_a_stop_or_a_freeze_takes_back_what_the_first_half_did(plants, how):
    plant = plants(Tanks(a=20), repair((act("x"), act("y"), act("z"))))
    plant.tanks.fail = {"z"}
    drain = plant.tanks.drain

    def interrupted(tank, amount, name):
        if how == "stopped":
            plant.engine._stopping = True
        else:
            plant.brake.freeze = Freeze(since=plant.clock.now())
        return drain(tank, amount, name)

    plant.tanks.drain = interrupted
    await plant.engine.on_health(plant.event())
    assert plant.tanks.log == ["x"]
    plant.tanks.drain, plant.brake.freeze = drain, None

    await restarted(plant)

    assert plant.tanks.log == ["x", "y", "undo-y", "undo-x"]


async def test_that_a_person_lifted_it_in_between_changes_nothing(plants):
    plant = plants(Tanks(a=20), repair((act("x"), act("z"))), max_attempts=1)
    plant.tanks.busy = {"z"}
    await plant.engine.on_health(plant.event())
    assert plant.incident().state is IncidentState.STUCK
    plant.tanks.busy, plant.tanks.fail = set(), {"z"}

    await plant.engine.on_trigger(Trigger(target=NAMED, mode=Asked.LIVE), "c", "me")

    assert plant.tanks.log == ["x", "undo-x"]


async def test_nothing_is_kept_beyond_the_incident(plants):
    plant = plants(Tanks(a=12), repair((act("x"), act("y"))), cooldown=timedelta(0))
    await plant.engine.on_health(plant.event())
    assert (plant.tanks.log, plant.incident().state) == (["x", "y"], IncidentState.CLOSED)
    assert plant.incident().done == ()
    object.__setattr__(plant.engine.remedy, "plan", repair((act("z"),)).plan)
    plant.tanks.water["a"], plant.tanks.fail = 20, {"z"}

    await plant.engine.on_health(plant.event())

    assert "failed" in plant.story.steps
    assert plant.tanks.log == ["x", "y"]


# Settings.


async def test_a_setting_of_an_earlier_walk_is_not_judged_by_a_later_rung_but_goes_back_when_something_fails(plants):
    plant = plants(Tanks(a=20), repair((act("x", Setting), act("y", Setting)), (act("z"),)), cooldown=MINUTE)
    plant.tanks.leak, plant.tanks.busy = {"y", "undo-y"}, {"z"}
    await killed_at(plant, "acting", "y")
    await restarted(plant)
    assert plant.tanks.log == ["x", "y", "undo-y"]  # y is first in its plan, as x was in the one before
    plant.tanks.busy, plant.tanks.fail = set(), {"z"}

    await again(plant)

    assert plant.tanks.log == ["x", "y", "undo-y", "undo-x"]


async def test_a_setting_that_went_back_because_it_did_not_help_is_not_taken_back_again_by_a_failure(plants):
    plant = plants(Tanks(a=20), repair((act("x", Setting),), (act("y"), act("z"))))
    plant.tanks.leak, plant.tanks.fail = {"x", "undo-x"}, {"z"}

    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == ["x", "undo-x", "y", "undo-y"]


async def test_only_the_settings_of_the_rung_that_did_not_help_go_back(plants):
    plant = plants(Tanks(a=20), repair((act("x", Setting, 2),), (act("y", Setting), act("w"))))
    plant.tanks.leak = {"y", "w", "undo-y"}

    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == ["x", "y", "w", "undo-y"]
    assert [done.action["name"] for done in plant.incident().done] == ["x", "w"]


async def test_that_settings_did_not_help_is_remembered_when_somebody_dies_on_their_way_back(plants):
    plant = plants(Tanks(a=20), repair((act("x", Setting), act("y", Setting))), max_attempts=2)
    plant.tanks.leak = {"x", "y", "undo-x", "undo-y"}
    await killed_at(plant, "undone", "undo-y")
    assert [done.due for done in plant.incident().done] == [True]

    await restarted(plant)

    assert plant.tanks.log == ["x", "y", "undo-y", "undo-x"]
    assert plant.incident().state is IncidentState.STUCK  # for all that is known undo-y was cut off


# A dry run.


async def test_a_dry_run_takes_nothing_back_even_when_something_unexpected_happens(plants, caplog):
    plant = plants(Tanks(a=20), repair((act("x"), act("z"))), cooldown=MINUTE)
    plant.tanks.busy = {"z"}
    await plant.engine.on_health(plant.event())
    plant.policy = plant.policy.model_copy(update={"mode": Mode.DRY_RUN})
    plant.engine = plant.new_engine()
    raised: list[RuntimeError] = []

    def items(action):
        if plant.story.steps[-1] == "planned" and not raised:
            raised.append(RuntimeError("no idea"))
            raise raised[0]
        return [action.name]

    odd = type("Odd", (Lever,), {"items": items})
    object.__setattr__(plant.engine.remedy, "plan", repair((act("y", odd),)).plan)
    await plant.engine.on_health(plant.event())

    assert "unexpected error in action lever" in caplog.text
    assert plant.story.steps[-2:] == ["failed", "would"]
    assert plant.tanks.log == ["x"]
    assert [done.action["name"] for done in plant.incident().done] == ["x"]


# What it costs.


async def stored(plants, *rungs: tuple[Action, ...], water: int = 20) -> tuple[Plant, list[str]]:
    """What one attempt writes into the ledger, as JSON."""
    plant = plants(Tanks(a=water), repair(*rungs))
    save, written = plant.ledger.save, []

    async def noted(incident, revision):
        written.append(incident.model_dump_json())
        return await save(incident, revision)

    plant.ledger.save = noted
    await plant.engine.on_health(plant.event())
    return plant, written


async def test_what_is_never_taken_back_leaves_no_trace_in_what_is_stored(plants):
    _, repeatable = await stored(plants, (act("x", Drain), act("y", Drain)))
    _, other = await stored(plants, (act("x", Blast), act("y", Blast)))

    assert not [each for each in (*repeatable, *other) if '"done":' in each]
    assert (len(repeatable), len(other)) == (4, 6)  # opened, an intent for each, the end; and what came of each


async def test_what_may_be_taken_back_is_stored_with_what_is_stored_anyway(plants):
    _, never = await stored(plants, (act("x", Blast), act("y", Blast)))
    _, bound = await stored(plants, (act("x"), act("y")))
    assert len(bound) == len(never)


async def test_one_that_could_begin_again_is_remembered_too_before_the_next_one_begins(plants):
    plant, written = await stored(plants, (act("x", CheckedLever), act("y", CheckedLever)))

    assert [done.action["name"] for done in plant.incident().done] == ["x", "y"]
    assert [each.count('"due"') for each in written] == [0, 0, 1, 1, 2, 2]


async def test_more_than_can_be_remembered_is_not_done(plants, monkeypatch):
    monkeypatch.setattr(case_file, "REMEMBERED", 2_000)
    many = tuple(act(f"n{number}") for number in range(9))
    plant, written = await stored(plants, many, (act("w", Drain),), water=50)

    assert 2 < len(plant.tanks.log) < 9
    assert max(map(len, written)) < 2_500
    assert "there is no room to remember more" in plant.story.events[-1].text
    done = list(plant.tanks.log)
    await again(plant)
    assert plant.tanks.log == done


async def test_one_that_is_bound_but_has_no_way_back_stays(plants):
    plant = plants(Tanks(a=20), repair((act("x"), act("y", OneWay), act("z"))))
    plant.tanks.fail = {"z"}

    await plant.engine.on_health(plant.event())

    assert plant.tanks.log == ["x", "y", "undo-x"]
    assert plant.incident().done == ()
