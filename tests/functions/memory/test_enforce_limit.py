"""The remedy: its targets, what it observes, which limits are missing, what it plans and what it leaves alone."""

import os

import pytest

from functions.memory.enforce_limit import REMEDY, manager_of
from functions.memory.facts import State
from functions.memory.limit_actions import LimitContainer, LimitControlGroup, LimitUnit, ReleaseHigh
from schemas.facts.cgroups import Pressure
from schemas.health import Level
from schemas.probes import ProbeError
from schemas.remediation import Gap
from schemas.settings.memory import MemoryMonitoring
from tests.functions.memory.limit_world import GROUP, WEB, WORKERS, LimitWorld, group, names, only, titles
from tests.functions.memory.world import APP, FIRST_PID, MIB, RUN, UNIT, container, identity, trend, unit

WEB_1 = "container:web-1"
WORKER = "process:worker"
BOTH = {"high": 500 * MIB, "maximum": 600 * MIB}


# ── targets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_watched_services_with_a_limit_are_targets():
    world = LimitWorld(containers_here=[container("web-1"), container("db-1")])
    world.units_here |= {"other.service": unit("other.service"), "ignored.service": unit("ignored.service")}
    limit = {"maximum": "1G"}
    settings = MemoryMonitoring(
        services={"unit:app*": limit, "unit:ignored*": limit, "container:web-*": limit, WORKER: {"high": "1G"}},
        processes={"worker": {"command": "worker.py"}, "idle": {"command": "idle.py"}}, ignore=("unit:ignored*",),
    )  # fmt: skip

    assert REMEDY.targets(settings, world) == [WEB_1, WORKER, APP]


def test_without_a_configured_limit_nothing_is_a_target_and_nothing_is_read():
    settings = MemoryMonitoring(services={APP: {"restart": True}})
    assert REMEDY.targets(settings, LimitWorld(broken={"units", "containers"})) == []


def test_a_more_specific_glob_without_a_limit_takes_it_away():
    settings = MemoryMonitoring(services={"unit:*": {"maximum": "1G"}, APP: {"restart": True}})
    assert APP not in REMEDY.targets(settings, LimitWorld())


# ── observe ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_unit_is_seen_with_the_limits_of_the_kernel():
    world = LimitWorld(swap_free=7)
    world.change(maximum=MIB, limit=MIB, limit_at=GROUP, high=9, high_events=3, pressure=Pressure(full10=1, full60=2))

    seen = world.seen(**BOTH)

    assert (seen.state, seen.instance, seen.usage, seen.working_set) == (State.RUNNING, RUN, 300 * MIB, 200 * MIB)
    assert (seen.maximum, seen.high, seen.high_events, seen.swap_free) == (MIB, 9, 3, 7)
    assert (seen.full60, seen.pressed, seen.reclaimable) == (2, False, 100 * MIB)


