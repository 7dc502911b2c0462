"""Every rule of the guard by itself: below, at and above its bound, and what it says."""

from datetime import timedelta

import pytest

from functions.core import rules
from functions.core.rules import ABOUT_PLAN, ABOUT_RISK, AMONG_HOSTS, BEFORE_PLAN, Rule
from functions.core.situation import Authority, Refuse, Wait
from schemas.fleet import Fleet
from schemas.freeze import Freeze
from schemas.incident import Pending
from schemas.remediation import Gap, Mode
from schemas.settings.policy import FleetLimits
from tests.functions.core.situations import (
    HOUR,
    IRREVERSIBLE,
    MINUTE,
    NOW,
    RESTART,
    REVERSIBLE,
    SECOND,
    blast,
    incident,
    looks,
    plan,
    policy,
    situation,
)

RULES: dict[str, Rule] = {rule.name: rule for rule in (*BEFORE_PLAN, *ABOUT_PLAN, *ABOUT_RISK, *AMONG_HOSTS)}
DAY = timedelta(days=1)


def judged(rule: str, **fields):
    return RULES[rule](situation(**fields))


def hosts(count: int) -> tuple[str, ...]:
    return tuple(f"host-{number}" for number in range(1, count + 1))


def test_a_calm_situation_has_nothing_against_it():
    assert [name for name, rule in RULES.items() if rule(situation()) is not None] == []


REFUSALS = [
    ("enabled", {"limits": {"enabled": False}}, "false", "an order"),
    ("mode", {"limits": {"mode": "observe"}}, "observe", "a gap"),
    ("mode", {"limits": {"mode": "dry_run"}, "authority": Authority.LIVE}, "dry_run", "live"),
    ("mode", {"limits": {"mode": "dry_run"}, "authority": Authority.APPROVAL}, "dry_run", "approval"),
    ("protected_targets", {"limits": {"protected_targets": ["x", "tank:*"]}}, "tank:*", "tank:a"),
    ("protected_targets", {"limits": {"protected_targets": ["a"]}}, "a", "tank:a"),
    (
        "freeze",
        {"freeze": Freeze(reason="migration", since=NOW, where="/etc/ansai/freeze")},
        "nothing is changed",
        "/etc/ansai/freeze since 2026-01-01 12:00: migration",
    ),
    ("clock", {"clock_jump": DAY}, "5 min", "1 d"),
    ("clock", {"clock_jump": -DAY}, "5 min", "-1 d"),
    ("max_attempts", {"memory": {"attempts": 3}}, "3", "3"),
    (
        "flapping",
        {"memory": {"changes": [NOW - n * MINUTE for n in range(1, 7)]}},
        "6 changes within 1 h",
        "6",
    ),
    ("symptom_only", {"memory": {"fixes": [NOW - n * HOUR for n in range(1, 4)]}}, "3 heals in 24 h", "3"),
    ("storm", {"fleet": Fleet(members=5, unhealthy=hosts(3))}, "40% of the group", "3 of 5 hosts"),
    ("empty_plan", {"plan": plan()}, "at least one action", "none"),
    ("empty_plan", {"plan": plan(())}, "at least one action", "none"),
    ("max_items", {"plan": plan((blast(4, "x"), blast(4, "y"))), "limits": {"max_items": 1}}, "1", "2"),
    (
        "max_amounts",
        {"plan": plan((blast(4, "x"), blast(4, "y"))), "limits": {"max_amounts": {"litres": 7}}},
        "7 litres",
        "8 litres",
    ),
    ("alert_first", {"memory": {"alerted_at": None}}, "a stored alert", "none"),
    (
        "healthy_peers",
        {"plan": plan(RESTART), "fleet": Fleet(members=4, unhealthy=("host-2", "host-4"), acting=("host-3",))},
        "2 of 3 others",
        "0",
    ),
    ("budget", {"fleet": Fleet(spent_function=6)}, "6 attempts in an hour by this function", "6"),
    ("budget", {"fleet": Fleet(spent_host=20)}, "20 attempts in an hour by all functions of this host", "20"),
    (
        "irreversible_budget",
        {"plan": plan(IRREVERSIBLE), "fleet": Fleet(spent_irreversible=2)},
        "2 attempts in 24 h with irreversible parts",
        "2",
    ),
]


@pytest.mark.parametrize(("rule", "fields", "limit", "seen"), REFUSALS)
def test_a_refusal_names_its_rule_the_limit_and_what_was_seen(rule, fields, limit, seen):
    refusal = judged(rule, **fields)

    assert isinstance(refusal, Refuse)
    assert (refusal.rule, refusal.limit, refusal.seen) == (rule, limit, seen)
    assert refusal.hint


