"""Plans are plain data: cut just where the need is met, hashed by what they would do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.core.plan import Plan, Rung, batches, result_of
from schemas.remediation import Gap, ItemResult, Outcome
from tests.functions.core.tank import Drain

amounts = st.lists(st.integers(0, 50), max_size=40)


def drains(*litres: int, exact: bool = True) -> tuple[Drain, ...]:
    return tuple(
        Drain(tank="a", litres=each, name=f"d{number}", exact_estimate=exact) for number, each in enumerate(litres)
    )


@given(amounts, st.integers(-10, 500), st.integers(1, 10))
def test_batches_keep_every_item_in_order_and_none_is_too_long(items, need, most):
    cut = batches(items, float, need, most)

    assert [item for batch in cut for item in batch] == items
    assert all(1 <= len(batch) <= most for batch in cut)


@given(amounts, st.integers(1, 500), st.integers(1, 10))
def test_a_batch_ends_exactly_where_the_need_is_first_met(items, need, most):
    ends, total = set(), 0
    for batch in batches(items, float, need, most):
        total += len(batch)
        ends.add(total)

    met = next((index for index in range(1, len(items) + 1) if sum(items[:index]) >= need), None)
    assert met is None or met in ends


@given(amounts, st.integers(1, 300))
def test_the_needed_prefix_of_exact_actions_just_closes_the_gap(litres, need):
    plan = Plan(rungs=(Rung(name="r", title="R", actions=drains(*litres)),))

    needed = plan.needed(Gap(amount=need, unit="litres"))

    assert needed == set(range(len(needed)))
    if sum(litres) >= need:
        assert sum(litres[: len(needed)]) >= need > sum(litres[: len(needed) - 1])


def test_estimates_that_are_only_at_most_close_nothing():
    plan = Plan(rungs=(Rung(name="r", title="R", actions=drains(50, 50, exact=False)),))

    assert plan.needed(Gap(amount=10, unit="litres")) == {0, 1}


def test_the_hash_is_that_of_the_actions_alone():
    rungs = (Rung(name="r", title="R", actions=drains(1, 2)),)

    assert Plan(rungs=rungs).hash == Plan(rungs=rungs, advice="below critical").hash
    assert Plan(rungs=rungs).hash != Plan(rungs=(Rung(name="r", title="R", actions=drains(2, 1)),)).hash


def test_a_plan_survives_being_stored():
    action = drains(7)[0]

    assert Drain.model_validate_json(action.model_dump_json()) == action


def test_a_result_counts_what_was_done_and_lists_what_was_not():
    items = [
        ItemResult(name="a", outcome=Outcome.DONE, freed={"bytes": 3}),
        ItemResult(name="b", outcome=Outcome.SKIPPED, reason="changed"),
        ItemResult(name="c", outcome=Outcome.FAILED, reason="immutable"),
    ]

    result = result_of(items)

    assert (result.outcome, result.done, result.freed) == (Outcome.PARTIAL, 1, {"bytes": 3})
    assert [item.name for item in result.not_done] == ["b", "c"]


def test_nothing_done_because_everything_changed_is_skipped_not_failed():
    assert result_of([ItemResult(name="a", outcome=Outcome.SKIPPED)]).outcome is Outcome.SKIPPED


def test_a_changed_copy_reckons_anew():
    action = Drain(tank="a", litres=9, name="a")
    plan = Plan(rungs=(Rung(name="drain", title="Drain", actions=(action,)),))
    told, expected, hashed = action.told, action.expected, plan.hash

    other = action.model_copy(update={"litres": 3})
    changed = plan.model_copy(update={"rungs": (Rung(name="drain", title="Drain", actions=(other,)),)})

    assert other.told.title != told.title
    assert other.expected[0].amount == 3 != expected[0].amount
    assert changed.hash != hashed
    assert other == Drain(tank="a", litres=3, name="a")


@pytest.mark.parametrize("outcome", [Outcome.IN_PROGRESS, Outcome.REFUSED, Outcome.INCONCLUSIVE, Outcome.DEFERRED])
def test_what_became_of_the_only_item_is_what_became_of_the_action(outcome):
    assert result_of([ItemResult(name="a", outcome=outcome)]).outcome is outcome
