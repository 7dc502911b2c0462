"""An entry as a remedy: what it sees, when that is unknown, and what it plans."""

import json
from datetime import timedelta

import pytest

from functions.core.plan import Plan
from functions.custom.arguments import MOST_INPUT
from functions.custom.remedy import remedy_of
from schemas.disk import DiskPressure
from schemas.health import Level
from schemas.probes import ProbeError
from schemas.remediation import Gap, Outcome, Risk
from tests.functions.custom.entries import TARGET, Machine, case, entry, event


def remedy(**fields):
    return remedy_of(entry(**fields), DiskPressure)


def gap_of(function, about, machine, target: str | None = None) -> Gap:
    asked = case(about, target)
    return function.gap(asked, function.observe(asked, machine))


def plan_of(function, about, machine=None, target: str | None = None) -> Plan:
    asked, machine = case(about, target), machine or Machine()
    seen = function.observe(case(event(target or TARGET)), Machine())
    return function.plan(asked, seen, function.survey(asked, seen, machine))


VERIFY = ["/usr/local/bin/check", "{target}"]


def test_it_is_called_by_its_entry_and_permits_what_the_globs_say():
    function = remedy()

    assert function.name == "custom.clear_exports"
    targets = function.targets((), Machine())
    assert function.permits("bytes:/srv/exports", targets)
    assert not function.permits("bytes:/home", targets)
    assert not function.permits("inodes:/srv/exports", targets)


# Without a check the event is the only witness.


def test_a_matching_event_is_a_gap_of_one_and_any_other_none():
    assert gap_of(remedy(), event(), Machine()) == Gap(
        amount=1, unit="unhealthy", reason="the event matches custom.clear_exports"
    )
    assert gap_of(remedy(), event(percent=80), Machine()).closed
    assert gap_of(remedy(), event(level=Level.WARNING), Machine()).closed


def test_the_events_own_reason_is_told():
    assert gap_of(remedy(), event(reason="95 % of /srv"), Machine()).reason == "95 % of /srv"


def test_a_target_outside_the_globs_is_nothing_to_it():
    assert gap_of(remedy(), event("bytes:/home"), Machine()).closed


def test_an_event_that_lacks_the_figure_leaves_the_truth_unknown():
    with pytest.raises(ProbeError, match=r"lacks a value that custom_actions\.clear_exports\.when asks for"):
        gap_of(remedy(), event(percent=None), Machine())


def test_without_an_event_the_truth_is_unknown():
    with pytest.raises(ProbeError, match="no verify command; the next event tells"):
        gap_of(remedy(), None, Machine())


def test_an_event_from_before_the_command_says_nothing_about_what_came_of_it():
    function, machine = remedy(), Machine()
    (action,) = plan_of(function, event()).rungs[0].actions
    action.apply(machine)

    with pytest.raises(ProbeError, match="made before the command had ended"):
        gap_of(function, event(), machine)

    later = event(age=-timedelta(seconds=2))
    assert gap_of(function, later, machine).open
    assert gap_of(function, event(percent=50), machine).closed


def test_a_time_without_a_zone_is_taken_for_utc():
    naive = event().model_copy(update={"observed_at": event().observed_at.replace(tzinfo=None)})
    machine = Machine()
    plan_of(remedy(), event()).rungs[0].actions[0].apply(machine)

    with pytest.raises(ProbeError, match="made before"):
        gap_of(remedy(), naive, machine)


# With a check the event only points.


@pytest.mark.parametrize("about", [event(), None])
def test_the_check_decides_with_or_without_an_event(about):
    function = remedy(verify=VERIFY)

    assert gap_of(function, about, Machine(sick={TARGET})).open
    assert gap_of(function, about, Machine()).closed


def test_a_check_without_an_answer_leaves_the_truth_unknown():
    with pytest.raises(ProbeError, match="the check broke"):
        gap_of(remedy(verify=VERIFY), event(), Machine(broken="the check broke"))


@pytest.mark.parametrize("about", [event(percent=50), event("bytes:/home")])
def test_an_event_that_does_not_match_costs_no_check(about):
    machine = Machine(sick={TARGET})

    assert gap_of(remedy(verify=VERIFY), about, machine).closed
    assert machine.checked == []


def test_a_check_that_needs_a_figure_is_unknown_without_an_event():
    with pytest.raises(ProbeError, match=r"can't verify .*\{percent\} is needed, and only an event has it"):
        gap_of(remedy(verify=["/bin/check", "{percent}"]), None, Machine())


def test_a_check_has_the_users_rights_and_its_own_time():
    machine = Machine()

    gap_of(remedy(verify=VERIFY, verify_timeout="3 s", user="nobody", directory="/srv"), event(), machine)

    (command,) = machine.checked
    assert (command.timeout, command.user, command.directory) == (3, "nobody", "/srv")


def test_a_glob_itself_is_no_target_to_look_at():
    with pytest.raises(ProbeError, match="stands for many targets; name one"):
        gap_of(remedy(verify=VERIFY), None, Machine(), target="bytes:/srv/*")


def test_a_target_that_is_named_in_full_can_be_looked_at():
    function = remedy(verify=VERIFY, targets=["bytes:/srv/[1]", "bytes:/srv"])

    assert gap_of(function, None, Machine(sick={"bytes:/srv"}), target="bytes:/srv").open


# The plan.


