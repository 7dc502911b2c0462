"""The policy in force for a function: own values, the default's, the built-in ones; and the lowest of all modes."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.remediation import Mode, Risk
from schemas.settings.policy import EffectivePolicy, FunctionPolicy, HostPolicy, Policy

MINUTE = timedelta(minutes=1)


def policy(**sections) -> Policy:
    return Policy.model_validate(sections)


def complaint(**sections) -> str:
    with pytest.raises(ValidationError) as refused:
        policy(**sections)
    return str(refused.value)


def test_what_nobody_set_is_what_the_effective_policy_says_by_itself():
    assert Policy().of("disk.free_space") == EffectivePolicy()


def test_shipped_nothing_acts_and_what_is_irreversible_never_does_by_itself():
    shipped = Policy().of("disk.free_space")

    assert shipped.mode is Mode.DRY_RUN
    assert shipped.risk_modes == {Risk.IRREVERSIBLE: Mode.APPROVE}


def test_own_values_come_before_the_defaults_and_those_before_the_built_in():
    said = policy(
        default={"max_attempts": 5, "cooldown": "20 min"}, functions={"disk.free_space": {"max_attempts": 2}}
    ).of("disk.free_space")

    assert (said.max_attempts, said.cooldown, said.max_fixes) == (2, 20 * MINUTE, 3)


@pytest.mark.parametrize(
    ("default", "own", "expected"),
    [
        (
            {"budget": {"per_function": 2, "irreversible": 0}},
            {"budget": {"per_function": 10}},
            {"budget": {"per_function": 10, "per_host": 20, "irreversible": 0}},
        ),
        (
            {"confirmation": {"every": "1 min"}},
            {"confirmation": {"needed": 2}},
            {"confirmation": {"needed": 2, "of": 4, "every": "1 min"}},
        ),
        (
            {"risk_modes": {"availability": "approve"}},
            {"risk_modes": {"irreversible": "auto"}},
            {"risk_modes": {"availability": "approve", "irreversible": "auto"}},
        ),
        ({}, {"max_amounts": {"rows": 5}}, {"max_amounts": {"bytes": 200 * 2**30, "rows": 5}}),
        (
            {"max_amounts": {"rows": 5, "bytes": "1G"}},
            {"max_amounts": {"rows": 9}},
            {"max_amounts": {"bytes": 2**30, "rows": 9}},
        ),
        ({"fleet": {"share": 0.2}}, {"fleet": {"gather": "1 s"}}, {"fleet": {"share": 0.2, "gather": "1 s"}}),
    ],
)  # fmt: skip
def test_a_part_that_is_named_does_not_lose_what_is_said_of_the_others(default, own, expected):
    said = policy(default=default, functions={"a.b": own}).of("a.b")

    assert said == EffectivePolicy.model_validate(expected)


def test_a_list_that_is_given_takes_the_place_of_the_defaults_list():
    both = policy(default={"protected_targets": ["x"]}, functions={"a.b": {"protected_targets": ["y"]}})

    assert both.of("a.b").protected_targets == ("y",)
    assert both.of("a.c").protected_targets == ("x",)


def test_a_host_cap_holds_for_every_function_on_the_hosts_that_its_glob_matches():
    said = policy(mode="auto", hosts={"db-*": {"mode": "approve"}, "db-1": {"mode": "observe"}})

    assert [said.of("a.b", host).mode for host in ("web-1", "db-2", "db-1")] == [Mode.AUTO, Mode.APPROVE, Mode.OBSERVE]


@pytest.mark.parametrize("risk", list(Risk))
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("cap", list(Mode))
def test_an_action_goes_as_far_as_the_lower_of_its_functions_mode_and_its_risks_cap(mode, cap, risk):
    said = EffectivePolicy(mode=mode, risk_modes={risk: cap})

    assert said.mode_for(risk).rank == min(mode.rank, cap.rank)
    assert all(said.mode_for(other) is mode for other in Risk if other is not risk)


modes = st.sampled_from(list(Mode))
maybe = st.one_of(st.none(), modes)


@given(modes, maybe, maybe, st.dictionaries(st.sampled_from(["web-*", "web-1", "*", "db"]), modes))
def test_the_effective_mode_is_never_above_any_cap(cap, default, own, hosts):
    said = Policy(
        mode=cap, default=FunctionPolicy(mode=default), functions={"a.b": FunctionPolicy(mode=own)},
        hosts={pattern: HostPolicy(mode=mode) for pattern, mode in hosts.items()},
    ).of("a.b", "web-1")  # fmt: skip

    applying = [cap, own if own is not None else default, *(mode for glob, mode in hosts.items() if glob != "db")]
    assert said.mode.rank == min(mode.rank for mode in applying if mode is not None)


def test_the_version_says_whether_two_policies_are_equal():
    one = EffectivePolicy(risk_modes={Risk.IRREVERSIBLE: Mode.AUTO, Risk.AVAILABILITY: Mode.APPROVE})
    same = EffectivePolicy(risk_modes={Risk.AVAILABILITY: Mode.APPROVE, Risk.IRREVERSIBLE: Mode.AUTO})

    assert one.version == same.version
    assert len(one.version) == 12
    assert one.version != EffectivePolicy().version


@pytest.mark.parametrize("off", [False, "off"])
def test_a_bare_off_as_mode_is_refused_with_what_to_write_instead(off):
    assert "write enabled: false" in complaint(mode=off)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"default": {"confirmation": {"needed": 5}}}, "needed is 5 of 4 looks, which can never be"),
        ({"default": {"flapping": {"begin": 3}}}, "end must be below begin"),
        ({"default": {"flapping": {"begin": 21}}}, "less than or equal to 20"),  # only so many changes are kept
        ({"default": {"max_fixes": 21}}, "less than or equal to 20"),
        ({"default": {"cooldown": "40000 days"}}, "less than or equal to"),
        ({"default": {"cooldown": "999999999999999 days"}}, "less than or equal to"),
        ({"default": {"confirmation": {"every": "2 days"}}}, "less than or equal to"),
        ({"default": {"cooldown": 15}}, "has no unit"),
        ({"default": {"max_attempts": 0}}, "greater than or equal to 1"),
        ({"default": {"max_item": 1}}, "max_item"),
        ({"default": {"fleet": {"share": 1.1}}}, "less than or equal to 1"),
        ({"default": {"risk_modes": {"harmless": "auto"}}}, "harmless"),
        ({"group": "a b"}, "group"),
        (
            {
                "default": {"confirmation": {"needed": 1, "of": 1}},
                "functions": {"a.b": {"confirmation": {"needed": 2}}},
            },
            "functions.a.b, with what it takes from default: confirmation: needed is 2 of 1 looks",
        ),
    ],
)  # fmt: skip
def test_what_can_not_be_is_refused(sections, said):
    assert said in complaint(**sections)