@pytest.mark.parametrize(("swap", "limit", "free"), [(0, None, 7), (1, 5, 4), (1, 100, 7), (9, 5, 0), (0, 0, 0)])
def test_swap_is_free_only_as_far_as_its_own_limit_leaves_some(swap, limit, free):
    world = LimitWorld(swap_free=7)
    world.change(swap=swap, swap_limit=limit)

    assert world.seen(**BOTH).swap_free == free


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({"active": "activating"}, State.CHANGING), ({"active": "failed"}, State.FAILED),
        ({"active": "inactive"}, State.STOPPED), ({"control_group": ""}, State.STOPPED),
    ],
)  # fmt: skip
def test_a_unit_that_does_not_run_has_no_figures(changes, state):
    world = LimitWorld(units_here={UNIT: unit(**changes)})
    assert world.seen(**BOTH).state is state


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("unit:none.service", r"systemd knows no unit none\.service"), ("host:memory", "is no target of"),
        ("process:none", r"memory_monitoring\.processes has no 'none'"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_unknown(target, what):
    settings = MemoryMonitoring(
        services={f"{kind}:*": {"maximum": "1G"} for kind in ("unit", "container", "process")},
        processes={"worker": {"command": "worker.py"}},
    )
    case = LimitWorld().case(target)
    with pytest.raises(ProbeError, match=what):
        REMEDY.observe(type(case)(**{**vars(case), "settings": settings}), LimitWorld())


def test_a_service_without_a_configured_limit_has_nothing_to_enforce_and_is_not_read():
    world = LimitWorld(broken={"unit"})
    assert world.gap().closed
    assert world.gap().reason == "memory_monitoring.services gives unit:app.service neither high nor maximum"


def test_a_container_whose_group_is_not_found_is_unknown():
    world = LimitWorld(containers_here=[container(control_group="")])
    with pytest.raises(ProbeError, match="what it uses is not known"):
        world.seen(WEB_1, maximum=MIB)


# ── gap ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

NOTHING: dict = {}


@pytest.mark.parametrize(
    ("wanted", "kernel", "amount"),
    [
        ({"maximum": 600 * MIB}, NOTHING, 1),
        (BOTH, NOTHING, 2),
        (BOTH, {"maximum": 600 * MIB}, 1),
        (BOTH, {"high": 500 * MIB}, 1),
        ({"maximum": 600 * MIB}, {"maximum": 600 * MIB}, 0),
        ({"maximum": 600 * MIB}, {"maximum": 700 * MIB}, 1),
        # An administrator's smaller limit holds it to ours as well.
        (BOTH, {"high": 400 * MIB, "maximum": 550 * MIB}, 0),
        # The kernel rounds down to whole pages.
        ({"maximum": 600 * MIB + 1}, {"maximum": 600 * MIB}, 0),
        # A high alone goes with a maximum, for what is slowed for ever is never killed.
        ({"high": 500 * MIB}, NOTHING, 2),
        ({"high": 500 * MIB}, {"maximum": 625 * MIB}, 1),
        # Without anything to reclaim to it would be slowed for ever.
        (BOTH, {"swap": 0, "usage": 200 * MIB}, 1),
        (BOTH, {"swap": 0, "usage": 251 * MIB}, 2),
        (BOTH, {"swap": 51 * MIB, "usage": 200 * MIB}, 2),
        ({"high": 500 * MIB}, {"swap": 0, "usage": 200 * MIB}, 0),
        # Version 1 has none.
        (BOTH, {"version": 1}, 1),
        ({"high": 500 * MIB}, {"version": 1}, 0),
        # So much is in use that it would be slowed at once; a maximum stays missing, for somebody must hear of it.
        (BOTH, {"working_set": 450 * MIB}, 1),
        ({"maximum": 600 * MIB}, {"working_set": 599 * MIB}, 1),
        # It just strangled.
        (BOTH, {"maximum": 600 * MIB, "pressure": Pressure(full60=60)}, 0),
        # A limit above it is met first.
        (BOTH, {"maximum": 600 * MIB, "limit": 480 * MIB, "limit_at": "/system.slice"}, 0),
    ],
)
def test_limits_that_are_not_in_force_are_counted(wanted, kernel, amount):
    world = LimitWorld(swap_free=kernel.get("swap", 1024 * MIB))
    world.change(**{name: value for name, value in kernel.items() if name != "swap"})

    assert world.gap(**wanted).amount == amount


def test_a_high_that_strangles_is_counted():
    world = LimitWorld()
    world.hold(GROUP, 500 * MIB, 600 * MIB)
    world.strangle()

    gap = world.gap(**BOTH)

    assert gap.amount == 1
    assert "MemoryHigh 500 MiB strangles it" in gap.reason


@pytest.mark.parametrize(
    "changes",
    [{"pressure": Pressure(full60=39)}, {"usage": 480 * MIB}, {"high": 400 * MIB}, {"high": None}],
    ids=["little pressure", "room below it", "somebody else's", "lifted"],
)
def test_what_presses_otherwise_is_no_high_of_ours_that_strangles(changes):
    world = LimitWorld()
    world.hold(GROUP, 500 * MIB, 600 * MIB)
    world.strangle()
    world.change(**changes)

    assert world.gap(**BOTH).healthy


@pytest.mark.parametrize(
    ("usage", "level", "for_now"),
    [(300, Level.OK, False), (300, Level.WARNING, True), (460, Level.OK, True), (300, None, False)],
)
def test_a_high_that_may_strangle_soon_is_watched(usage, level, for_now):
    world = LimitWorld()
    world.hold(GROUP, 500 * MIB, 600 * MIB)
    world.change(usage=usage * MIB)

    gap = world.gap(heard=trend(level=level) if level is not None else None, **BOTH)

    assert (gap.healthy, gap.provisional) == (True, for_now)


def test_a_maximum_that_is_in_force_is_not_watched():
    world = LimitWorld()
    world.hold(GROUP, None, 600 * MIB)
    assert world.gap(heard=trend(), maximum=600 * MIB).closed


def test_a_container_has_a_maximum_only():
    world = LimitWorld()
    assert world.gap(WEB_1, **BOTH).amount == 1
    world.change(WEB, maximum=600 * MIB)
    assert world.gap(WEB_1, **BOTH).closed


@pytest.mark.parametrize(
    ("active", "known", "for_now"),
    [("inactive", True, False), ("failed", False, False), ("activating", True, True)],
)
def test_what_does_not_run_is_held_to_nothing(active, known, for_now):
    gap: Gap = LimitWorld(units_here={UNIT: unit(active=active)}).gap(**BOTH)
    assert (gap.known, gap.open, gap.provisional) == (known, False, for_now)


# ── survey ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "manager"),
    [
        ("/", "topmost"), ("/system.slice/app.service", "systemd, as app.service"),
        ("/user.slice/user-0.slice/session-1.scope", "systemd, as session-1.scope"),
        ("/system.slice/app.service/inner", "systemd, as app.service"), (f"{WEB}/inner", "container:web-1"),
        (f"/docker/{'0a' * 32}", "a container engine"), ("/kubepods/burstable/pod1/x", "a container engine"),
        ("/lxc.payload.box", "a container engine"), ("/workers", ""), ("/my.servicebus", ""), ("/dockers", ""),
        ("/docker", "a container engine"), ("/docker/web-10", "a container engine"),
    ],
)  # fmt: skip
def test_who_manages_a_group_is_known_by_its_path(path, manager):
    found = manager_of(path, [container()])
    assert manager in found
    assert bool(manager) is bool(found)


