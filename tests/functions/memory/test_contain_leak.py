"""The remedy: its targets, what it observes, how far from healthy that is."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from pydantic import ValidationError

from functions.core.remedy import Case
from functions.memory.contain_leak import REMEDY
from functions.memory.facts import State
from functions.memory.judgement import outlook_of
from schemas.facts.instances import instance_of_container
from schemas.facts.memory import Trend
from schemas.health import Level
from schemas.memory import MemoryPressure, MemoryTrend
from schemas.probes import ProbeError
from schemas.settings.memory import MemoryMonitoring
from tests.functions.memory.world import (
    APP,
    FIRST_PID,
    MIB,
    NOW,
    UNIT,
    World,
    container,
    content,
    identity,
    process,
    trend,
    unit,
)

MINUTE = timedelta(minutes=1)


# ── targets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_the_settings_watch_and_what_is_there_are_targets():
    world = World(containers_here=[container("web-1"), container("scratch")], matches={"worker.py": [identity()]})
    world.units_here |= {"old.service": unit("old.service", active="inactive"), "x.service": unit("x.service")}
    settings = MemoryMonitoring(
        processes={"worker": {"command": "worker.py"}, "gone": {"command": "gone.py"}},
        ignore=("unit:x*", "container:scratch"),
    )
    assert REMEDY.targets(settings, world) == ["container:web-1", "process:worker", APP]


def test_a_host_without_systemd_still_has_its_containers():
    world = World(containers_here=[container()], broken={"units"})
    assert REMEDY.targets(MemoryMonitoring(), world) == ["container:web-1"]


def test_when_nothing_could_be_listed_the_targets_are_unknown():
    with pytest.raises(ProbeError, match="units: permission denied"):
        REMEDY.targets(MemoryMonitoring(), World(broken={"units"}))


def test_replicas_share_a_resource_and_others_do_not():
    def resources(target, **settings):
        return REMEDY.resources(World().case(target=target, **settings))

    group = {"services": {"unit:shop@*.service": {"replicas": "shop"}}}
    assert resources("unit:shop@1.service", **group) == ("service:unit:shop@1.service", "replicas:shop")
    assert resources("unit:shop@2.service", **group)[1] == "replicas:shop"
    assert (
        resources("container:shop-web-1")[1] == resources("container:shop-web-2")[1] == "replicas:container:shop-web-*"
    )
    assert resources(APP) == ("service:unit:app.service",)


# ── observing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def observed(world: World, target: str = APP, heard=None, **settings):
    return REMEDY.observe(world.case(heard, target, **settings), world)


def test_a_unit_holds_what_its_control_group_holds():
    seen = observed(World(), heard=trend())
    assert (seen.state, seen.held, seen.limit, seen.level) == (State.RUNNING, 410 * MIB, 740 * MIB, Level.WARNING)
    assert (seen.instance, seen.limit_at) == ("a" * 32, f"/system.slice/{UNIT}")


def test_where_memory_is_not_counted_in_groups_its_processes_are():
    world = World(held={}, processes_here={FIRST_PID: process(memory=3 * MIB), FIRST_PID + 1: process(FIRST_PID + 1)})
    assert observed(world).held == 403 * MIB


def test_the_limit_of_a_slice_is_what_its_other_members_leave():
    path, above = f"/system.slice/{UNIT}", "/system.slice"
    world = World(held={path: 410 * MIB, above: 900 * MIB}, limits={path: 1000 * MIB}, limit_at={path: above})
    seen = observed(world)
    assert (seen.limit, seen.limit_at) == (510 * MIB, above)


def test_without_a_limit_the_host_s_memory_is_the_limit():
    seen = observed(World(limits={}, available=90 * MIB))
    assert (seen.limit, seen.limit_at) == (500 * MIB, "host")


@pytest.mark.parametrize(
    ("active", "state"),
    [
        ("activating", State.CHANGING),
        ("deactivating", State.CHANGING),
        ("failed", State.FAILED),
        ("inactive", State.STOPPED),
    ],
)
def test_a_unit_that_does_not_run_holds_nothing(active, state):
    seen = observed(World(units_here={UNIT: unit(active=active, result="exit-code", exit_status=1)}))
    assert (seen.state, seen.held, seen.instance) == (state, 0, "")
    assert UNIT in seen.reason


def test_a_container_is_known_by_its_start():
    found = container()
    world = World(containers_here=[found], held={"/docker/web-1": 5 * MIB}, limits={"/docker/web-1": 9 * MIB})
    seen = observed(world, "container:web-1")
    assert (seen.held, seen.limit, seen.instance) == (5 * MIB, 9 * MIB, instance_of_container(found))


def test_a_container_without_a_group_of_its_own_is_measured_by_its_first_process():
    world = World(containers_here=[container(control_group="/", memory_limit=500 * MIB)])
    seen = observed(world, "container:web-1")
    assert (seen.held, seen.limit) == (400 * MIB, 500 * MIB)


def test_processes_that_match_are_one_service_which_lives_as_long_as_its_oldest():
    world = World(
        processes_here={FIRST_PID: process(), FIRST_PID + 1: process(FIRST_PID + 1)},
        matches={"worker.py": [identity(FIRST_PID + 1, started=300), identity(started=200)]},
    )
    seen = observed(world, "process:worker", processes={"worker": {"command": "worker.py"}})
    assert (seen.held, seen.instance) == (800 * MIB, f"{FIRST_PID}@200")


@pytest.mark.parametrize("target", ["unit:", "app.service", "disk:/", "process:worker", "unit:none.service"])
def test_what_is_no_service_here_is_an_unknown_truth(target):
    with pytest.raises(ProbeError):
        observed(World(), target)


# ── the gap ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_growth_of_this_run_is_a_gap_above_the_floor_at_which_it_began():
    gap = World().gap(trend())
    assert (gap.open, gap.amount, gap.unit, gap.reason) == (True, 310 * MIB, "bytes", "it leaks")


def test_growth_is_a_gap_however_little_is_held():
    assert World().gap(trend(floor_start=500 * MIB)).amount == 1
    assert World().gap(trend(floor_start=None, floor_now=None, held=None)).amount == 1


@pytest.mark.parametrize(
    ("heard", "reason"),
    [
        (None, "nothing was heard"),
        (trend("unit:other.service"), "nothing was heard"),
        (MemoryPressure(target=APP, level=Level.CRITICAL, observed_at=NOW), "nothing was heard"),
        (trend(observed_at=NOW - 16 * MINUTE), "16 min old"),
        (trend(level=Level.UNKNOWN, reason="its group can't be read"), "its group can't be read"),
    ],
)
def test_without_a_word_of_the_collector_that_is_fresh_the_truth_is_unknown(heard, reason):
    gap = World().gap(heard)
    assert not gap.known
    assert reason in gap.reason


@pytest.mark.parametrize("heard", [trend(instance="b" * 32), content(instance="b" * 32)])
def test_another_run_than_the_one_heard_of_is_watched(heard):
    assert World().gap(heard).verifying


def test_a_young_series_is_watched_and_then_healthy():
    assert World().gap(content(series_since=NOW - 14 * MINUTE, since=NOW - 14 * MINUTE)).verifying
    assert World().gap(content(series_since=NOW - 15 * MINUTE, since=NOW - 15 * MINUTE)).closed
    assert World().gap(content(series_since=None, since=NOW - 60 * MINUTE)).verifying


def test_an_old_series_that_just_stopped_growing_is_watched_too():
    assert World().gap(content(since=NOW - 2 * MINUTE)).verifying
    assert World().gap(content(trend=Trend.STEADY, since=NOW - 2 * MINUTE)).verifying


@pytest.mark.parametrize("number", ["NaN", float("nan"), float("inf"), "-Infinity"])
@pytest.mark.parametrize("field", ["per_hour", "seconds_to_limit"])
def test_what_is_no_number_foretells_nothing(field, number):
    """It would be taken for an end that has come: 0 seconds, no grace, window or not."""
    event = json.loads(trend().model_dump_json()) | {field: number}
    with pytest.raises(ValidationError):
        MemoryTrend.model_validate_json(json.dumps(event))


@pytest.mark.parametrize("seconds", [1e300, 5e-324])
def test_the_strangest_numbers_make_a_plan(seconds):
    world = World()
    plan = world.plan(world.case(trend(per_hour=5e-324, seconds_to_limit=seconds), restart=True))
    assert "at that pace it reaches its limit in" in plan.findings[0].title


def test_a_word_of_the_future_is_none():
    gap = World().gap(trend(observed_at=NOW + 16 * MINUTE))
    assert not gap.known
    assert "is of the future; is the clock right?" in gap.reason
    assert World().gap(trend(observed_at=NOW + 14 * MINUTE)).open


def test_a_clock_that_is_behind_gives_no_time_that_is_not_there():
    world, heard = World(), trend(per_hour=None, observed_at=NOW + 10 * MINUTE)
    case = world.case(heard)
    assert outlook_of(case.settings, heard, REMEDY.observe(case, world), NOW).seconds == 1200


def test_an_event_alone_restarts_nothing_what_is_read_must_bear_it_out():
    """Forged, or of another size of the service: it says 0 seconds of one that is nearly empty."""
    world = World(held={f"/system.slice/{UNIT}": 30 * MIB})
    forged = trend(floor_start=0, floor_now=1, per_hour=1e15, seconds_to_limit=0)
    plan = world.plan(world.case(forged, services={APP: {"restart": True}}))
    assert plan.empty
    assert plan.advice == "there is time, and a restart would only be a break"


def test_what_was_heard_is_no_older_than_three_events_however_often_they_come():
    heard = trend(observed_at=NOW - 2 * MINUTE)
    assert World().gap(heard, steady_every="10 s").open
    assert not World().gap(heard, steady_every="10 s", every="10 s").known


def test_what_its_own_high_strangles_is_for_the_function_that_set_it():
    world, limits = World(), {"services": {APP: {"high": "500M"}}}
    stalled = content(level=Level.WARNING, strangled=True, trend=Trend.STEADY)
    assert world.gap(stalled, **limits).verifying
    assert world.gap(stalled).open  # somebody else's: nobody but a person can lift it
    assert world.gap(trend(strangled=True), **limits).open  # it leaks, too


def test_a_steady_service_is_healthy():
    assert World().gap(content(trend=Trend.STEADY, since=NOW - 60 * MINUTE)).closed
    assert World().gap(content(trend=Trend.STEADY, since=None, series_since=None)).closed


@pytest.mark.parametrize(("held", "fell"), [(360, True), (361, False)])
def test_a_tenth_below_the_floor_that_was_heard_is_a_fall_to_be_watched(held, fell):
    gap = World(held={f"/system.slice/{UNIT}": held * MIB}).gap(trend(per_hour=100.0 * MIB))
    assert (gap.verifying, gap.open) == (fell, not fell)


def test_a_fall_that_buys_too_little_time_is_none():
    """300 MiB are left, for 29 minutes at the first pace: as long as people are told before, and a cooldown lasts."""
    world = World(held={f"/system.slice/{UNIT}": 300 * MIB}, limits={f"/system.slice/{UNIT}": 600 * MIB})
    assert world.gap(trend(per_hour=620.0 * MIB)).open
    assert world.gap(trend(per_hour=590.0 * MIB)).verifying


def test_a_service_in_between_is_watched_whatever_was_heard():
    world = World(units_here={UNIT: unit(active="activating", sub="auto-restart")})
    assert world.gap(trend()).verifying
    assert world.gap(None).verifying


def test_a_service_that_failed_is_no_cure_and_a_person_hears_what_to_do():
    world = World(units_here={UNIT: unit(active="failed", result="exit-code", exit_code=1, exit_status=3)})
    gap = world.gap(content(instance=""))
    assert not gap.known
    assert "its main process ended with status 3" in gap.reason
    assert "journalctl --unit=app.service" in gap.reason


def test_a_stopped_service_is_unknown_until_the_collector_has_seen_that_too():
    world = World(units_here={UNIT: unit(active="inactive", sub="dead")})
    assert not world.gap(trend()).known
    assert world.gap(content(instance="")).closed


def test_the_time_of_the_case_is_what_ages_are_reckoned_by():
    world, late = World(), NOW + 14 * MINUTE
    case: Case[MemoryMonitoring] = replace(world.case(trend()), now=late)
    assert REMEDY.gap(case, REMEDY.observe(case, world)).open
    stale = replace(case, now=late + 2 * MINUTE)
    assert not REMEDY.gap(stale, REMEDY.observe(stale, world)).known
