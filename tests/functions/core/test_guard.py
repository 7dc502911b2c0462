"""The guard decides about a whole plan: what runs by itself, what a person is asked about, what is only foretold."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from functions.core.guard import among_hosts, ask, before_plan, decide
from functions.core.plan import Plan
from functions.core.situation import Authority, Decision, Go, NeedsApproval, Refuse, Wait
from schemas.fleet import Fleet
from schemas.freeze import Freeze
from schemas.incident import Pending
from schemas.remediation import Mode
from tests.functions.core.situations import (
    HOUR,
    IRREVERSIBLE,
    MINUTE,
    NOW,
    RESTART,
    REVERSIBLE,
    SECOND,
    looks,
    plan,
    policy,
    situation,
)

SHIPPED = {"risk_modes": {"irreversible": "approve"}}
NIGHTLY = {"maintenance_windows": [{"cron": "0 2 * * *", "duration": "1 h"}]}
AT_NIGHT = datetime(2026, 1, 2, 2, 30, tzinfo=NOW.tzinfo)
PENDING = Pending(hash="f" * 64, requested_at=NOW, expires_at=NOW + HOUR)


def rungs(of: Plan | None) -> list[str]:
    return [rung.name for rung in of.rungs] if of is not None else []


def summed(decision: Decision) -> str:
    """The decision in a word."""
    if isinstance(decision, Go):
        return f"{decision.mode} {' '.join(rungs(decision.plan))}".strip()
    if isinstance(decision, NeedsApproval):
        return f"ask {' '.join(rungs(decision.plan))}"
    return decision.rule


BOTH = plan(REVERSIBLE, IRREVERSIBLE)
ADVICE = plan(REVERSIBLE, advice="below critical")

DECISIONS = [
    ("auto rung1 rung2", {"plan": BOTH}),
    ("auto rung1", {"plan": BOTH, "limits": SHIPPED}),
    ("ask rung1", {"plan": plan(IRREVERSIBLE), "limits": SHIPPED}),
    ("ask rung1 rung2", {"plan": BOTH, "limits": {"mode": "approve"}}),
    ("dry_run rung1 rung2", {"plan": BOTH, "limits": {"mode": "dry_run"}}),
    ("mode", {"limits": {"mode": "observe"}}),
    ("dry_run rung1", {"limits": {"risk_modes": {"reversible": "dry_run"}}}),
    ("auto rung2", {"plan": BOTH, "limits": {"risk_modes": {"reversible": "observe"}}}),
    ("dry_run rung1", {"authority": Authority.DRY_RUN}),
    ("auto rung1", {"authority": Authority.LIVE}),
    ("ask rung1", {"authority": Authority.LIVE, "limits": {"mode": "approve"}}),
    ("mode", {"authority": Authority.LIVE, "limits": {"mode": "dry_run"}}),
    ("auto rung1 rung2", {"authority": Authority.APPROVAL, "plan": BOTH, "limits": {"mode": "approve"}}),
    ("mode", {"authority": Authority.APPROVAL, "limits": {"mode": "dry_run"}}),
    ("dry_run rung1", {"plan": ADVICE}),
    ("auto rung1", {"plan": ADVICE, "authority": Authority.LIVE}),
    ("auto rung1", {"plan": ADVICE, "memory": {"interruptions": 1}}),
    ("auto rung1", {"plan": ADVICE, "memory": {"last_outcome": "done"}}),
    ("dry_run rung1", {"plan": ADVICE, "memory": {"attempts": 1}}),  # a question nobody answered is no cure begun
    ("empty_plan", {"plan": plan()}),
    ("empty_plan", {"plan": plan((), ())}),
    ("dry_run", {"plan": plan(), "limits": {"mode": "dry_run"}}),
]


@pytest.mark.parametrize(("expected", "fields"), DECISIONS)
def test_the_guard_decides(expected, fields):
    assert summed(decide(situation(**fields))) == expected


# What needs a person.


def test_what_runs_by_itself_goes_first_and_the_rest_is_kept_for_a_person():
    decision = decide(situation(plan=BOTH, limits=SHIPPED))

    assert isinstance(decision, Go)
    assert (rungs(decision.plan), rungs(decision.withheld)) == (["rung1"], ["rung2"])


def test_a_whole_plan_is_the_very_plan_so_that_its_hash_stays():
    decision = decide(situation(plan=BOTH))

    assert isinstance(decision, Go)
    assert decision.plan is BOTH
    assert decision.withheld is None


def test_one_question_at_a_time():
    waiting = {"plan": plan(IRREVERSIBLE), "limits": SHIPPED, "memory": {"pending": PENDING}}

    assert decide(situation(**waiting)) == Wait(
        "approval", "granted before 2026-01-01 13:00", "no answer yet", NOW + HOUR
    )
    assert summed(decide(situation(**waiting, now=NOW + HOUR))) == "ask rung1"
    assert ask(situation(**waiting), BOTH).rule == "approval"
    assert ask(situation(), BOTH) == NeedsApproval(BOTH)


def test_a_question_that_waits_does_not_hold_back_what_needs_none():
    assert summed(decide(situation(plan=BOTH, limits=SHIPPED, memory={"pending": PENDING}))) == "auto rung1"


def test_what_was_granted_runs_whole_or_not_at_all():
    granted = {"plan": BOTH, "authority": Authority.APPROVAL}

    lowered = decide(situation(**granted, limits={"risk_modes": {"irreversible": "dry_run"}}))
    assert isinstance(lowered, Refuse)
    assert (lowered.rule, lowered.limit) == ("risk_modes", "irreversible: dry_run")
    assert summed(decide(situation(**granted, limits={"budget": {"irreversible": 0}}))) == "irreversible_budget"
    assert summed(decide(situation(**granted, limits=NIGHTLY))) == "maintenance_windows"
    assert summed(decide(situation(**granted, limits=NIGHTLY, now=AT_NIGHT))) == "auto rung1 rung2"


# Rung by rung.


@pytest.mark.parametrize(
    ("limits", "fields"),
    [
        ({}, {"memory": {"samples": looks(5) * 3}}),
        ({"budget": {"irreversible": 0}}, {}),
        ({}, {"fleet": Fleet(members=20, unhealthy=tuple(f"other-{n}" for n in range(7)), unhealthy_since=NOW - HOUR)}),
        (NIGHTLY, {}),
    ],
    ids=["second_source", "irreversible_budget", "healthy_peers", "maintenance_windows"],
)
def test_what_holds_back_a_grave_rung_does_not_hold_back_the_gentler_ones(limits, fields):
    fleet = {"healthy_peers": 0.9}

    decision = decide(situation(plan=BOTH, limits={"fleet": fleet, **limits}, **fields))

    assert summed(decision) == "auto rung1"


def test_a_plan_of_grave_rungs_alone_waits_for_its_window():
    decision = decide(situation(plan=plan(RESTART), limits=NIGHTLY))

    assert decision == Wait(
        "maintenance_windows", "0 2 * * * UTC", "2026-01-01 12:00 UTC", datetime(2026, 1, 2, 2, tzinfo=NOW.tzinfo)
    )
    assert summed(decide(situation(plan=plan(RESTART), limits=NIGHTLY, now=AT_NIGHT))) == "auto rung1"
    assert summed(decide(situation(plan=plan(REVERSIBLE), limits=NIGHTLY))) == "auto rung1"


@pytest.mark.parametrize(
    ("due", "decided"),
    [(HOUR, "auto rung1"), (13 * HOUR, "auto rung1"), (15 * HOUR, "maintenance_windows")],
    ids=["in an hour", "just before the window", "in the window"],
)
def test_what_it_is_to_prevent_does_not_wait_for_a_window_that_opens_too_late(due, decided):
    restart = plan(RESTART)
    urgent = restart.model_copy(update={"rungs": (restart.rungs[0].model_copy(update={"due": NOW + due}),)})

    assert summed(decide(situation(plan=urgent, limits=NIGHTLY))) == decided


def test_any_of_several_windows_will_do_and_the_earliest_is_awaited():
    windows = [
        {"name": "sunday", "cron": "0 4 * * sun", "duration": "2 h"},
        {"name": "late", "cron": "0 20 * * *", "duration": "2 h", "zone": "Europe/Berlin"},
    ]
    decision = decide(situation(plan=plan(RESTART), limits={"maintenance_windows": windows}))

    assert isinstance(decision, Wait)
    assert (decision.limit, decision.until) == ("sunday, late", NOW + 7 * HOUR)


def test_window_from_says_how_grave_an_action_must_be_to_need_a_window():
    assert summed(decide(situation(limits={**NIGHTLY, "window_from": "reversible"}))) == "maintenance_windows"
    assert (
        summed(decide(situation(plan=plan(RESTART), limits={**NIGHTLY, "window_from": "irreversible"}))) == "auto rung1"
    )


def test_a_person_has_no_key_to_a_closed_window():
    live = situation(plan=plan(RESTART), limits=NIGHTLY, authority=Authority.LIVE)

    assert summed(decide(live)) == "maintenance_windows"


def test_the_limits_judge_the_whole_plan_so_that_a_lowered_cap_lets_no_more_happen():
    large = {"plan": BOTH, "limits": {"max_items": 1}}

    assert summed(decide(situation(**large))) == "max_items"
    large["limits"] = {"max_items": 1, "risk_modes": {"irreversible": "observe"}}
    assert summed(decide(situation(**large))) == "max_items"


# Order.


def test_the_first_rule_that_objects_is_the_one_that_is_named():
    wrong = {
        "limits": {"protected_targets": ["tank:a"], "max_items": 0},
        "memory": {"attempts": 9}, "freeze": Freeze(since=NOW), "clock_jump": HOUR,
    }  # fmt: skip
    named = []
    for mended in ({}, {"limits": {}}, {"freeze": None}, {"clock_jump": timedelta(0)}, {"memory": {}}):
        wrong |= mended
        named.append(summed(decide(situation(**wrong))))

    assert named == ["protected_targets", "freeze", "clock", "max_attempts", "auto rung1"]


def test_without_a_plan_only_what_needs_none_is_judged():
    assert before_plan(situation(plan=None, limits={"max_items": 0, "budget": {"per_function": 0}})) is None
    assert before_plan(situation(plan=None, memory={"attempts": 3})).rule == "max_attempts"


def test_the_other_hosts_are_asked_last_and_by_themselves():
    full = situation(fleet=Fleet(members=2, acting=("host-2",), unhealthy_since=NOW - HOUR))

    assert summed(decide(full)) == "fleet_share"
    assert among_hosts(full).rule == "fleet_share"
    assert among_hosts(replace(full, fleet=Fleet())) is None


# Dry runs.


@pytest.mark.parametrize("fields", [{"authority": Authority.DRY_RUN}, {"limits": {"mode": "dry_run"}}])
@pytest.mark.parametrize("rule", ["freeze", "max_attempts", "flapping", "storm", "budget", "clock", "symptom_only"])
def test_a_dry_run_goes_on_and_says_what_would_stand_in_the_way_of_a_live_one(fields, rule):
    against = {
        "freeze": {"freeze": Freeze(since=NOW)},
        "max_attempts": {"memory": {"attempts": 3}},
        "flapping": {"memory": {"changes": [NOW - n * SECOND for n in range(6)]}},
        "storm": {"fleet": Fleet(members=4, unhealthy=("a", "b", "c"), unhealthy_since=NOW - HOUR)},
        "budget": {"fleet": Fleet(spent_function=6)},
        "clock": {"clock_jump": HOUR},
        "symptom_only": {"memory": {"fixes": [NOW - HOUR] * 3}},
    }[rule]

    decision = decide(situation(**fields, **against))

    assert isinstance(decision, Go)
    assert decision.mode is Mode.DRY_RUN
    assert rule in [each.rule for each in decision.reservations]


def test_a_dry_run_names_caps_and_windows_among_what_stands_in_the_way():
    decision = decide(situation(plan=BOTH, limits={**SHIPPED, **NIGHTLY}, authority=Authority.DRY_RUN))

    assert isinstance(decision, Go)
    assert [each.rule for each in decision.reservations] == ["risk_modes", "maintenance_windows"]


def test_a_dry_run_with_nothing_against_it_has_no_reservations():
    assert decide(situation(authority=Authority.DRY_RUN)).reservations == ()


@pytest.mark.parametrize(
    ("limits", "rule"),
    [
        ({"enabled": False}, "enabled"),
        ({"mode": "observe"}, "mode"),
        ({"protected_targets": ["*"]}, "protected_targets"),
    ],
)
def test_some_rules_hold_for_a_dry_run_too(limits, rule):
    assert summed(decide(situation(limits=limits, authority=Authority.DRY_RUN))) == rule


def test_a_dry_run_that_nobody_asked_for_is_told_once_in_a_cooldown():
    told = {"limits": {"mode": "dry_run"}, "memory": {"foretold_at": NOW - MINUTE}}

    assert decide(situation(**told)).until == before_plan(situation(**told, plan=None)).until == NOW + 14 * MINUTE
    assert summed(decide(situation(**told, authority=Authority.DRY_RUN))) == "dry_run rung1"
    assert summed(decide(situation(**told, now=NOW + 14 * MINUTE))) == "dry_run rung1"


def test_what_was_foretold_lately_holds_back_nothing_that_may_act_now():
    told = {"memory": {"foretold_at": NOW - MINUTE}}

    assert before_plan(situation(**told, plan=None)) is None
    assert summed(decide(situation(**told))) == "auto rung1"


def test_the_effective_policy_alone_is_a_dry_run():
    assert summed(decide(replace(situation(), policy=type(policy())()))) == "dry_run rung1"