# ── plan ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_unit_is_limited_through_systemd():
    action = only(LimitWorld().plan(**BOTH))

    assert isinstance(action, LimitUnit)
    assert (action.unit, action.invocation, action.closes) == (UNIT, RUN, 2)
    assert (action.high, action.high_before) == (500 * MIB, None)
    assert (action.maximum, action.maximum_before) == (600 * MIB, None)
    assert action.title() == (
        "Hold app.service to MemoryHigh 500 MiB (was none), MemoryMax 600 MiB (was none), until the next boot"
    )


def test_what_is_not_missing_stays_as_it_is():
    world = LimitWorld(units_here={UNIT: unit(memory_high=400 * MIB, memory_max=900 * MIB)})
    world.hold(GROUP, 400 * MIB, 900 * MIB)

    action = only(world.plan(**BOTH))

    assert (action.high, action.high_before, action.maximum) == (400 * MIB, 400 * MIB, 600 * MIB)
    assert "MemoryHigh" not in action.title()


def test_a_limit_that_systemd_does_not_know_of_is_not_lost():
    world = LimitWorld()
    world.change(maximum=600 * MIB, limit=600 * MIB, limit_at=GROUP)
    action = only(world.plan(**BOTH))
    assert (action.high, action.maximum, action.maximum_before) == (500 * MIB, 600 * MIB, None)


def test_a_high_alone_comes_with_a_maximum_not_far_above():
    action = only(LimitWorld().plan(high=500 * MIB))
    assert (action.high, action.maximum) == (500 * MIB, 625 * MIB)


def test_a_container_is_limited_through_its_engine():
    action = only(LimitWorld().plan(WEB_1, maximum=600 * MIB))

    assert isinstance(action, LimitContainer)
    assert (action.engine, action.container, action.name) == ("docker", container().id, "web-1")
    assert (action.maximum, action.maximum_before, action.swap, action.swap_before) == (
        600 * MIB, None, 1200 * MIB, None,
    )  # fmt: skip


@pytest.mark.parametrize(("before", "after"), [(700, 700), (600, 600), (500, 1200)])
def test_memory_with_swap_of_a_container_stays_when_it_can(before, after):
    world = LimitWorld(containers_here=[container(memory_swap_limit=before * MIB)])
    assert only(world.plan(WEB_1, maximum=600 * MIB)).swap == after * MIB


def test_processes_are_limited_in_a_group_of_their_own():
    world = LimitWorld()
    world.change(WORKERS, maximum=900 * MIB, limit=900 * MIB, limit_at=WORKERS)

    action = only(world.plan(WORKER, **BOTH))

    assert isinstance(action, LimitControlGroup)
    assert (action.group, action.instance, action.high, action.maximum) == (
        WORKERS, f"{FIRST_PID}@100", 500 * MIB, 600 * MIB,
    )  # fmt: skip
    assert (action.high_before, action.maximum_before) == (None, 900 * MIB)


