"""The ladder: which rungs, when they are due, and what a person is told."""

from dataclasses import replace
from datetime import timedelta

import pytest

from functions.memory.actions import CollectGarbage, RestartContainer, RestartUnit
from functions.memory.contain_leak import REMEDY
from schemas.facts.memory import Trend
from schemas.health import Level
from schemas.remediation import Risk
from tests.functions.memory.world import (
    APP,
    FIRST_PID,
    MIB,
    NOW,
    UNIT,
    World,
    actions,
    container,
    content,
    growing,
    identity,
    names,
    process,
    titles,
    trend,
    unit,
)

SIGNAL = {"garbage_collection": {"signal": "SIGUSR1", "timeout": "30 s"}}


def settings(**service) -> dict:
    return {"services": {"unit:app*": {"restart": True, **service}}}


def handling() -> World:
    return World(handlers={"SIGUSR1"})


# ── rungs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_garbage_is_asked_for_before_the_restart():
    world = handling()
    plan = world.plan(world.case(trend(), **settings(**SIGNAL)))

    assert names(plan) == ["collect_garbage", "restart"]
    collection, restart = actions(plan)
    assert collection == CollectGarbage(target=APP, process=identity(), signal="SIGUSR1", timeout=30)
    assert restart == RestartUnit(unit=UNIT, invocation="a" * 32, held=310 * MIB, timeout=300)
    assert plan.advice == ""


def test_without_a_way_to_ask_it_is_only_restarted():
    world = World()
    assert names(world.plan(world.case(trend(), **settings()))) == ["restart"]


def test_what_grows_for_days_with_time_left_is_asked_and_not_restarted():
    world = handling()
    plan = world.plan(world.case(growing(), **settings(**SIGNAL)))

    assert names(plan) == ["collect_garbage"]
    assert plan.rungs[0].due is None
    assert f"{APP} is not restarted yet: its limit is more than 30 min away (alert_within)" in titles(plan)


def test_with_time_left_and_no_way_to_ask_the_plan_is_advice_with_a_report():
    world = World()
    plan = world.plan(world.case(growing(), **settings()))

    assert plan.empty
    assert plan.advice == "there is time, and a restart would only be a break"


def test_a_flag_that_is_not_confirmed_never_acts():
    world = handling()
    for state in (Trend.LEARNING, Trend.STEADY):
        plan = world.plan(world.case(trend(trend=state), **settings(**SIGNAL)))
        assert plan.empty
        assert plan.advice == f"its growth is not confirmed: it is {state}"


def test_when_it_presses_and_nothing_may_be_done_the_plan_is_no_advice_so_that_a_person_hears():
    world = World()
    plan = world.plan(world.case(trend()))
    assert (plan.empty, plan.advice) == (True, "")
    assert f"{APP} is not restarted: memory_monitoring.restart is false" in titles(plan)


def test_another_run_than_the_one_heard_of_is_left_alone():
    world = handling()
    plan = world.plan(world.case(trend(instance="b" * 32), **settings(**SIGNAL)))
    assert plan.empty
    assert "restarted since" in plan.advice


def test_a_run_that_began_between_the_look_and_the_plan_is_left_alone():
    world = handling()
    case = world.case(trend(), **settings(**SIGNAL))
    seen = REMEDY.observe(case, world)
    world.units_here[UNIT] = unit(invocation="b" * 32)
    plan = REMEDY.plan(case, seen, REMEDY.survey(case, seen, world))

    assert plan.empty
    assert f"{APP} is not restarted: it was restarted just now" in titles(plan)


def test_a_rung_that_did_not_help_lately_is_left_out_and_told():
    world = handling()
    case = replace(world.case(trend(), **settings(**SIGNAL)), skip_rungs=frozenset({"collect_garbage"}))
    plan = world.plan(case)
    assert names(plan) == ["restart"]
    assert f"{APP} is not asked to collect garbage: that gave next to nothing back lately" in titles(plan)


def test_both_rungs_have_the_risk_of_a_restart_so_that_the_guard_looks_twice():
    world = handling()
    plan = world.plan(world.case(trend(), **settings(**SIGNAL)))
    assert {rung.risk for rung in plan.rungs} == {Risk.AVAILABILITY}


def test_while_there_is_time_it_is_asked_once_for_the_restart_needs_the_attempts():
    """A leak of days, asked in vain every six hours, would have a person look before its end comes near."""
    world = handling()
    once = replace(world.case(growing(), **settings(**SIGNAL)), attempts=1)
    plan = world.plan(once)
    assert plan.empty
    assert f"{APP} is not asked to collect garbage: it was, and is again when its limit is near" in titles(plan)
    near = replace(world.case(trend(), **settings(**SIGNAL)), attempts=1)
    assert names(world.plan(near)) == ["collect_garbage", "restart"]


