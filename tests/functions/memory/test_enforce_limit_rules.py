"""Rules of limits that hold for all figures."""

import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from functions.core.plan import Action
from functions.memory.enforce_limit import REMEDY
from functions.memory.limit_actions import Limit, LimitContainer, LimitControlGroup, LimitUnit, ReleaseHigh
from schemas.facts.cgroups import Pressure
from schemas.remediation import ActionResult, Outcome, Risk, UndoWhen
from schemas.settings.memory import MemoryMonitoring
from tests.functions.memory.limit_world import GROUP, WEB, WORKERS, LimitWorld
from tests.functions.memory.world import APP, MIB, RUN, UNIT, container, trend, unit

PATHS = {APP: GROUP, "container:web-1": WEB, "process:worker": WORKERS}

sizes = st.integers(MIB, 4096 * MIB)
limits = st.none() | sizes


@st.composite
def wanted(draw: Any) -> dict[str, int]:
    """At least one limit, in order."""
    high, maximum = draw(limits | st.just(1024 * MIB)), draw(limits)
    assume(high is not None or maximum is not None)
    assume(high is None or maximum is None or high < maximum)
    return {name: size for name, size in (("high", high), ("maximum", maximum)) if size is not None}


@st.composite
def worlds(draw: Any) -> LimitWorld:
    """Any unit, container or group of processes, with any limits."""
    world = LimitWorld(swap_free=draw(st.integers(0, 4096 * MIB)))
    memory = {"memory_high": draw(limits), "memory_max": draw(limits)}
    world.units_here[UNIT] = unit(delegated=draw(st.booleans()), **memory)
    world.containers_here = [container(memory_limit=draw(limits), memory_swap_limit=draw(limits))]
    for path in (GROUP, WEB, WORKERS):
        maximum, above = draw(limits), draw(st.none() | limits)
        working_set = draw(st.integers(0, 512 * MIB) | sizes)
        least = min((size for size in (maximum, above) if size is not None), default=None)
        world.change(
            path, version=draw(st.sampled_from([1, 2])), working_set=working_set,
            usage=working_set + draw(st.integers(0, 1024 * MIB)), maximum=maximum, limit=least,
            limit_at=path if least == maximum else "/above", high=draw(st.none() | limits),
            pressure=Pressure(full60=draw(st.sampled_from([0.0, 0.0, 60.0]))),
        )  # fmt: skip
        if draw(st.booleans()):  # ours, and it is met
            world.change(path, high=1024 * MIB, usage=max(world.groups[path].usage, 1024 * MIB))
    return world


targets = st.sampled_from(sorted(PATHS))
floors = st.integers(0, 4096 * MIB)


def planned(world: LimitWorld, target: str, heard: Any, limits: dict[str, int]) -> list[Any]:
    return [action for rung in world.plan(target, heard, **limits).rungs for action in rung.actions]


@given(worlds(), targets, wanted(), floors)
def test_no_limit_is_lowered_to_near_what_is_in_use(world, target, wanted, floor):
    group = world.groups[PATHS[target]]
    heard = trend(target, instance=world.seen(target, **wanted).instance, floor_now=floor)

    for action in planned(world, target, heard, wanted):
        if isinstance(action, Limit):
            for size, before in changes(action):
                assert size == before or size >= 1.25 * group.working_set
                assert size == before or size >= 1.1 * max(floor, heard.floor_start)


def changes(action: Limit) -> list[tuple[Any, Any]]:
    highs = [] if isinstance(action, LimitContainer) else [(action.high, action.high_before)]
    return [*highs, (action.maximum, action.maximum_before)]


@given(worlds(), targets, wanted())
def test_a_high_is_set_only_with_a_maximum_near_it_or_that_of_the_settings(world, target, wanted):
    for action in planned(world, target, None, wanted):
        group = world.groups[PATHS[target]]
        high = getattr(action, "high", None)
        if high not in {None, getattr(action, "high_before", None), group.high}:
            near, held = wanted.get("maximum") or math.floor(high * 1.25), group.maximum
            assert min(size for size in (action.maximum, held) if size is not None) <= near
            assert high == wanted["high"]


@given(worlds(), targets, wanted())
def test_what_is_planned_never_raises_a_limit_of_the_kernel(world, target, wanted):
    group = world.groups[PATHS[target]]
    for action in planned(world, target, None, wanted):
        if isinstance(action, LimitControlGroup):
            assert group.maximum is None or action.maximum <= group.maximum
            assert group.high is None or action.high <= group.high


@given(worlds(), wanted())
def test_a_unit_that_manages_its_groups_itself_is_never_touched(world, wanted):
    world.units_here[UNIT] = world.units_here[UNIT].model_copy(update={"delegated": True})
    assert planned(world, APP, None, wanted) == []


