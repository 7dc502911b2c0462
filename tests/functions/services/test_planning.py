"""Which rungs, in which order, and when none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.services.facts import Check
from functions.services.planning import own_group, plan
from schemas.facts.commands import Checked
from schemas.remediation import Outcome, Risk
from schemas.settings.services import ServiceMonitoring
from tests.functions.services.world import (
    APP,
    AT,
    NOW,
    World,
    case,
    down,
    flapping,
    found,
    heard,
    holder,
    rungs,
    running,
    seen,
    titles,
    unit,
)

GROUP = "/system.slice/app.service"
TRIED = {"restart_policy": "always", "restarts": 5}
HOUR = {"start_limit_interval": 3600.0 * 2}


def planned(facts, event=None, what=None, skip_rungs=frozenset(), **settings):
    return plan(case(event, skip_rungs=skip_rungs, **settings), seen(facts), what or found())


def test_a_failed_unit_is_started():
    made = planned(unit(start_timeout=20))
    (action,) = made.rungs[0].actions
    assert rungs(made) == ["start"]
    assert (action.title(), action.risk, action.timeout) == ("Start app.service", Risk.AVAILABILITY, 30)
    assert made.advice == ""


def test_what_is_left_goes_before_it_is_started_processes_first_for_they_hold_the_files():
    what = found(stale_files=("/run/a.pid", "/run/a.lock"), holders=(holder(GROUP), holder(f"{GROUP}/worker", pid=8)))
    made = planned(unit(**TRIED, **HOUR), what=what)
    assert rungs(made) == ["end_stale_processes", "remove_stale_files", "start_anew"]
    end, files, *_ = [rung.actions[0] for rung in made.rungs]
    assert [process.pid for process in end.processes] == [7, 8]
    assert end.title() == "End what is left of app.service and holds port 8080: pid 7, 8"
    assert (files.files, files.groups) == (("/run/a.pid", "/run/a.lock"), (GROUP,))


def test_a_flapping_unit_that_runs_is_restarted_and_told_with_whom():
    made = planned(running(seconds=60, restarts=4), flapping(), found(restarted_along=("web.service",)))
    (action,) = made.rungs[0].actions
    assert rungs(made) == ["restart"]
    assert (action.invocation, list(action.items())) == ("1", [APP, "web.service"])
    assert action.title() == "Restart app.service, and with it web.service"


def test_what_keeps_a_flapping_unit_from_starting_goes_first():
    waiting = unit(active="activating", sub="auto-restart", restarts=4)
    made = planned(waiting, flapping(), found(stale_files=("/run/a.pid",), holders=(holder(GROUP),)))
    assert rungs(made) == ["end_stale_processes", "remove_stale_files", "restart"]


def test_a_unit_that_is_down_waits_for_no_maintenance_window_and_one_that_runs_does():
    assert [rung.due for rung in planned(unit()).rungs] == [NOW]
    assert [rung.due for rung in planned(running(seconds=60, restarts=4), flapping()).rungs] == [None]


# ── never ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("facts", "settings", "why"),
    [
        (unit("sshd.service"), {}, "sshd.service is protected"),
        (unit("systemd-networkd.service"), {}, "systemd-networkd.service is protected"),
        (unit(), {"protected": ["app"]}, "app.service is protected"),
        (unit(), {"restart": False}, "app.service may not be restarted"),
        (unit(), {"services": {"app": {"restart": False}}}, "app.service may not be restarted"),
        (unit(type="oneshot"), {}, "runs on occasion only"),
        (unit(sockets=("app.timer",)), {}, "runs on occasion only"),
        (unit(enabled="transient"), {}, "runs on occasion only"),
        (unit("app@3-10.0.0.1:80-10.0.0.2:4242.service", sockets=("app.socket",)), {}, "runs on occasion only"),
        (unit(aliases=("mysql.service",)), {"protected": ["mysql"]}, "app.service is protected"),
        (unit(aliases=("mysql.service",)), {"services": {"mysql": {"restart": False}}}, "may not be restarted"),
        (unit(drop_ins=("/run/systemd/system/app.service.d/50-pacemaker.conf",)), {}, "is run by Pacemaker"),
        (unit(failure_action="reboot-force"), {}, "the machine follows (FailureAction=reboot-force)"),
        (unit(job=True), {}, "something is being done with app.service"),
        (unit(can_start=False), {}, "can't be started or restarted by hand"),
        (unit(refuses_manual_start=True), {}, "can't be started or restarted by hand"),
        (unit(reload_needed=True), {}, "the unit file of app.service changed"),
    ],
)
def test_some_units_are_told_and_not_touched(facts, settings, why):
    made = planned(facts, **settings)
    assert made.empty
    assert why in titles(made)
    assert f"if {facts.name} does not stay up" in titles(made)


def test_one_unit_may_be_restarted_though_the_others_may_not():
    assert rungs(planned(unit(), restart=False, services={"app": {"restart": True}})) == ["start"]


@pytest.mark.parametrize("facts", [None, unit(load="masked"), unit(enabled="masked")])
def test_a_masked_unit_or_none_has_an_empty_plan(facts):
    assert planned(facts).empty


def test_one_whose_failure_was_cleared_before_the_plan_was_made_is_not_started():
    made = planned(down(invocation=""), heard())
    assert made.empty
    assert "its failure was cleared: if that was you, all is well" in titles(made)


def test_one_that_must_not_be_stopped_is_not_restarted_but_started_when_it_is_down():
    assert planned(running(seconds=60, restarts=4, refuses_manual_stop=True), flapping()).empty
    assert not planned(unit(refuses_manual_stop=True)).empty


def test_a_restart_that_would_restart_a_protected_unit_is_left_out():
    along = found(restarted_along=("web.service", "dbus.service"))
    made = planned(running(seconds=60, restarts=4), flapping(), along)
    assert made.empty
    assert "would restart dbus.service too" in titles(made)
    assert not planned(unit(), what=along).empty  # a start restarts nobody


def test_a_broken_configuration_is_told_with_what_the_check_said():
    check = Check(argv=("nginx", "-t"), answer=Checked(passed=False, said='unknown directive "lisen"'))
    made = planned(unit(), what=found(check=check, stale_files=("/run/a.pid",)))
    assert made.empty
    assert 'is broken, so it is not started: unknown directive "lisen"' in titles(made)
    assert made.findings[0].command == ("nginx", "-t")


def test_a_check_without_an_answer_is_none_that_passed():
    made = planned(unit(), what=found(check=Check(argv=("nginx", "-t"), trouble="it hangs")))
    assert made.empty
    assert "is sound is not known, so it is not started: it hangs" in titles(made)


def test_a_check_that_passed_lets_it_start():
    assert rungs(planned(unit(), what=found(check=Check(argv=("x",), answer=Checked(passed=True))))) == ["start"]


# ── other units ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_it_needs_is_healed_first():
    made = planned(unit(requires=("db.service",)), what=found(others=(unit("db.service"),)))
    assert made.empty
    assert "db.service, which app.service needs, has failed too: it is healed first" in titles(made)


@pytest.mark.parametrize(
    ("tie", "other", "starts"),
    [
        ("requires", down("db.service"), False),
        ("wants", down("db.service"), False),
        ("requires", unit("db.service", load="masked", active="inactive"), False),
        ("wants", unit("db.service", load="masked", active="inactive"), True),
        ("wants", unit("db.service"), True),
        ("wants", unit("db.service", type="oneshot"), False),
        ("wants", unit("dbus.service"), False),
        ("requires", down("db.service", type="oneshot"), True),
        ("requires", down("db.service", active_since=None), True),
        ("wants", down("db.service", sockets=("db.socket",)), True),
        ("wants", down("db.service", main_ended=AT - 9, active_until=AT - 8), True),
    ],
)
def test_a_unit_that_is_meant_to_be_down_is_not_started_along(tie, other, starts):
    made = planned(unit(**{tie: (other.name,)}), what=found(others=(other,)))
    assert made.empty is not starts
    assert ("so app.service is not started either" in titles(made)) is not starts


@pytest.mark.parametrize(
    ("group", "owner"),
    [
        ("/system.slice/nginx.service", "nginx.service"),
        ("/system.slice/app.service.d/x.service", "x.service"),
        ("/user.slice/user-0.slice/session-3.scope", "session-3.scope"),
        ("/other.slice/app.service", "app.service"),
        ("/system.slice/app.service/inner.service", "inner.service"),
        ("/system.slice", "a process that belongs to no unit"),
        ("/", "a process that belongs to no unit"),
        ("", "a process that belongs to no unit"),
    ],
)
def test_a_process_of_another_unit_or_of_none_is_told_with_its_owner_and_lives(group, owner):
    made = planned(unit(), what=found(holders=(holder(group),)))
    assert rungs(made) == ["start"]
    assert f"port 8080, which app.service listens on, is held by {owner}" in titles(made)


@pytest.mark.parametrize(
    ("facts", "group"),
    [
        ({"control_group": "/x/y.service"}, "/x/y.service"),
        ({"slice": "system.slice"}, "/system.slice/app.service"),
        ({"slice": ""}, "/system.slice/app.service"),
        ({"slice": "-.slice"}, "/app.service"),
        ({"slice": "a-b-c.slice"}, "/a.slice/a-b.slice/a-b-c.slice/app.service"),
    ],
)
def test_where_its_processes_would_be_is_known_of_a_unit_without_any(facts, group):
    assert own_group(unit(**facts)) == group


# ── systemd's limit of starts ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_unit_without_starts_left_is_reset_first_and_only_once():
    worn = unit(**TRIED, **HOUR)
    assert rungs(planned(worn)) == ["start_anew"]
    again = planned(worn, skip_rungs=frozenset({"start_anew"}))
    assert again.empty
    assert "is not started for another 1 h: its own limit is 5 starts in 2 h" in titles(again)


def test_no_reset_is_needed_when_the_time_for_counting_is_over():
    assert rungs(planned(unit(**TRIED))) == ["start"]
    assert rungs(planned(unit(**TRIED), skip_rungs=frozenset({"start_anew"}))) == ["start"]


@pytest.mark.parametrize(
    ("burst", "restarts", "starts"),
    [(5, 0, True), (4, 0, True), (3, 0, False), (1, 0, False), (0, 0, True), (8, 2, True), (7, 2, False)],
)
def test_our_start_leaves_half_of_them_to_others(burst, restarts, starts):
    facts = unit(start_limit_burst=burst, restarts=restarts, **HOUR)
    assert planned(facts).empty is not starts
    later = unit(start_limit_burst=burst, restarts=restarts, start_limit_interval=3599.0)
    assert not planned(later).empty


# ── what a person is told ─────────────────────────────────────────────────────────────────────────────────────────────


def commands(made) -> set[str]:
    return {" ".join(finding.command) for finding in made.findings}


def test_every_plan_says_what_a_person_should_do_if_it_fails_again():
    made = planned(unit())
    assert commands(made) == {"journalctl -u app.service -n 50 --no-pager",
                              "systemctl status --no-pager --full app.service"}  # fmt: skip
    assert "app.service: its main process ended with status 3" in titles(made)


@pytest.mark.parametrize(
    ("facts", "command"),
    [
        ({"result": "oom-kill"}, "ansai plan memory.contain_leak --target unit:app.service"),
        ({"result": "core-dump", "exit_code": 3, "exit_status": 11}, "coredumpctl info app.service"),
        ({"exit_status": 203}, "systemctl cat app.service"),
    ],
)
def test_how_it_ended_names_where_to_look(facts, command):
    assert command in commands(planned(unit(**facts)))


# ── acting ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def carry_out(made, world):
    return [action.apply(world) for rung in made.rungs for action in rung.actions]


def test_each_action_does_what_it_says():
    world = World()
    what = found(stale_files=("/run/a.pid",), holders=(holder(GROUP),))
    carry_out(planned(unit(**TRIED, **HOUR), what=what), world)
    carry_out(planned(unit()), world)
    carry_out(planned(running(seconds=60, restarts=4), flapping()), world)
    assert world.done == [
        ("end", "7", "10.0"), ("remove_stale", "/run/a.pid", GROUP), ("start_anew", APP, "1", "100.0"),
        ("start", APP, "1", "100.0"), ("restart", APP, "1", "190.0"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "outcome", [Outcome.DONE, Outcome.FAILED, Outcome.IN_PROGRESS, Outcome.SKIPPED, Outcome.DEFERRED]
)
def test_what_systemd_answers_is_the_result_with_its_words(outcome):
    (result,) = carry_out(planned(unit()), World(outcomes={"start": outcome}))
    assert (result.outcome, result.detail) == (outcome, f"start {outcome}")


# ── for every unit ────────────────────────────────────────────────────────────────────────────────────────────────────

NAMES = st.sampled_from([APP, "sshd.service", "db.service", "keep.service", "systemd-udevd.service"])
GROUPS = st.sampled_from([GROUP, f"{GROUP}/a", "/system.slice/db.service", "/", "", f"{GROUP}x", "/user.slice/s.scope"])


@st.composite
def units(draw, names=NAMES):
    flag = st.booleans()
    return unit(
        draw(names), active=draw(st.sampled_from(["active", "inactive", "failed", "activating", "deactivating"])),
        load=draw(st.sampled_from(["loaded", "masked"])),
        enabled=draw(st.sampled_from(["enabled", "masked", "static"])),
        type=draw(st.sampled_from(["simple", "oneshot"])), job=draw(flag), can_start=draw(flag),
        reload_needed=draw(flag), restarts=draw(st.integers(0, 9)),
        restart_policy=draw(st.sampled_from(["no", "always"])),
        start_limit_burst=draw(st.integers(0, 9)), start_limit_interval=draw(st.sampled_from([0.0, 10.0, 1e6])),
        sockets=draw(st.sampled_from([(), ("a.timer",), ("a.socket",)])),
        invocation=draw(st.sampled_from(["", "1", "2"])), active_since=draw(st.none() | st.floats(0, AT)),
    )  # fmt: skip


@given(
    facts=units(),
    others=st.lists(units(), max_size=3).map(tuple),
    holders=st.lists(st.builds(holder, GROUPS, st.just(8080), st.integers(2, 9)), max_size=4).map(tuple),
    check=st.none()
    | st.builds(Check, argv=st.just(("x",)), answer=st.none() | st.builds(Checked, passed=st.booleans())),
    event=st.none() | st.builds(heard) | st.builds(flapping),
    skip=st.sampled_from([frozenset(), frozenset({"start_anew"})]),
)
def test_nobody_is_touched_who_must_not_be(facts, others, holders, check, event, skip):
    settings = ServiceMonitoring(protected=("keep",))
    what = found(holders=holders, check=check, stale_files=("/run/a.pid",), others=others)
    made = planned(facts, event, what, skip, protected=("keep",))
    actions = [action for rung in made.rungs for action in rung.actions]
    told = {process.pid for action in actions for process in getattr(action, "processes", ())}
    strangers = {each.process.pid for each in holders if each.group not in {GROUP, f"{GROUP}/a"}}
    kin = {each.process.pid for each in holders if each.group in {GROUP, f"{GROUP}/a"}}
    assert told <= (kin if facts.name == APP else set())
    assert not told & (strangers - kin)
    if made.empty:
        return
    assert not facts.masked
    assert not facts.occasional
    assert not facts.job
    assert not settings.protects(facts.name)
    assert facts.failed or event is not None
    assert facts.active not in {"inactive", "deactivating"}
    assert check is None or check.passed
    assert {action.unit for action in actions} == {facts.name}
    assert made.rungs[-1].name in {"start", "restart"} - skip | {"start_anew"} - skip
    assert not what.stopped_along
    assert not facts.failed_when_stopped
    if made.rungs[-1].name == "restart":
        assert not any(map(settings.protects, what.restarted_along))
    if not facts.at_rest:
        assert not told