WAITS = [
    ("approval", {"memory": {"pending": Pending(hash="f" * 64, requested_at=NOW, expires_at=NOW + HOUR)}}, HOUR),
    ("cooldown", {"memory": {"attempts": 1, "attempted_at": NOW - MINUTE}}, 14 * MINUTE),
    ("confirmation", {"memory": {"samples": looks(5) + looks(5, source="level")}}, 5 * SECOND),
    ("gather", {"fleet": Fleet(members=2, unhealthy_since=NOW - 4 * SECOND)}, 6 * SECOND),
    ("plan_expiry", {"planned_at": NOW - 11 * MINUTE}, timedelta(0)),
    ("grace", {"plan": plan(REVERSIBLE, grace=5 * MINUTE)}, 4 * MINUTE),
    ("second_source", {"plan": plan(RESTART), "memory": {"samples": looks(8, 4)}}, 6 * SECOND),
    ("maintenance_windows", {"plan": plan(RESTART)}, 14 * HOUR),
]
LIMITS = {
    "approval": {"mode": "approve"},
    "maintenance_windows": {"maintenance_windows": [{"cron": "0 2 * * *", "duration": "1 h"}]},
}


@pytest.mark.parametrize(("rule", "fields", "left"), WAITS)
def test_a_wait_names_its_rule_and_its_end(rule, fields, left):
    wait = judged(rule, limits=LIMITS.get(rule, {}), **fields)

    assert isinstance(wait, Wait)
    assert (wait.rule, wait.until) == (rule, NOW + left)
    assert wait.limit
    assert wait.seen


def test_every_rule_is_shown_to_object():
    # fleet_share spreads its wait, so it has a test of its own.
    assert {rule for rule, *_ in REFUSALS} | {rule for rule, *_ in WAITS} | {"fleet_share"} == set(RULES)


PASSES = [
    ("mode", {"limits": {"mode": "dry_run"}}),
    ("mode", {"limits": {"mode": "approve"}, "authority": Authority.LIVE}),
    ("protected_targets", {"limits": {"protected_targets": ["tank", "tank:b", "A"]}}),
    ("clock", {"clock_jump": 5 * MINUTE}),
    ("clock", {"clock_jump": -5 * MINUTE}),
    ("max_attempts", {"memory": {"attempts": 2}}),
    ("approval", {"memory": {"pending": Pending(hash="f" * 64, requested_at=NOW, expires_at=NOW)}}),
    ("cooldown", {"memory": {"attempts": 1, "attempted_at": NOW - 15 * MINUTE}}),
    ("flapping", {"memory": {"changes": [NOW - n * MINUTE for n in range(1, 6)]}}),
    ("symptom_only", {"memory": {"fixes": [NOW - n * HOUR for n in (1, 2, 24)]}}),
    ("storm", {"fleet": Fleet(members=10, unhealthy=hosts(4))}),
    ("confirmation", {"memory": {"samples": looks(40, 30, 20) + looks(10, unhealthy=False)}}),
    ("gather", {"fleet": Fleet(members=1)}),
    ("gather", {"fleet": Fleet(members=2, unhealthy_since=NOW - 10 * SECOND)}),
    ("plan_expiry", {"planned_at": NOW - 10 * MINUTE}),
    ("max_items", {"plan": plan((blast(4, "x"), blast(4, "y"))), "limits": {"max_items": 2}}),
    ("max_amounts", {"plan": plan((blast(4, "x"), blast(4, "y"))), "limits": {"max_amounts": {"litres": 8}}}),
    ("grace", {"plan": plan(REVERSIBLE, grace=MINUTE)}),
    ("second_source", {"plan": plan(RESTART), "memory": {"samples": looks(5) + looks(5, source="level")}}),
    ("second_source", {"plan": plan(RESTART), "memory": {"samples": looks(15, 5)}}),
    ("second_source", {"plan": plan(RESTART), "memory": {"samples": looks(5, 15)}}),
    ("second_source", {"plan": plan(REVERSIBLE), "memory": {"samples": looks(5)}}),
    ("second_source", {"plan": plan(RESTART), "memory": {"samples": ()}, "limits": {"second_source": False}}),
    ("healthy_peers", {"plan": plan(RESTART), "fleet": Fleet(members=4, unhealthy=("host-1", "host-2"))}),
    ("healthy_peers", {"plan": plan(REVERSIBLE), "fleet": Fleet(members=4, unhealthy=hosts(4))}),
    ("budget", {"fleet": Fleet(spent_function=5, spent_host=19, spent_irreversible=99)}),
    ("irreversible_budget", {"plan": plan(IRREVERSIBLE), "fleet": Fleet(spent_irreversible=1)}),
    ("irreversible_budget", {"plan": plan(RESTART), "fleet": Fleet(spent_irreversible=99)}),
]