@given(worlds(), targets)
def test_without_a_configured_limit_nothing_is_a_target(world, target):
    settings = MemoryMonitoring(services={target: {"restart": True}}, processes={"worker": {"command": "x"}})
    assert REMEDY.targets(settings, world) == []


@given(worlds(), targets, wanted())
def test_a_plan_closes_the_gap_or_leaves_what_it_tells_of(world, target, wanted):
    """Where nothing forbids it and nothing is too small, exactly."""
    world.units_here[UNIT] = world.units_here[UNIT].model_copy(update={"delegated": False})
    gap, plan = world.gap(target, **wanted), world.plan(target, **wanted)
    closed = sum(rung.exact("limits") for rung in plan.rungs)

    assert closed == gap.amount or any("kernel would kill it now" in each.title for each in plan.findings)


@given(worlds(), targets, wanted())
def test_what_was_done_closes_the_gap(world, target, wanted):
    for action in planned(world, target, None, wanted):
        assert action.apply(world).outcome is Outcome.DONE
    if not world.plan(target, **wanted).findings:
        assert world.gap(target, **wanted).healthy


# ── the way back ──────────────────────────────────────────────────────────────────────────────────────────────────────

both = {"high": limits, "high_before": limits, "maximum": limits, "maximum_before": limits, "closes": st.integers(1, 2)}
alone = {name: values for name, values in both.items() if not name.startswith("high")}
actions = st.one_of(
    st.builds(LimitUnit, unit=st.just(UNIT), invocation=st.just(RUN), **both),
    st.builds(LimitControlGroup, target=st.just("process:x"), group=st.just("/x"), instance=st.just("1@2"), **both),
    st.builds(
        LimitContainer, engine=st.just("docker"), container=st.just("a" * 64), name=st.just("web"), swap=limits,
        swap_before=limits, **alone,
    ),
)  # fmt: skip
results = st.none() | st.builds(ActionResult, outcome=st.sampled_from([Outcome.DONE, Outcome.FAILED]))


@given(actions, results, results)
def test_the_inverse_of_the_inverse_is_the_action(action, first, second):
    told = action.told  # what was told of it must not be told of its inverse
    inverse = action.inverse(first)

    assert inverse.inverse(second) == action
    assert inverse.exact("limits") == -action.exact("limits")
    assert inverse.told.title == told.title or inverse.told.estimates != told.estimates


@given(actions)
def test_the_inverse_sets_the_old_values(action):
    inverse = action.inverse(None)
    before = {name: getattr(action, f"{name}_before") for name in ("high", "maximum", "swap") if hasattr(action, name)}
    assert {name: getattr(inverse, name) for name in before} == before


@given(actions)
def test_actions_are_read_back_as_they_were_stored(action):
    assert type(action).model_validate_json(action.model_dump_json()) == action


def test_done_and_taken_back_leaves_the_old_limits():
    world = LimitWorld(units_here={UNIT: unit(memory_high=700 * MIB, memory_max=900 * MIB)})
    world.hold(GROUP, 700 * MIB, 900 * MIB)
    before = (world.units_here[UNIT], world.groups[GROUP])
    [action] = planned(world, APP, None, {"high": 500 * MIB, "maximum": 600 * MIB})

    for each in (action, action.inverse(None)):
        assert each.apply(world).outcome is Outcome.DONE
        assert each.apply(world).outcome is Outcome.DONE  # twice is once

    assert (world.units_here[UNIT], world.groups[GROUP]) == before


@pytest.mark.parametrize("kind", [LimitUnit, LimitContainer, LimitControlGroup])
def test_settings_are_taken_back_when_they_did_not_help(kind):
    assert (kind.risk, kind.undo_when, kind.repeatable) == (Risk.REVERSIBLE, UndoWhen.GAP_NOT_SMALLER, True)


def test_what_was_lifted_is_not_set_again_by_a_way_back():
    action: Action = ReleaseHigh(unit=UNIT, invocation=RUN, high_before=MIB, maximum=None)
    assert action.undo_when is UndoWhen.NEVER
    assert action.inverse(None) is None
    assert action.inverse(ActionResult(outcome=Outcome.FAILED)) is None


@pytest.mark.parametrize("outcome", [Outcome.SKIPPED, Outcome.REFUSED, Outcome.DEFERRED, Outcome.FAILED])
def test_what_a_tool_did_not_do_keeps_its_name_and_its_reason(outcome):
    world = LimitWorld(refuse=outcome)
    [action] = planned(world, APP, None, {"maximum": 600 * MIB})

    result = action.apply(world)

    assert (result.outcome, result.done, result.freed) == (outcome, 0, {})
    assert result.detail == "as the test wants it"