def test_without_a_limit_that_is_missing_nothing_is_planned():
    world = LimitWorld()
    world.hold(GROUP, 500 * MIB, 600 * MIB)
    plan = world.plan(**BOTH)
    assert (plan.rungs, plan.findings) == ((), ())


def test_a_maximum_that_would_kill_now_is_told():
    world = LimitWorld()
    world.change(usage=590 * MIB, working_set=580 * MIB)

    plan = world.plan(maximum=600 * MIB)

    assert plan.empty
    assert titles(plan) == [
        f"{APP} is not held to MemoryMax 600 MiB: it uses 580 MiB, and the kernel would kill it now"
    ]
    assert plan.findings[0].detail.startswith("it can be set from 725 MiB on")
    assert plan.findings[0].amount == 580 * MIB


@pytest.mark.parametrize(("instance", "planned"), [(RUN, 0), ("b" * 32, 1)])
def test_a_maximum_below_the_floor_of_this_run_is_not_set(instance, planned):
    heard = trend(instance=instance, floor_start=560 * MIB, floor_now=100 * MIB)
    assert LimitWorld().plan(APP, heard, maximum=600 * MIB).size == planned


def test_a_high_that_is_not_set_is_told():
    world = LimitWorld(swap_free=0)
    world.change(usage=200 * MIB)

    plan = world.plan(**BOTH)

    assert only(plan).high is None
    assert (
        f"{APP} is not held to MemoryHigh 500 MiB: 0 B of free swap and 0 B of cache are too little"
        in (titles(plan)[0])
    )


def test_version_1_gets_its_maximum_only():
    world = LimitWorld()
    world.change(version=1)

    plan = world.plan(**BOTH)

    assert (only(plan).high, only(plan).maximum, only(plan).closes) == (None, 600 * MIB, 1)
    assert titles(plan)[0].endswith("control groups of version 1 have none")


def test_a_smaller_limit_of_the_slice_is_told():
    world = LimitWorld()
    world.change(limit=580 * MIB, limit_at="/system.slice")
    assert f"{APP} meets the limit of /system.slice first: 580 MiB, with all others there" in (
        titles(world.plan(maximum=600 * MIB))
    )


def test_what_follows_a_kill_is_told():
    world = LimitWorld(units_here={UNIT: unit(restart_policy="no", oom_policy="continue")})
    told = titles(world.plan(maximum=600 * MIB))
    assert f"{UNIT} stays down when the kernel kills it at its limit: Restart=no" in told
    assert any("OOMPolicy=continue" in title for title in told)

    world.units_here[UNIT] = unit(restart_policy="on-failure", oom_policy="stop")
    assert not any("stays down" in title or "OOMPolicy" in title for title in titles(world.plan(maximum=600 * MIB)))


def test_how_to_keep_a_limit_is_told_and_never_done():
    plan = LimitWorld(units_here={UNIT: unit(restart_policy="always")}).plan(**BOTH)

    [kept] = plan.findings
    assert kept.command == ("systemctl", "edit", UNIT)
    assert kept.detail == f"[Service]\nMemoryHigh={500 * MIB}\nMemoryMax={600 * MIB}"


def test_how_to_keep_a_limit_of_a_container_is_told():
    world = LimitWorld(containers_here=[container(restart_policy="always", project="shop", service="web")])
    [kept] = world.plan(WEB_1, maximum=600 * MIB).findings
    assert kept.detail == f"services:\n  web:\n    mem_limit: {600 * MIB}"

    world.containers_here = [container()]
    told = titles(world.plan(WEB_1, maximum=600 * MIB))
    assert told[0] == "container web-1 stays down when the kernel kills it at its limit: it has no restart policy"
    assert told[1].endswith(f"create that with --memory={600 * MIB}")


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        (UNIT, {"delegated": True}, "managed by itself (Delegate=)"), (UNIT, {"enabled": "masked-runtime"}, "masked"),
        (UNIT, {"job": True}, "something else is being done with it"),
        ("sshd.service", {}, "protected (sshd*.service)"),
        ("alias.service", {"name": "dbus.service"}, "protected (dbus*.service)"),
    ],
)  # fmt: skip
def test_a_unit_that_is_not_ours_to_limit_is_left_alone(name, changes, why):
    here = unit(name).model_copy(update={"control_group": GROUP, **changes})
    plan = LimitWorld(units_here={name: here}).plan(f"unit:{name}", **BOTH)

    assert plan.empty
    assert why in titles(plan)[0]