def test_what_is_asked_is_told_without_what_may_be_a_secret():
    _, by_address = asked(World(), {"http": "http://127.0.0.1:8080/gc?token=hunter2"})
    _, by_command = asked(World(), {"command": ["/bin/curl", "-H", "Authorization: Bearer hunter2"]})
    assert by_address.url.endswith("hunter2")
    assert by_address.title() == f"Ask {APP} to collect garbage, by POST http://127.0.0.1:8080/gc"
    assert by_command.title() == f"Ask {APP} to collect garbage, by /bin/curl -H Authorization: ***"


# ── when ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_all_rungs_are_due_act_within_before_the_end():
    """330 MiB are left, for 19.3 minutes at 1 GiB an hour; it was heard to be 20."""
    world = handling()
    plan = world.plan(world.case(trend(), **settings(**SIGNAL)))
    left = timedelta(hours=330 / 1024)
    assert {rung.due for rung in plan.rungs} == {NOW + left - timedelta(minutes=10)}


def test_what_was_heard_ages():
    world = World()
    heard = trend(per_hour=None, observed_at=NOW - timedelta(minutes=5))
    plan = world.plan(world.case(heard, **settings()))
    assert plan.rungs[0].due == NOW + timedelta(minutes=20 - 5 - 10)


def test_what_is_nearer_than_act_within_is_due_now():
    world = World()
    plan = world.plan(world.case(trend(seconds_to_limit=60), **settings()))
    assert plan.rungs[0].due == NOW


def test_due_is_no_part_of_what_a_person_grants():
    world = World()
    first = world.plan(world.case(trend(), **settings()))
    later = world.plan(world.case(trend(seconds_to_limit=300), **settings()))
    assert first.rungs[0].due != later.rungs[0].due
    assert first.hash == later.hash


@pytest.mark.parametrize(("seconds", "grace"), [(1200, 120), (240, 120), (100, 50), (0, 0)])
def test_the_grace_is_half_of_the_time_that_is_left_at_most(seconds, grace):
    world = World()
    plan = world.plan(world.case(trend(seconds_to_limit=seconds, per_hour=None), **settings()))
    assert plan.grace == timedelta(seconds=grace)


def test_at_act_percent_there_is_no_grace_whatever_the_forecast():
    world = World(limits={f"/system.slice/{UNIT}": 420 * MIB})
    plan = world.plan(world.case(growing(per_hour=1.0), **settings()))
    assert names(plan) == ["restart"]
    assert plan.grace == timedelta(0)
    assert plan.rungs[0].due == NOW


# ── garbage ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def asked(world: World, way: dict, heard=None):
    plan = world.plan(world.case(heard or trend(), **settings(garbage_collection=way)))
    return plan, next((action for action in actions(plan) if isinstance(action, CollectGarbage)), None)


def test_a_signal_without_a_handler_is_never_sent():
    plan, action = asked(World(), {"signal": "SIGUSR1"})
    assert action is None
    assert f"{APP} is not asked to collect garbage: it has no handler for SIGUSR1, which would then end it" in titles(
        plan
    )


def test_when_the_handlers_can_t_be_read_no_signal_is_sent():
    plan, action = asked(World(handlers={"SIGUSR1"}, broken={"handles"}), {"signal": "SIGUSR1"})
    assert action is None
    assert "could not look at its signal handlers: handles: permission denied" in titles(plan)


def test_a_process_that_is_not_known_is_not_signalled_but_an_address_needs_none():
    world = World(units_here={UNIT: unit(main_pid=None)}, handlers={"SIGUSR1"})
    plan, action = asked(world, {"signal": "SIGUSR1"})
    assert action is None
    assert f"{APP} is not asked to collect garbage: its main process is not known" in titles(plan)
    assert asked(world, {"command": ["/bin/gc", "{pid}"]})[1] is None
    _, action = asked(world, {"http": "http://127.0.0.1:8080/gc"})
    assert (action.url, action.process) == ("http://127.0.0.1:8080/gc", None)


def test_the_pid_takes_its_place_in_a_command():
    _, action = asked(World(), {"command": ["/usr/bin/gc", "--pid", "{pid}", "x{pid}"]})
    assert action.command == ("/usr/bin/gc", "--pid", str(FIRST_PID), "x{pid}")


def test_a_collection_takes_a_quarter_of_the_time_that_is_left_at_most():
    _, action = asked(World(), {"jcmd": True}, trend(seconds_to_limit=40))
    assert action.timeout == 10
    plan, action = asked(World(), {"jcmd": True}, trend(seconds_to_limit=3))
    assert action is None
    assert names(plan) == ["restart"]