@pytest.mark.parametrize(("rule", "fields"), PASSES)
def test_at_or_below_its_bound_a_rule_says_nothing(rule, fields):
    assert judged(rule, **fields) is None


SKIPPED = {
    Authority.EVENT: set(),
    Authority.DRY_RUN: set(),
    Authority.LIVE: {
        "max_attempts", "approval", "cooldown", "flapping", "symptom_only", "storm", "confirmation", "gather",
        "alert_first", "grace", "second_source",
    },
    Authority.APPROVAL: {
        "max_attempts", "approval", "cooldown", "flapping", "symptom_only", "confirmation", "plan_expiry", "grace",
        "second_source",
    },
}  # fmt: skip


@pytest.mark.parametrize("authority", list(Authority))
def test_who_may_skip_which_rules(authority):
    cases = [(rule, fields) for rule, fields, *_ in REFUSALS if rule != "mode"] + [case[:2] for case in WAITS]
    skipped = set()
    for rule, fields in cases:
        if rule in LIMITS:
            fields = {**fields, "limits": LIMITS[rule]}
        if judged(rule, **{**fields, "authority": authority}) is None:
            skipped.add(rule)

    assert skipped == SKIPPED[authority]


def test_only_these_rules_hold_for_what_changes_nothing():
    assert {rule.name for rule in RULES.values() if rule.always} == {"enabled", "mode", "protected_targets"}


# Back-off.


def test_each_attempt_doubles_the_cooldown_up_to_the_longest():
    waits = [rules.backed_off(policy(), incident(attempts=attempts)) for attempts in range(1, 9)]

    assert waits[0] == 15 * MINUTE
    for attempts, wait in enumerate(waits[1:5], 1):
        assert 15 * MINUTE * 2**attempts <= wait <= 15 * MINUTE * 2**attempts * (1 + rules.JITTER)
    assert waits[5:] == [6 * HOUR] * 3


def test_targets_that_failed_together_do_not_come_back_together():
    waits = {rules.backed_off(policy(), incident(id=f"{number:032x}", attempts=2)) for number in range(50)}

    assert len(waits) > 25


@pytest.mark.parametrize("attempts", [0, 1, 31, 10_000])
def test_the_longest_settings_can_be_reckoned_with(attempts):
    century = policy(cooldown=timedelta(days=36525), max_cooldown=timedelta(days=36525))

    assert rules.backed_off(century, incident(attempts=attempts)) == timedelta(days=36525)


def test_a_longest_cooldown_below_the_cooldown_does_not_shorten_it():
    assert rules.backed_off(policy(max_cooldown=MINUTE), incident(attempts=3)) == 15 * MINUTE


# Flapping.


def test_a_target_that_flaps_calms_down_only_below_the_lower_bound():
    changes = [NOW - n * MINUTE for n in range(1, 5)]

    assert judged("flapping", memory={"changes": changes, "flapping": False}) is None
    assert judged("flapping", memory={"changes": changes, "flapping": True}) is not None
    assert judged("flapping", memory={"changes": changes[:3], "flapping": True}) is None


def test_flapping_is_looked_at_again_when_so_many_changes_are_past_that_it_is_over():
    changes = [NOW - n * MINUTE for n in range(1, 7)]
    refusal = judged("flapping", memory={"changes": changes, "flapping": True})
    late = {"memory": {"changes": changes, "flapping": True}, "now": refusal.until}
    before = {**late, "now": refusal.until - SECOND}

    assert judged("flapping", **before) is not None
    assert judged("flapping", **late) is None


def test_symptom_only_is_looked_at_again_when_one_of_the_heals_is_a_day_past():
    fixes = [NOW - n * HOUR for n in (1, 2, 3)]
    refusal = judged("symptom_only", memory={"fixes": fixes})

    assert judged("symptom_only", memory={"fixes": fixes}, now=refusal.until - SECOND) is not None
    assert judged("symptom_only", memory={"fixes": fixes}, now=refusal.until) is None


# How much of a plan counts.


def test_only_what_is_needed_to_close_the_gap_counts_against_the_limits():
    enough = plan(tuple(blast(5, f"n{number}") for number in range(50)))

    assert judged("max_items", plan=enough, limits={"max_items": 2}) is None
    assert judged("max_items", plan=enough, limits={"max_items": 1}).seen == "2"
    assert judged("max_amounts", plan=enough, limits={"max_amounts": {"litres": 10}}) is None
    assert judged("max_amounts", plan=enough, limits={"max_amounts": {"litres": 9}}).seen == "10 litres"