def test_the_plan_is_one_action_with_every_value_in_its_place():
    plan = plan_of(remedy(run=["/bin/x", "-p", "{percent}", "{target_name}"], timeout="5 s"), event())

    (rung,) = plan.rungs
    (action,) = rung.actions
    assert action.command.argv == ("/bin/x", "-p", "95.5", "/srv/exports")
    assert (action.command.timeout, action.command.stdin) == (5, "")
    assert (action.action, action.risk, action.undo) == (
        "custom.clear_exports", Risk.REVERSIBLE, "no command was declared that takes it back",
    )  # fmt: skip
    assert action.title() == "Run /bin/x -p 95.5 /srv/exports for bytes:/srv/exports"
    assert rung.unknown_effects
    assert plan.needed(Gap(amount=1, unit="unhealthy")) == {0}


def test_equal_events_make_equal_plans_and_figures_others():
    assert plan_of(remedy(), event()).hash == plan_of(remedy(), event(percent=99, age=timedelta(1))).hash
    with_figure = remedy(run=["/bin/x", "{percent}"])
    assert plan_of(with_figure, event()).hash != plan_of(with_figure, event(percent=99)).hash


def test_the_event_as_input_is_its_json():
    plan = plan_of(remedy(input="event"), event())

    document = json.loads(plan.rungs[0].actions[0].command.stdin)
    assert (document["mount"], document["percent"]) == ("/srv/exports", 95.5)


def test_a_callable_gets_the_event_and_the_target():
    action = plan_of(remedy(run=None, call="shop.actions:clear"), event()).rungs[0].actions[0]

    assert action.command.call == "shop.actions:clear"
    assert json.loads(action.command.stdin)["target"] == TARGET
    assert action.target == TARGET


@pytest.mark.parametrize(
    ("fields", "about", "target", "words"),
    [
        ({}, event("bytes:/srv/a\nb"), None, "custom.clear_exports is not run: {target} holds control characters"),
        ({}, event("bytes:/srv/../etc"), None, "has . or .. in its path"),
        ({"run": ["/bin/x"]}, event("bytes:/srv/../etc"), None, "has . or .. in its path"),
        ({"run": None, "call": "a:b"}, event("bytes:/srv/../etc"), None, "has . or .. in its path"),
        ({"run": ["/bin/x", "{mount}"]}, event(mount="--help"), None, "begins with a dash"),
        ({"undo": ["/bin/x", "{mount}"]}, event(mount="--help"), None, "begins with a dash"),
        ({"run": ["/bin/x", "{percent}"]}, None, TARGET, "{percent} is needed, and only an event has it"),
        ({"input": "event"}, None, TARGET, "it gets the event as input, and there is none"),
        ({"run": None, "call": "a:b"}, None, TARGET, "it gets the event as input, and there is none"),
        (
            {"input": "event"}, event(findings=["x" * 1999] * 40), None, f"bytes, allowed as input are {MOST_INPUT}",
        ),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_used_means_that_nothing_is_run(fields, about, target, words):
    function, asked = remedy(**fields), case(about, target)
    seen = function.observe(case(event()), Machine())

    with pytest.raises(ProbeError) as refused:
        function.survey(asked, seen, Machine())

    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


# The action.


def action_of(**fields):
    return plan_of(remedy(**fields), event()).rungs[0].actions[0]


UNDO = ["/usr/local/bin/restore", "{target}"]


def test_a_command_that_ended_well_is_done():
    result = action_of().apply(Machine())

    assert (result.outcome, result.done, result.detail) == (Outcome.DONE, 1, "the command said so")


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.REFUSED])
def test_one_that_did_not_is_a_failure(outcome):
    result = action_of().apply(Machine(outcome=outcome))

    assert (result.outcome, result.done) == (Outcome.FAILED, 0)


def test_a_failed_one_is_taken_back_by_the_declared_command():
    action = action_of(undo=UNDO, user="nobody")
    machine = Machine(outcome=Outcome.FAILED)

    inverse = action.inverse(action.apply(machine))

    assert inverse is not None
    assert inverse.action == "custom.clear_exports.undo"
    assert inverse.command.argv == ("/usr/local/bin/restore", TARGET)
    assert inverse.command.user == "nobody"
    assert inverse.inverse(None) is None


def test_after_a_crash_it_is_taken_back_too():
    assert action_of(undo=UNDO).inverse(None) is not None


def test_one_that_never_began_is_not_taken_back():
    action = action_of(undo=UNDO)

    assert action.inverse(action.apply(Machine(outcome=Outcome.REFUSED))) is None


def test_without_a_declared_command_there_is_no_way_back():
    assert action_of().inverse(None) is None


def test_each_entry_declares_its_own_risk_and_way_back():
    first, second = action_of(undo=UNDO, repeatable=True), action_of(name="other", risk="irreversible")

    assert (first.risk, first.undo, first.repeatable) == (Risk.REVERSIBLE, "runs /usr/local/bin/restore {target}", True)
    assert (second.risk, second.repeatable) == (Risk.IRREVERSIBLE, False)
    assert (second.summary().risk, second.summary().action) == (Risk.IRREVERSIBLE, "custom.other")


def test_an_action_that_was_stored_is_read_again_by_the_same_entry():
    function = remedy(undo=UNDO, input="event")
    action = plan_of(function, event(mount="/srv/\udcff")).rungs[0].actions[0]

    for kind, stored in zip(function.actions, (action, action.inverse(None)), strict=True):
        assert stored is not None
        assert kind.model_validate_json(stored.model_dump_json()) == stored