# ── the restart ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_stops_with_a_unit_is_named_in_the_title_and_among_the_items():
    world = World(units_here={UNIT: unit(dependants=("web.service", "worker.service"))})
    (restart,) = actions(world.plan(world.case(trend(), **settings())))
    assert restart.title() == (
        "Restart app.service (at most 310 MiB come free; web.service, worker.service restart with it)"
    )
    assert restart.items() == [f"{UNIT} {'a' * 32}", "web.service", "worker.service"]


@pytest.mark.parametrize(("stop", "start", "timeout"), [(90, 90, 300), (10, 5, 55), (None, 90, 630), (90, None, 630)])
def test_systemd_gets_more_time_than_its_own_timeouts(stop, start, timeout):
    world = World(units_here={UNIT: unit(stop_timeout=stop, start_timeout=start)})
    (restart,) = actions(world.plan(world.case(trend(), **settings())))
    assert restart.timeout == timeout


def test_a_container_is_restarted_by_its_id_and_its_start():
    found = container("web-1")
    world = World(containers_here=[found], held={"/docker/web-1": 410 * MIB}, limits={"/docker/web-1": 740 * MIB})
    heard = trend("container:web-1", instance=f"{found.id[:12]}@{found.started.isoformat()}")
    case = world.case(heard, "container:web-1", restart=True)
    assert actions(world.plan(case)) == [
        RestartContainer(
            engine="docker", container=found.id, name="web-1", started=found.started, held=310 * MIB, timeout=30
        )
    ]


# ── the report ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_report_says_how_it_grows_where_that_leads_and_who_holds_it():
    other = process(FIRST_PID + 1, 10 * MIB, exact=False, descriptors=None)
    world = World(processes_here={FIRST_PID: process(), FIRST_PID + 1: other})
    heard = trend(per_hour_low=900.0 * MIB, per_hour_high=1100.0 * MIB, out_of_memory_kills=2)
    first, *rest = world.plan(world.case(heard, **settings())).findings

    assert first.title == (
        "unit:app.service holds 410 MiB of 740 MiB (/system.slice/app.service), it grows by 1.0 GiB an hour (900 MiB to"
        " 1.1 GiB); at that pace it reaches its limit in 19 min 20 s"
    )
    assert first.detail.splitlines() == [
        "▁▃█ 100 MiB to 400 MiB",
        "its floor rose from 100 MiB to 400 MiB in 30 min, says the fast detector",
        "the kernel killed in it 2 times for lack of memory",
    ]
    assert [(finding.title, finding.detail) for finding in rest] == [
        (f"process {FIRST_PID} holds 400 MiB: /usr/bin/app", "7 threads, 31 descriptors"),
        (f"process {FIRST_PID + 1} holds 10.0 MiB: /usr/bin/app", "7 threads, counted by its resident set"),
        (f"process {FIRST_PID} holds most in 300 MiB [heap]", "300 MiB [heap]\n1.0 MiB /lib/libc.so"),
    ]


def test_of_many_processes_the_largest_are_told_and_the_rest_is_counted():
    world = World(processes_here={FIRST_PID + n: process(FIRST_PID + n, n * MIB) for n in range(1, 9)})
    told = titles(world.plan(world.case(trend(), **settings())))
    assert [title for title in told if "holds 8.0" in title or "holds 4.0" in title or "holds 3.0" in title] == [
        f"process {FIRST_PID + 8} holds 8.0 MiB: /usr/bin/app",
        f"process {FIRST_PID + 4} holds 4.0 MiB: /usr/bin/app",
    ]
    assert "3 more processes hold less each" in told


@pytest.mark.parametrize("part", ["memory", "mappings", "identity"])
def test_evidence_that_can_t_be_read_is_told_and_stops_nothing(part):
    world = World(broken={part})
    plan = world.plan(world.case(trend(), **settings()))
    assert names(plan) == ["restart"]
    assert any("could not look at" in title and "permission denied" in title for title in titles(plan))


def test_hostile_text_is_shown_and_not_obeyed():
    world = World(processes_here={FIRST_PID: process(identity=identity(command="\x1b[2J\x07app"))})
    plan = world.plan(world.case(trend(findings=("\x1b]0;x",)), **settings()))
    assert not any("\x1b" in finding.title + finding.detail for finding in plan.findings)


def test_a_plan_about_a_service_of_which_nothing_is_heard_has_its_evidence():
    world = World()
    plan = world.plan(world.case(None, **settings()))
    assert plan.empty
    assert "nothing was heard" in plan.advice
    assert any("holds 400 MiB" in title for title in titles(plan))
    assert content().level is Level.OK