def test_a_run_that_began_meanwhile_is_left_alone():
    world = LimitWorld()
    case = world.case(**BOTH)
    seen = REMEDY.observe(case, world)
    world.units_here[UNIT] = unit(invocation="b" * 32)

    plan = REMEDY.plan(case, seen, REMEDY.survey(case, seen, world))

    assert plan.empty
    assert titles(plan) == [f"{APP} is not held to its limits: it was restarted just now"]


@pytest.mark.parametrize(("target", "path"), [(APP, GROUP), (WEB_1, WEB), (WORKER, WORKERS)])
def test_we_do_not_limit_ourselves(target, path):
    world = LimitWorld()
    world.change(path, processes=(FIRST_PID, os.getpid()))
    assert world.plan(target, maximum=600 * MIB).empty


def test_the_bus_is_left_alone_in_a_container_too():
    world = LimitWorld(containers_here=[container("nats-1", control_group=WEB)])
    assert world.plan("container:nats-1", maximum=600 * MIB).empty


def test_a_group_with_processes_of_others_is_left_alone():
    world = LimitWorld()
    world.change(WORKERS, processes=(FIRST_PID, FIRST_PID + 1, FIRST_PID + 2))

    plan = world.plan(WORKER, **BOTH)

    assert plan.empty
    assert "2 processes of others are in its control group" in titles(plan)[0]


def test_a_group_that_somebody_manages_is_left_alone():
    world = LimitWorld(containers_here=[container(control_group="/work")])
    world.control_group_of = lambda pid: "/work/ers"  # type: ignore[method-assign]
    world.groups["/work/ers"] = group("/work/ers")

    plan = world.plan(WORKER, **BOTH)

    assert plan.empty
    assert "its control group is managed by container:web-1" in titles(plan)[0]


def test_containers_that_cannot_be_seen_are_told_and_stop_nothing():
    plan = LimitWorld(broken={"containers"}).plan(WORKER, **BOTH)
    assert names(plan) == ["limit"]
    assert titles(plan)[0].startswith("could not look at containers")


def test_processes_in_other_groups_are_told():
    world = LimitWorld(matches=[identity(), identity(FIRST_PID + 7, 200)])
    assert "1 of its processes are in other control groups" in titles(world.plan(WORKER, **BOTH))[0]


def test_a_high_that_strangles_is_lifted_and_the_maximum_stays():
    world = LimitWorld(units_here={UNIT: unit(memory_high=500 * MIB, memory_max=600 * MIB)})
    world.hold(GROUP, 500 * MIB, 600 * MIB)
    world.strangle()

    plan = world.plan(**BOTH)

    assert names(plan) == ["release_high"]
    action = only(plan)
    assert isinstance(action, ReleaseHigh)
    action.apply(world)
    assert world.done == [(UNIT, RUN, None, 600 * MIB)]


def test_what_strangles_is_lifted_before_anything_is_set():
    world = LimitWorld()
    world.hold(WORKERS, 500 * MIB, None)
    world.strangle(WORKERS)
    world.change(WORKERS, working_set=300 * MIB)

    plan = world.plan(WORKER, **BOTH)

    assert names(plan) == ["release_high", "limit"]
    assert plan.rungs[0].actions[0].group == WORKERS


def test_what_did_not_help_lately_is_left_out_and_told():
    plan = LimitWorld().plan(skip_rungs={"limit"}, **BOTH)
    assert plan.empty
    assert "was taken back" in titles(plan)[0]


def test_a_unit_and_its_restart_share_a_resource():
    assert REMEDY.resources(LimitWorld().case(**BOTH)) == (f"service:{APP}",)


@pytest.mark.parametrize("label", ["web:\n    privileged: true", "\x1b[2J", "", "a b"])
def test_labels_that_are_no_names_are_told_in_no_file(label):
    """Who makes a container may write anything into its labels, and a person would copy it."""
    world = LimitWorld(containers_here=[container(project="shop", service=label)])
    plan = world.plan(WEB_1, maximum=600 * MIB)
    (kept,) = [finding for finding in plan.findings if "to keep it for the next one" in finding.title]
    assert kept.title.endswith("create that with --memory=629145600")
    assert kept.detail == ""
