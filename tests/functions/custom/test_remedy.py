"""An entry as a remedy: what it sees, when that is unknown, and what it plans."""

import json
from datetime import timedelta

import pytest

from functions.custom.arguments import MOST_INPUT
from schemas.health import Level
from schemas.probes import ProbeError
from schemas.remediation import Gap, Outcome, Risk
from tests.functions.custom.entries import TARGET, Custom, Machine, event

VERIFY = ["/usr/local/bin/check", "{target}"]


def test_it_is_called_by_its_entry_and_permits_what_the_globs_say():
    custom = Custom()
    remedy = custom.remedy

    assert remedy.name == "custom.clear_exports"
    targets = remedy.targets(custom.section, Machine())
    assert remedy.permits("bytes:/srv/exports", targets)
    assert not remedy.permits("bytes:/home", targets)
    assert not remedy.permits("inodes:/srv/exports", targets)


# Without a check the event is the only witness.


def test_a_matching_event_is_a_gap_of_one_and_any_other_none():
    assert Custom().gap(event(), Machine()) == Gap(
        amount=1, unit="unhealthy", reason="the event matches custom.clear_exports"
    )
    assert Custom().gap(event(percent=80), Machine()).closed
    assert Custom().gap(event(level=Level.WARNING), Machine()).closed


def test_the_events_own_reason_is_told():
    assert Custom().gap(event(reason="95 % of /srv"), Machine()).reason == "95 % of /srv"


def test_a_target_outside_the_globs_is_nothing_to_it():
    assert Custom().gap(event("bytes:/home"), Machine()).closed


def test_an_event_that_lacks_the_figure_leaves_the_truth_unknown():
    with pytest.raises(ProbeError, match=r"lacks a value that custom_actions\.clear_exports\.when asks for"):
        Custom().gap(event(percent=None), Machine())


def test_without_an_event_the_truth_is_unknown():
    with pytest.raises(ProbeError, match="no verify command; the next event tells"):
        Custom().gap(None, Machine())


def test_an_event_from_before_the_command_says_nothing_about_what_came_of_it():
    function, machine = Custom(), Machine()
    (action,) = function.plan(event()).rungs[0].actions
    action.apply(machine)

    with pytest.raises(ProbeError, match="made before the command had ended"):
        function.gap(event(), machine)

    later = event(age=-timedelta(seconds=2))
    assert function.gap(later, machine).open
    assert function.gap(event(percent=50), machine).closed


def test_a_time_without_a_zone_is_taken_for_utc():
    naive = event().model_copy(update={"observed_at": event().observed_at.replace(tzinfo=None)})
    machine = Machine()
    Custom().plan(event()).rungs[0].actions[0].apply(machine)

    with pytest.raises(ProbeError, match="made before"):
        Custom().gap(naive, machine)


# With a check the event only points.


@pytest.mark.parametrize("about", [event(), None])
def test_the_check_decides_with_or_without_an_event(about):
    function = Custom(verify=VERIFY)

    assert function.gap(about, Machine(sick={TARGET})).open
    assert function.gap(about, Machine()).closed


def test_a_check_without_an_answer_leaves_the_truth_unknown():
    with pytest.raises(ProbeError, match="the check broke"):
        Custom(verify=VERIFY).gap(event(), Machine(broken="the check broke"))


@pytest.mark.parametrize("about", [event(percent=50), event("bytes:/home")])
def test_an_event_that_does_not_match_costs_no_check(about):
    machine = Machine(sick={TARGET})

    assert Custom(verify=VERIFY).gap(about, machine).closed
    assert machine.checked == []


def test_a_check_that_needs_a_figure_is_unknown_without_an_event():
    with pytest.raises(ProbeError, match=r"can't verify .*\{percent\} is needed, and only an event has it"):
        Custom(verify=["/bin/check", "{percent}"]).gap(None, Machine())


def test_a_check_has_the_users_rights_and_its_own_time():
    machine = Machine()

    Custom(verify=VERIFY, verify_timeout="3 s", user="nobody", directory="/srv").gap(event(), machine)

    (command,) = machine.checked
    assert (command.timeout, command.user, command.directory) == (3, "nobody", "/srv")


def test_a_glob_itself_is_no_target_to_look_at():
    with pytest.raises(ProbeError, match="stands for many targets; name one"):
        Custom(verify=VERIFY).gap(None, Machine(), target="bytes:/srv/*")


def test_a_target_that_is_named_in_full_can_be_looked_at():
    function = Custom(verify=VERIFY, targets=["bytes:/srv/[1]", "bytes:/srv"])

    assert function.gap(None, Machine(sick={"bytes:/srv"}), target="bytes:/srv").open


# The plan.


def test_the_plan_is_one_action_with_every_value_in_its_place():
    plan = Custom(run=["/bin/x", "-p", "{percent}", "{target_name}"], timeout="5 s").plan(event())

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
    assert Custom().plan(event()).hash == Custom().plan(event(percent=99, age=timedelta(1))).hash
    with_figure = Custom(run=["/bin/x", "{percent}"])
    assert with_figure.plan(event()).hash != with_figure.plan(event(percent=99)).hash


def test_the_event_as_input_is_its_json():
    plan = Custom(input="event").plan(event())

    document = json.loads(plan.rungs[0].actions[0].command.stdin)
    assert (document["mount"], document["percent"]) == ("/srv/exports", 95.5)


def test_a_callable_gets_the_event_and_the_target():
    action = Custom(run=None, call="shop.actions:clear").plan(event()).rungs[0].actions[0]

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
    with pytest.raises(ProbeError) as refused:
        Custom(**fields).plan(about, target)

    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


# The action.


def action_of(**fields):
    return Custom(**fields).action()


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
    assert (second.told.risk, second.told.action) == (Risk.IRREVERSIBLE, "custom.other")


def test_an_action_that_was_stored_is_read_again_by_the_same_entry():
    function = Custom(undo=UNDO, input="event")
    action = function.plan(event(mount="/srv/\udcff")).rungs[0].actions[0]

    for kind, stored in zip(function.remedy.actions, (action, action.inverse(None)), strict=True):
        assert stored is not None
        assert kind.model_validate_json(stored.model_dump_json()) == stored


# Settings that are read again while it runs.


def test_other_values_are_in_force_at_once():
    custom = Custom()
    custom.change(run=("/bin/other", "{target_name}"), targets=("bytes:/home",), when={})

    assert custom.remedy.targets(custom.section, Machine()) == ["bytes:/home"]
    assert custom.gap(event(), Machine()).closed
    assert custom.gap(event("bytes:/home", percent=1), Machine()).open
    assert custom.plan(event("bytes:/home")).rungs[0].actions[0].command.argv == ("/bin/other", "/home")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"risk": Risk.REPRODUCIBLE}, "risk changed; nothing is run until ansai is restarted"),
        ({"undo": ("/bin/x",), "repeatable": True}, "repeatable, undo changed; nothing is run until"),
        ({"on": "ansai.health.shop.stock.v1"}, "on changed; nothing is run until"),
        ({}, "clear_exports stands no longer in custom_actions; nothing is run"),
    ],
)
def test_what_it_was_not_made_for_is_not_run_before_a_restart(changes, words):
    custom = Custom(verify=VERIFY)
    custom.change(**changes)

    for attempt in (
        lambda: custom.gap(event(), Machine()), lambda: custom.plan(event()),
        lambda: custom.remedy.targets(custom.section, Machine()),
    ):  # fmt: skip
        with pytest.raises(ProbeError, match=words):
            attempt()
