"""The guard is a pure function: tables and properties."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.core.guard import Go, Refuse, Wait, decide, precheck
from functions.core.plan import Plan, Rung
from schemas.incident import Incident, IncidentState
from schemas.remediation import Gap, Mode
from schemas.settings.policy import EffectivePolicy, FunctionPolicy, Policy
from schemas.trigger import Asked
from tests.functions.core.tank import Drain

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLAN = Plan(rungs=(Rung(name="r", title="R", actions=(Drain(tank="a", litres=1, name="x"),)),))


def incident(**fields) -> Incident:
    values = {
        "correlation": "c", "host": "h", "function": "water.drain", "target": "tank:a", "state": IncidentState.OPEN,
        "opened_at": NOW, "changed_at": NOW, "alerted_at": NOW, "gap": Gap(amount=1, unit="litres"), **fields,
    }  # fmt: skip
    return Incident(**values)


def verdict(plan: Plan, policy: EffectivePolicy, memory: Incident, asked: Asked | None = None):
    return precheck(policy, memory, asked, NOW) or decide(plan, policy, memory, asked, NOW)


AUTO = EffectivePolicy(mode=Mode.AUTO)
PROTECTED = EffectivePolicy(mode=Mode.AUTO, protected_targets=("tank:?",))


@pytest.mark.parametrize(
    ("plan", "policy", "memory", "asked", "expected"),
    [
        (PLAN, AUTO, incident(), None, Go(Mode.AUTO)),
        (PLAN, EffectivePolicy(), incident(), None, Go(Mode.DRY_RUN)),
        (PLAN, AUTO, incident(), Asked.DRY_RUN, Go(Mode.DRY_RUN)),
        (PLAN, AUTO, incident(), Asked.LIVE, Go(Mode.AUTO)),
        (PLAN, EffectivePolicy(), incident(), Asked.LIVE, "mode"),
        (PLAN, EffectivePolicy(mode=Mode.OBSERVE), incident(), None, "mode"),
        (PLAN, PROTECTED, incident(), Asked.LIVE, "protected_targets"),
        (PLAN, AUTO, incident(attempts=3), None, "max_attempts"),
        (PLAN, AUTO, incident(attempts=3), Asked.LIVE, Go(Mode.AUTO)),
        (PLAN, AUTO, incident(attempted_at=NOW - timedelta(minutes=1)), None, "cooldown"),
        (PLAN, AUTO, incident(attempted_at=NOW - timedelta(minutes=16)), None, Go(Mode.AUTO)),
        (PLAN, AUTO, incident(foretold_at=NOW - timedelta(minutes=1)), None, Go(Mode.AUTO)),
        (PLAN, AUTO, incident(alerted_at=None), None, "alert_first"),
        (Plan(), AUTO, incident(), None, "empty_plan"),
        (PLAN.model_copy(update={"advice": "below critical"}), AUTO, incident(), None, Go(Mode.DRY_RUN)),
        (PLAN.model_copy(update={"advice": "below critical"}), AUTO, incident(), Asked.LIVE, Go(Mode.AUTO)),
        (PLAN.model_copy(update={"advice": "below critical"}), AUTO, incident(interruptions=1), None, Go(Mode.AUTO)),
        (PLAN.model_copy(update={"grace": timedelta(minutes=5)}), AUTO, incident(), None, "grace"),
        (PLAN.model_copy(update={"grace": timedelta(minutes=5)}), AUTO, incident(), Asked.LIVE, Go(Mode.AUTO)),
    ],
)  # fmt: skip
def test_the_guard_decides(plan, policy, memory, asked, expected):
    decision = verdict(plan, policy, memory, asked)

    assert (decision if isinstance(decision, Go) else decision.rule) == expected


def test_a_refusal_names_rule_limit_and_what_was_seen():
    decision = verdict(PLAN, EffectivePolicy(mode=Mode.AUTO, max_attempts=2), incident(attempts=2))

    assert isinstance(decision, Refuse)
    assert (decision.rule, decision.limit, decision.seen) == ("max_attempts", "2", "2")


def test_waiting_says_until_when():
    decision = verdict(PLAN.model_copy(update={"grace": timedelta(minutes=5)}), AUTO, incident())

    assert decision == Wait("grace", NOW + timedelta(minutes=5))


modes = st.sampled_from(list(Mode))


def acts(mode: Mode, memory: Incident, asked: Asked | None, **policy) -> bool:
    return verdict(PLAN, EffectivePolicy(mode=mode, **policy), memory, asked) == Go(Mode.AUTO)


@given(modes, modes, st.integers(0, 5), st.sampled_from([None, *Asked]))
def test_a_lower_mode_never_acts_where_a_higher_one_does_not(one, other, attempts, asked):
    low, high = sorted((one, other), key=lambda mode: mode.rank)

    assert not acts(low, incident(attempts=attempts), asked) or acts(high, incident(attempts=attempts), asked)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9))
def test_raising_a_limit_never_turns_acting_into_refusing(one, other, attempts):
    low, high = sorted((one, other))
    memory = incident(attempts=attempts)

    assert not acts(Mode.AUTO, memory, None, max_attempts=low) or acts(Mode.AUTO, memory, None, max_attempts=high)


@given(modes, st.one_of(st.none(), modes), st.one_of(st.none(), modes))
def test_the_effective_mode_is_never_above_any_cap(cap, default, own):
    policy = Policy(mode=cap, default=FunctionPolicy(mode=default), functions={"water.drain": FunctionPolicy(mode=own)})

    assert policy.of("water.drain").mode.rank <= cap.rank
    if own is not None:
        assert policy.of("water.drain").mode.rank <= own.rank