def test_one_action_of_which_only_the_most_is_known_counts_with_that():
    unsure = plan(blast(500, exact=False))

    assert judged("max_amounts", plan=unsure, limits={"max_amounts": {"litres": 499}}).seen == "500 litres"


def test_many_actions_of_which_only_the_most_is_known_count_with_the_gap_and_one_of_them():
    unsure = plan(tuple(blast(100, f"n{number}", exact=False) for number in range(50)))

    assert judged("max_amounts", plan=unsure, limits={"max_amounts": {"litres": 110}}) is None
    assert judged("max_amounts", plan=unsure, limits={"max_amounts": {"litres": 109}}).seen == "110 litres"


def test_amounts_of_another_unit_than_the_gap_are_all_counted():
    three = plan(tuple(blast(100, f"n{number}") for number in range(3)))
    metres = Gap(amount=10, unit="metres")

    assert judged("max_amounts", plan=three, gap=metres, limits={"max_amounts": {"litres": 300}}) is None
    assert judged("max_amounts", plan=three, gap=metres, limits={"max_amounts": {"litres": 299}}).seen == "300 litres"


# Among hosts.

PLACES = [1] * 20 + [2]


@pytest.mark.parametrize(("members", "limit"), list(enumerate(PLACES)))
def test_a_tenth_of_the_hosts_may_act_at_once_rounded_down_and_at_least_one(members, limit):
    assert rules.places(FleetLimits(), members) == limit


@pytest.mark.parametrize(("share", "members", "limit"), [(0, 50, 1), (0.29, 100, 29), (0.5, 3, 1), (1, 7, 7)])
def test_the_share_is_reckoned_as_people_do(share, members, limit):
    assert rules.places(FleetLimits(share=share), members) == limit


def test_a_host_waits_while_the_others_hold_all_places():
    full = Fleet(members=20, acting=("host-2", "host-3"))
    wait = judged("fleet_share", fleet=full)

    assert isinstance(wait, Wait)
    assert (wait.limit, wait.seen) == ("2 of 20 hosts at once", "2 act now")
    assert rules.TURN <= wait.until - NOW <= 2 * rules.TURN
    assert judged("fleet_share", fleet=full.model_copy(update={"acting": ("host-2",)})) is None


def test_a_host_that_acts_already_needs_no_second_place():
    assert judged("fleet_share", fleet=Fleet(members=2, acting=("host-1",))) is None


STORMS = [(1, None), (2, None), (3, 3), (10, 5), (50, 21)]


@pytest.mark.parametrize(("members", "first"), STORMS)
def test_a_storm_is_more_than_the_share_and_never_fewer_than_three(members, first):
    storms = [count for count in range(members + 1) if rules.is_storm(FleetLimits(), members, count)]

    assert (storms[0] if storms else None) == first
    assert storms == list(range(first or members + 1, members + 1))


def test_exactly_the_share_is_no_storm_however_it_is_written_in_binary():
    assert not rules.is_storm(FleetLimits(storm_share=0.29), 100, 29)
    assert rules.is_storm(FleetLimits(storm_share=0.29), 100, 30)


@pytest.mark.parametrize(
    ("members", "unhealthy", "passes"),
    [(1, 0, True), (2, 0, True), (2, 1, False), (3, 1, True), (3, 2, False), (4, 1, True), (4, 2, False), (6, 2, True)],
)
def test_half_of_the_others_rounded_up_must_be_healthy_before_something_restarts(members, unhealthy, passes):
    others = tuple(f"other-{number}" for number in range(unhealthy))
    objection = judged("healthy_peers", plan=plan(RESTART), fleet=Fleet(members=members, unhealthy=others))

    assert (objection is None) == passes


def test_healthy_peers_counts_a_host_once_that_is_unhealthy_and_acts():
    fleet = Fleet(members=4, unhealthy=("host-2",), acting=("host-2",))

    assert judged("healthy_peers", plan=plan(RESTART), fleet=fleet) is None


def test_hosts_that_only_act_now_are_waited_for_and_nobody_is_called():
    fleet = Fleet(members=4, unhealthy=("host-2",), acting=("host-3",))
    wait = judged("healthy_peers", plan=plan(RESTART), fleet=fleet)

    assert isinstance(wait, Wait)
    assert (wait.limit, wait.seen) == ("2 of 3 others", "2, of which 1 act now")


def test_a_budget_of_nothing_lets_nothing_through():
    assert judged("budget", limits={"budget": {"per_function": 0}}).limit.startswith("0 attempts")


def test_observe_makes_no_plan_for_a_person_either():
    assert judged("mode", limits={"mode": Mode.OBSERVE}, authority=Authority.DRY_RUN).rule == "mode"
