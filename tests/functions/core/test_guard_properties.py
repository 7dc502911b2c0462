"""What must hold of the guard in every situation, whatever the policy, the incident, the plan and the fleet say."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, find, given, settings
from hypothesis import strategies as st

from functions.core.guard import before_plan, decide
from functions.core.plan import Action, Plan, Rung
from functions.core.situation import Authority, Decision, Go, NeedsApproval, Refuse, Situation, Wait
from schemas.fleet import Fleet
from schemas.freeze import Freeze
from schemas.incident import IncidentState, Pending, Sample
from schemas.remediation import Gap, Mode, Outcome, Risk
from schemas.settings.policy import EffectivePolicy, HostPolicy, Policy
from tests.functions.core.situations import IRREVERSIBLE, NOW, RESTART, REVERSIBLE, situation
from tests.functions.core.tank import Drain, Pour, Restart

CENTURY = timedelta(days=36525)

modes = st.sampled_from(list(Mode))
counts = st.integers(0, 40)
lengths = st.one_of(
    st.sampled_from([timedelta(seconds=1), timedelta(minutes=15), CENTURY]),
    st.timedeltas(timedelta(seconds=1), CENTURY),
)
moments = st.one_of(
    st.timedeltas(timedelta(minutes=-30), timedelta(minutes=5)), st.timedeltas(timedelta(days=-3), timedelta(days=3))
).map(lambda ago: NOW + ago)  # fmt: skip
hosts = st.lists(st.sampled_from([f"host-{number}" for number in range(1, 9)]), max_size=8, unique=True).map(tuple)
shares = st.floats(0, 1)

actions = st.builds(
    lambda kind, litres, name, exact: kind(tank="a", litres=litres, name=name, exact_estimate=exact),
    st.sampled_from([Pour, Restart, Drain]), st.integers(0, 100), st.sampled_from("abcdefgh"), st.booleans(),
)  # fmt: skip
ladders = st.lists(st.lists(actions, max_size=3).map(tuple), max_size=4)


def plan_of(ladder: list[tuple[Action, ...]], advice: str = "", grace: timedelta = timedelta(0)) -> Plan:
    rungs = [Rung(name=f"rung{number}", title="", actions=each) for number, each in enumerate(ladder, 1)]
    return Plan(rungs=tuple(rungs), advice=advice, grace=grace)


plans = st.builds(
    plan_of, ladders, st.sampled_from(["", "", "only advice"]), st.sampled_from([timedelta(0), timedelta(minutes=5)])
)
empty_plans = st.lists(st.just(()), max_size=3).map(plan_of)

windows = st.lists(
    st.fixed_dictionaries(
        {
            "cron": st.sampled_from(["0 12 * * *", "0 2 * * *", "30 11 * * thu", "*/5 * * * *"]),
            "duration": st.sampled_from(["10 min", "2 h", "6 days"]),
            "zone": st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
        }
    ),
    max_size=2,
)
samples = st.builds(Sample, at=moments, source=st.sampled_from(["level", "probe"]), unhealthy=st.booleans())
pending = st.builds(lambda at: Pending(hash="f" * 64, requested_at=at, expires_at=at + timedelta(hours=1)), moments)


@st.composite
def confirmations(draw: st.DrawFn) -> dict[str, Any]:
    needed = draw(st.integers(1, 5))
    return {"needed": needed, "of": draw(st.integers(needed, 20)), "every": timedelta(seconds=10)}


POLICY: dict[str, st.SearchStrategy[Any]] = {
    "enabled": st.booleans(),
    "mode": st.sampled_from([Mode.APPROVE, Mode.APPROVE, *Mode]),
    "risk_modes": st.dictionaries(st.sampled_from(list(Risk)), modes),
    "protected_targets": st.sampled_from([("tank:b",), ("tank:*",)]),
    "confirmation": confirmations(),
    "second_source": st.booleans(),
    "flapping": st.fixed_dictionaries({"begin": st.integers(2, 20), "end": st.just(1), "within": lengths}),
    "cooldown": lengths,
    "max_cooldown": lengths,
    "max_attempts": st.integers(1, 50),
    "max_fixes": st.integers(1, 20),
    "max_items": st.integers(1, 4),
    "max_amounts": st.dictionaries(st.sampled_from(["litres", "rows"]), st.integers(0, 400)),
    "plan_expiry": lengths,
    "budget": st.fixed_dictionaries(dict.fromkeys(("per_function", "per_host", "irreversible"), st.integers(0, 8))),
    "fleet": st.fixed_dictionaries(
        {
            "share": shares, "storm_share": shares, "storm_least": st.integers(2, 5), "gather": lengths,
            "healthy_peers": shares,
        }
    ),
    "maintenance_windows": windows,
    "window_from": st.sampled_from(list(Risk)),
    "clock_tolerance": lengths,
}  # fmt: skip
MEMORY: dict[str, st.SearchStrategy[Any]] = {
    "host": st.sampled_from(["host-1", "host-2"]),
    "state": st.sampled_from(list(IncidentState)),
    "alerted_at": st.one_of(st.none(), moments),
    "attempts": counts,
    "attempted_at": moments,
    "foretold_at": moments,
    "interruptions": st.just(1),
    "last_outcome": st.just(Outcome.DONE),
    "samples": st.lists(samples, max_size=21).map(tuple),
    "changes": st.lists(moments, max_size=21).map(tuple),
    "flaps": st.booleans(),
    "fixes": st.lists(moments, max_size=4).map(tuple),
    "pending": pending,
}
AROUND: dict[str, st.SearchStrategy[Any]] = {
    "authority": st.sampled_from(list(Authority)),
    "gap": st.builds(Gap, amount=st.floats(0.1, 300), unit=st.sampled_from(["litres", "rows"])),
    "planned_at": st.one_of(st.none(), moments),
    "among": st.builds(
        Fleet, members=st.integers(1, 60), unhealthy=hosts, unhealthy_since=st.one_of(st.none(), moments), acting=hosts,
        spent_function=st.integers(0, 8), spent_host=st.integers(0, 25), spent_irreversible=st.integers(0, 8),
    ),
    "freeze": st.just(Freeze(since=NOW)),
    "clock_jump": st.sampled_from([timedelta(days=1), timedelta(days=-1), timedelta(minutes=1)]),
}  # fmt: skip
ASPECTS = (*POLICY, *MEMORY, *AROUND)
FIELD = {"flaps": "flapping", "among": "fleet"}
"""Fields that have another name, since the policy has one of that name."""


@st.composite
def situations(draw: st.DrawFn, *also: str, plan: st.SearchStrategy[Plan] = plans) -> Situation:
    """A calm one, of which up to six aspects are as they come, besides those in *also*, and any plan."""
    chosen = draw(st.sets(st.sampled_from(ASPECTS), max_size=6)) | set(also)

    def drawn(aspects: dict[str, st.SearchStrategy[Any]]) -> dict[str, Any]:
        return {FIELD.get(name, name): draw(aspects[name]) for name in aspects if name in chosen}

    return situation(limits=drawn(POLICY), memory=drawn(MEMORY), plan=draw(plan), **drawn(AROUND))


def rank(decision: Decision) -> int:
    if isinstance(decision, Refuse | Wait):
        return 0
    if isinstance(decision, NeedsApproval):
        return 2
    return 3 if decision.mode is Mode.AUTO else 1


def run(decision: Decision) -> list[Rung]:
    """The rungs that are carried out now."""
    return list(decision.plan.rungs) if isinstance(decision, Go) and decision.mode is Mode.AUTO else []


def under(before: Situation, **changes: Any) -> Situation:
    """The same under another policy."""
    return replace(before, policy=EffectivePolicy.model_validate(before.policy.model_dump() | changes))


@pytest.mark.parametrize("wanted", range(4))
def test_every_kind_of_decision_comes_up(wanted):
    find(situations(), lambda around: rank(decide(around)) == wanted, settings=settings(max_examples=2000))


@settings(max_examples=200)
@given(situations())
def test_a_decision_is_always_made_and_says_why(around):
    decision, early = decide(around), before_plan(replace(around, plan=None))

    for each in (decision, early):
        if isinstance(each, Refuse | Wait):
            assert each.rule
            assert each.limit
            assert each.seen
            assert not isinstance(each, Wait) or each.until >= around.now


@settings(max_examples=200)
@given(situations())
def test_what_runs_is_part_of_the_plan_in_its_order(around):
    given_rungs, rest = list(around.plan.rungs), list(run(decide(around)))

    for rung in given_rungs:
        if rest and rest[0] is rung:
            rest.pop(0)

    assert rest == []


@settings(max_examples=200)
@given(situations())
def test_nothing_runs_and_is_asked_about_at_once(around):
    decision = decide(around)
    if isinstance(decision, Go) and decision.withheld is not None:
        names = [rung.name for rung in (*decision.plan.rungs, *decision.withheld.rungs)]
        assert len(names) == len(set(names))
        assert set(names) <= {rung.name for rung in around.plan.rungs}


@settings(max_examples=150)
@given(situations(plan=empty_plans))
def test_an_empty_plan_is_never_carried_out_and_nobody_is_asked_about_it(around):
    assert rank(decide(around)) <= 1


@settings(max_examples=150)
@given(situations())
def test_a_frozen_or_protected_or_disabled_target_is_never_changed(around):
    assert run(decide(replace(around, freeze=Freeze(since=NOW)))) == []
    assert run(decide(under(around, protected_targets=("tank:a",)))) == []
    assert run(decide(under(around, enabled=False))) == []


@settings(max_examples=150)
@given(situations())
def test_nothing_runs_without_a_mode_that_lets_it(around):
    decision = decide(around)
    wanted = Mode.APPROVE if around.authority is Authority.APPROVAL else Mode.AUTO

    assert all(around.policy.mode_for(rung.risk).rank >= wanted.rank for rung in run(decision))
    assert around.authority is not Authority.DRY_RUN or rank(decision) <= 1


CAPS = ["mode", *Risk]
mixed = st.permutations([(REVERSIBLE,), (RESTART,), (IRREVERSIBLE, IRREVERSIBLE)]).map(plan_of)


@settings(max_examples=300)
@given(st.one_of(situations(), situations("max_items", plan=mixed)), st.sampled_from(CAPS), modes, modes)
@example(
    situation(plan=plan_of([(REVERSIBLE,), (IRREVERSIBLE, IRREVERSIBLE)]), limits={"max_items": 2}),
    Risk.IRREVERSIBLE, Mode.AUTO, Mode.OBSERVE,
)  # fmt: skip
def test_a_lowered_cap_never_acts_more(around, cap, one, other):
    low, high = sorted((one, other), key=lambda mode: mode.rank)

    def capped(mode: Mode) -> Decision:
        risks = around.policy.risk_modes
        return decide(under(around, **({"mode": mode} if cap == "mode" else {"risk_modes": {**risks, cap: mode}})))

    less, more = capped(low), capped(high)

    assert all(rung in run(more) for rung in run(less))
    if rank(less) and rank(more):
        assert rank(less) <= rank(more)


@settings(max_examples=200)
@given(situations(), modes, modes, modes)
def test_a_lowered_host_cap_never_acts_more(around, own, one, other):
    low, high = sorted((one, other), key=lambda mode: mode.rank)

    def on_host(cap: Mode) -> Decision:
        mode = Policy(mode=own, hosts={"host-*": HostPolicy(mode=cap)}).of("water.drain", "host-1").mode
        return decide(under(around, mode=mode))

    less, more = on_host(low), on_host(high)

    assert all(rung in run(more) for rung in run(less))
    if rank(less) and rank(more):
        assert rank(less) <= rank(more)


numbers = st.one_of(counts, st.integers(0, 10_000))
RAISED: dict[str, st.SearchStrategy[Any]] = {
    "max_attempts": st.integers(1, 60),
    "max_fixes": st.integers(1, 20),
    "max_items": st.integers(1, 20),
    "max_amounts.litres": numbers,
    "plan_expiry": lengths,
    "clock_tolerance": lengths,
    "budget.per_function": counts,
    "budget.per_host": counts,
    "budget.irreversible": counts,
    "fleet.share": shares,
    "fleet.storm_share": shares,
    "fleet.storm_least": st.integers(2, 60),
    "flapping.begin": st.integers(2, 20),
}


MATTERS = {
    "max_attempts": ("attempts",), "max_fixes": ("fixes",), "plan_expiry": ("planned_at",),
    "clock_tolerance": ("clock_jump",), "budget": ("among",), "fleet": ("among",), "flapping": ("changes",),
}  # fmt: skip
"""Aspects without which a limit has nothing to judge."""


def limited(around: Situation, limit: str, value: Any) -> Situation:
    name, _, part = limit.partition(".")
    if not part:
        return under(around, **{name: value})
    values = around.policy.model_dump()[name] | {part: value}
    if name == "flapping":
        values["end"] = 0
    return under(around, **{name: values})


@pytest.mark.parametrize("limit", RAISED)
@settings(max_examples=80)
@given(data=st.data())
def test_a_raised_limit_never_turns_acting_into_refusing(limit, data):
    around = data.draw(situations(*MATTERS.get(limit.partition(".")[0], ())))
    low, high = sorted((data.draw(RAISED[limit]), data.draw(RAISED[limit])))

    before, after = decide(limited(around, limit, low)), decide(limited(around, limit, high))

    assert rank(after) >= rank(before)
    assert all(rung in run(after) for rung in run(before))


WAITED = {"cooldown": ("attempted_at",), "max_cooldown": ("attempted_at", "attempts")} | MATTERS


@pytest.mark.parametrize(
    "limit", ["cooldown", "max_cooldown", "flapping.within", "fleet.gather", "fleet.healthy_peers"]
)
@settings(max_examples=80)
@given(data=st.data())
def test_a_lowered_demand_never_turns_acting_into_refusing(limit, data):
    around = data.draw(situations(*WAITED.get(limit.partition(".")[0], ())))
    asked = shares if limit.endswith("peers") else lengths
    low, high = sorted((data.draw(asked), data.draw(asked)))

    before, after = decide(limited(around, limit, high)), decide(limited(around, limit, low))

    assert rank(after) >= rank(before)


@settings(max_examples=200)
@given(situations())
@example(situation())
def test_a_dry_run_of_a_person_needs_nothing_but_that_the_function_may_be_looked_at(around):
    decision = decide(
        replace(under(around, enabled=True, mode=Mode.DRY_RUN, protected_targets=()), authority=Authority.DRY_RUN)
    )

    assert isinstance(decision, Go)
    assert decision.mode is Mode.DRY_RUN
    assert decision.plan is around.plan
