"""What may be restarted, and what is said when something may not."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.memory.actions import CollectGarbage, RestartUnit
from functions.memory.contain_leak import REMEDY
from functions.memory.permission import KEEPERS
from schemas.facts.commands import Checked
from schemas.facts.memory import Trend
from schemas.probes import ProbeError
from schemas.settings.services import PROTECTED_UNITS
from tests.functions.memory.world import (
    APP,
    MIB,
    NOW,
    UNIT,
    World,
    actions,
    container,
    identity,
    process,
    titles,
    trend,
    unit,
)

PERMITTED = {"services": {APP: {"restart": True}}}


def refused(world: World, heard=None, target: str = APP, **settings) -> list[str]:
    """Why it is not restarted; fails when it is."""
    plan = world.plan(world.case(heard or trend(), target, **(settings or PERMITTED)))
    assert not any(action.action.startswith("memory.restart") for action in actions(plan))
    begin = f"{target} is not restarted: "
    return [title.removeprefix(begin) for title in titles(plan) if title.startswith(begin)]


def leaking(name: str, **changes) -> tuple[World, str]:
    """A world with one unit of that name."""
    path = f"/system.slice/{name}"
    return World({name: unit(name, **changes)}, held={path: 410 * MIB}, limits={path: 740 * MIB}), f"unit:{name}"


# ── by the settings ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_by_default_nothing_is_restarted_and_the_setting_that_permits_it_is_told():
    world = World()
    plan = world.plan(world.case(trend()))
    refusal = next(finding for finding in plan.findings if "not restarted" in finding.title)
    assert refusal.title == "unit:app.service is not restarted: memory_monitoring.restart is false"
    assert refusal.detail == 'memory_monitoring: {services: {"unit:app.service": {restart: true}}} permits it'


def test_a_service_that_says_no_is_told_so():
    why = refused(World(), restart=True, services={APP: {"restart": False}})
    assert why == ["memory_monitoring.services says restart: false of it"]


def test_what_the_refusal_names_permits_it():
    world = World()
    assert actions(world.plan(world.case(trend(), services={APP: {"restart": True}})))


@pytest.mark.parametrize(
    "name", ["systemd-journald.service", "ssh.service", "sshd@1.service", "dbus.service", "docker.service",
             "nats-server.service", "ansai.service", "user@1000.service", "getty@tty1.service"],
)  # fmt: skip
def test_a_protected_unit_is_never_restarted_whatever_is_said(name):
    world, target = leaking(name)
    why = refused(world, trend(target), target, restart=True, services={target: {"restart": True}})
    assert any("is protected" in each for each in why)


def test_a_protected_unit_is_known_by_each_of_its_names():
    world, target = leaking("remote-login.service")
    world.units_here["remote-login.service"] = unit("ssh.service", control_group="/system.slice/remote-login.service")
    why = refused(world, trend(target), target, restart=True)
    assert why == ["ssh.service is protected (ssh.service)"]


@pytest.mark.parametrize("name", ["postgresql@15-main.service", "redis-server.service", "nightly-backup.service"])
def test_a_database_a_queue_or_a_backup_is_permitted_by_its_own_name_only(name):
    world, target = leaking(name)
    for settings in ({"restart": True}, {"services": {"unit:*": {"restart": True}}}):
        (why,) = refused(world, trend(target), target, **settings)
        assert why.startswith("databases, queues and backups")
    assert actions(world.plan(world.case(trend(target), target, services={target: {"restart": True}})))


def test_a_container_is_judged_by_its_image_too():
    def world(image: str) -> World:
        path = "/docker/store"
        found = container("store", image=image)
        return World(containers_here=[found], held={path: 410 * MIB}, limits={path: 740 * MIB})

    def heard(world: World):
        (found,) = world.containers_here
        return trend("container:store", instance=f"{found.id[:12]}@{found.started.isoformat()}")

    database = world("registry:5000/library/postgres:16@sha256:1234")
    (why,) = refused(database, heard(database), "container:store", restart=True)
    assert why == "databases, queues and backups (postgres*) must be permitted by name"
    bus = world("nats:2.11")
    assert "nats is protected (nats*)" in refused(bus, heard(bus), "container:store", restart=True)
    shop = world("shop/api:3")
    assert actions(shop.plan(shop.case(heard(shop), "container:store", restart=True)))


def test_we_never_restart_ourselves(monkeypatch):
    world = World()
    monkeypatch.setattr("functions.memory.survey.os.getpid", lambda: next(iter(world.processes_here)))
    assert refused(world) == ["it is what looks after it"]


def test_processes_that_belong_to_nobody_are_only_told():
    world = World(matches={"worker.py": [identity()]}, processes_here={identity().pid: process()}, available=10 * MIB)
    heard = trend("process:worker", instance=f"{identity().pid}@100")
    settings = {"processes": {"worker": {"command": "worker.py"}}, "restart": True}
    assert refused(world, heard, "process:worker", **settings) == [
        "nobody but who started it knows how to start it again"
    ]


@pytest.mark.parametrize(
    "name", ["shop-redis.service", "my-postgres@2.service", "cp-kafka.service", "Shop_MySQL.service"]
)
def test_a_database_is_known_by_any_word_of_its_name(name):
    world, target = leaking(name)
    (why,) = refused(world, trend(target), target, restart=True)
    assert why.startswith("databases, queues and backups")


def test_words_that_only_look_like_those_are_none():
    for name in ("impostgres.service", "credits.service", "cyborg.service"):
        world, target = leaking(name)
        assert actions(world.plan(world.case(trend(target), target, restart=True)))


@pytest.mark.parametrize(
    "command", ["/usr/lib/postgresql/15/bin/postgres -D /x", "redis-server *:6379", "postgres: writer"]
)
def test_a_database_in_a_unit_of_any_name_is_known_by_its_program(command):
    other = identity().pid + 1
    for processes in (
        {identity().pid: process(identity=identity(command=command))},
        {identity().pid: process(), other: process(other, identity=identity(other, command=command))},
    ):
        (why,) = refused(World(processes_here=processes), restart=True)
        assert why.startswith("databases, queues and backups")
        assert actions(World(processes_here=processes).plan(World(processes_here=processes).case(trend(), **PERMITTED)))


@pytest.mark.parametrize(
    "image", ["mcr.microsoft.com/mssql/server:2022", "localhost/my-redis", "confluentinc/cp-kafka:7"]
)
def test_of_an_image_every_part_but_the_registry_counts(image):
    found = container("store", image=image)
    world = World(containers_here=[found], held={"/docker/store": 410 * MIB}, limits={"/docker/store": 740 * MIB})
    heard = trend("container:store", instance=f"{found.id[:12]}@{found.started.isoformat()}")
    (why,) = refused(world, heard, "container:store", restart=True)
    assert why.startswith("databases, queues and backups")


def test_the_registry_is_no_part_of_what_an_image_is():
    found = container("store", image="redis.example.org:5000/shop/api:3")
    world = World(containers_here=[found], held={"/docker/store": 410 * MIB}, limits={"/docker/store": 740 * MIB})
    heard = trend("container:store", instance=f"{found.id[:12]}@{found.started.isoformat()}")
    assert actions(world.plan(world.case(heard, "container:store", restart=True)))


def test_a_container_that_a_unit_runs_is_left_to_that_unit():
    found = container("web", labels={"PODMAN_SYSTEMD_UNIT": "web.service\n\x1b[2J"})
    world = World(containers_here=[found], held={"/docker/web": 410 * MIB}, limits={"/docker/web": 740 * MIB})
    heard = trend("container:web", instance=f"{found.id[:12]}@{found.started.isoformat()}")
    (why,) = refused(world, heard, "container:web", services={"container:web": {"restart": True}})
    assert why.startswith("the unit web.service")
    assert "\x1b" not in why


def test_a_container_whose_group_is_not_known_is_unknown_for_its_number_may_be_another_process():
    world = World(containers_here=[container("web", control_group="")])
    with pytest.raises(ProbeError, match="control group of the container web could not be found"):
        world.plan(world.case(trend("container:web"), "container:web", restart=True))


def test_a_main_process_that_is_not_of_the_service_is_never_asked():
    """As the engine of another PID namespace counts."""
    other = identity().pid + 1
    found = container("web", pid=other)
    world = World(
        containers_here=[found],
        held={"/docker/web": 410 * MIB},
        limits={"/docker/web": 740 * MIB},
        handlers={"SIGUSR1"},
    )
    seen = REMEDY.observe(case := world.case(trend("container:web"), "container:web", restart=True), world)
    world.processes_here[other] = process(other)
    assert REMEDY.survey(case, seen, world).main is None


# ── by the unit ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"load": "masked"}, "it is masked"),
        ({"enabled": "masked-runtime"}, "it is masked"),
        ({"load": "error"}, "it is error"),
        ({"type": "oneshot"}, "it does a piece of work and ends; a restart would begin that anew"),
        ({"sockets": ("app.timer",)}, "it does a piece of work and ends; a restart would begin that anew"),
        ({"can_stop": False}, "its unit file does not let anybody stop or start it"),
        ({"refuses_manual_stop": True}, "its unit file does not let anybody stop or start it"),
        ({"refuses_manual_start": True}, "its unit file does not let anybody stop or start it"),
        ({"reload_needed": True}, "its unit file changed, and a restart would apply the change"),
        ({"job": True}, "something else is being done with it"),
    ],
)
def test_the_unit_itself_may_speak_against_it(changes, why):
    assert refused(World({UNIT: unit(**changes)})) == [why]


def test_a_scope_can_t_be_started_again():
    world, target = leaking("session.scope")
    assert "only services can be started again" in refused(world, trend(target), target, restart=True)


def test_what_must_not_be_restarted_is_not_taken_along():
    (why,) = refused(World({UNIT: unit(dependants=("web.service", "ssh.service"))}))
    assert why == "ssh.service would restart with it, which is protected (ssh.service)"
    dependants = World({UNIT: unit(dependants=("postgresql.service",))})
    (why,) = refused(dependants)
    assert why == "postgresql.service would restart with it, which is not permitted (postgres*)"
    both = {"services": {APP: {"restart": True}, "unit:postgresql.service": {"restart": True}}}
    assert actions(dependants.plan(dependants.case(trend(), **both)))


def with_dependants(**units) -> World:
    """app.service, on which the first of them depends, on which the next does, and so on."""
    chain = [UNIT, *(f"{name}.service" for name in units)]
    changes = [{}, *units.values()]
    return World({
        name: unit(name, **{"dependants": (after,) if after else (), **each})
        for name, after, each in zip(chain, [*chain[1:], None], changes, strict=True)
    })  # fmt: skip


def test_a_restart_is_handed_on_from_one_to_the_next_and_all_are_judged():
    assert refused(with_dependants(web={}, dbus={})) == [
        "dbus.service would restart with it, which is protected (dbus*.service)"
    ]
    (restart,) = actions(with_dependants(web={}, worker={}).plan(World().case(trend(), **PERMITTED)))
    assert restart.dependants == ("web.service", "worker.service")


def test_what_the_settings_forbid_is_not_taken_along():
    (why,) = refused(with_dependants(web={}), services={APP: {"restart": True}, "unit:web": {"restart": False}})
    assert why == "web.service would restart with it, which memory_monitoring.services forbids"


def test_work_that_a_restart_would_cut_off_is_not_taken_along():
    (why,) = refused(with_dependants(report={"type": "oneshot", "active": "activating"}))
    assert (
        why == "report.service would restart with it, which does a piece of work that would be cut off, or begun anew"
    )
    (why,) = refused(with_dependants(web={"job": True}))
    assert why == "web.service would restart with it, which has something else done with it"


def test_dependants_that_do_not_run_are_not_restarted_and_forbid_nothing():
    world = with_dependants(report={"type": "oneshot", "active": "inactive"}, dbus={})
    (restart,) = actions(world.plan(world.case(trend(), **PERMITTED)))
    assert restart.dependants == ()


def test_dependants_without_end_forbid_the_restart():
    world = with_dependants(**{f"web{number}": {} for number in range(60)})
    (why,) = refused(world)
    assert why.endswith("would restart with it, which is one of more than 50")


@pytest.mark.parametrize(
    ("age", "burst", "interval", "restarts", "permitted"),
    [
        (60, 5, 10, 0, True),  # older than the interval
        (60, 5, 10, 99, True),
        (60, 5, 600, 0, True),  # the second of five
        (60, 5, 600, 1, False),  # it would be the third
        (60, 3, 600, 0, False),
        (60, 8, 600, 2, True),
        (60, 0, 600, 50, True),  # no limit
        (60, 5, 0, 50, True),
    ],
)
def test_half_of_the_start_limit_is_left_to_others(age, burst, interval, restarts, permitted):
    world = World({UNIT: unit(start_limit_burst=burst, start_limit_interval=interval, restarts=restarts)})
    heard = trend(series_since=NOW - timedelta(seconds=age))
    if permitted:
        assert actions(world.plan(world.case(heard, **PERMITTED)))
    else:
        (why,) = refused(world, heard)
        assert why == f"it was started {restarts + 1} times lately, and systemd gives up after {burst} in 10 min"


# ── by the check ──────────────────────────────────────────────────────────────────────────────────────────────────────

CHECKED = {"services": {APP: {"restart": True, "check": ["/usr/sbin/app", "--check"]}}}


def test_a_configuration_that_passes_lets_it_be_restarted():
    world = World(checked=Checked(passed=True))
    assert actions(world.plan(world.case(trend(), **CHECKED)))
    assert "check /usr/sbin/app --check" in world.asked


@pytest.mark.parametrize(
    ("world", "said"),
    [
        (World(checked=Checked(passed=False, said="line 3: no such option")), "line 3: no such option"),
        (World(checked=None), "there is no /usr/sbin/app"),
        (World(broken={"check /usr/sbin/app --check"}), "permission denied"),
    ],
)
def test_what_would_not_start_again_is_not_stopped(world, said):
    plan = world.plan(world.case(trend(), **CHECKED))
    assert not actions(plan)
    finding = next(each for each in plan.findings if "the check of its configuration did not pass" in each.title)
    assert said in finding.detail
    assert finding.command == ("/usr/sbin/app", "--check")


def test_the_check_is_not_run_when_something_else_forbids_the_restart_or_there_is_time():
    for world, heard in (
        (World({UNIT: unit(job=True)}), trend()),
        (World(), trend(seconds_to_limit=99_999, per_hour=None)),
    ):
        world.plan(world.case(heard, **CHECKED))
        assert not any(read.startswith("check") for read in world.asked)


# ── by its replicas ───────────────────────────────────────────────────────────────────────────────────────────────────

SHOP = {"services": {"unit:shop@*.service": {"restart": True, "replicas": "shop"}}}


def shops(*states: str, **changes) -> World:
    names = [f"shop@{number}.service" for number in range(1, len(states) + 1)]
    units = {name: unit(name, active=state, **changes) for name, state in zip(names, states, strict=True)}
    groups = {found.control_group: 410 * MIB for found in units.values()}
    return World(units, held=groups, limits=dict.fromkeys(groups, 740 * MIB))


def test_a_replica_is_restarted_when_all_others_run():
    world, target = shops("active", "active", "active"), "unit:shop@1.service"
    assert actions(world.plan(world.case(trend(target), target, **SHOP)))


@pytest.mark.parametrize("state", ["failed", "activating", "deactivating", "inactive"])
def test_a_replica_is_not_restarted_while_another_does_not_run(state):
    world, target = shops("active", "active", state), "unit:shop@1.service"
    plan = world.plan(world.case(trend(target), target, **SHOP))
    assert not actions(plan)
    finding = next(each for each in plan.findings if "not restarted" in each.title)
    assert finding.title == "unit:shop@1.service is not restarted: another replica could not carry on alone"
    assert finding.detail == f"unit:shop@3.service: it is {state}"


def test_a_replica_is_not_restarted_while_something_is_done_with_another():
    world, target = shops("active", "active"), "unit:shop@1.service"
    world.units_here["shop@2.service"] = unit("shop@2.service", job=True)
    assert refused(world, trend(target), target, **SHOP) == ["another replica could not carry on alone"]


@pytest.mark.parametrize(("seconds", "alone"), [(5, False), (59, False), (61, True)])
def test_a_replica_that_was_restarted_just_now_can_t_carry_on_alone(seconds, alone):
    """Two of them leak at one pace, and the first was restarted a moment ago."""
    world, target = shops("active", "active"), "unit:shop@1.service"
    world.units_here["shop@2.service"] = unit("shop@2.service", active_since=time.monotonic() - seconds)
    plan = world.plan(world.case(trend(target), target, **SHOP))
    assert bool(actions(plan)) == alone
    if not alone:
        finding = next(each for each in plan.findings if "not restarted" in each.title)
        assert finding.detail == "unit:shop@2.service: it was started just now"


def test_a_container_that_was_restarted_just_now_is_a_replica_that_can_t_carry_on_alone():
    facts = {"project": "shop", "service": "web"}
    first, second = container("shop-web-1", **facts), container("shop-web-2", started=datetime.now(UTC), **facts)
    path, target = "/docker/shop-web-1", "container:shop-web-1"
    world = World(containers_here=[first, second], held={path: 410 * MIB}, limits={path: 740 * MIB})
    heard = trend(target, instance=f"{first.id[:12]}@{first.started.isoformat()}")
    assert refused(world, heard, target, restart=True) == ["another replica could not carry on alone"]


def test_replicas_are_seen_whether_their_units_are_watched_or_not():
    world, target = shops("active", "failed"), "unit:shop@1.service"
    assert refused(world, trend(target), target, units=("shop@1.service",), **SHOP) == [
        "another replica could not carry on alone"
    ]


def test_processes_that_match_are_a_replica_that_runs():
    world, target = shops("active"), "unit:shop@1.service"
    world.matches = {"shop.py": [identity()]}
    group = {"restart": True, "replicas": "shop"}
    settings = {"services": {target: group, "process:shop": group}, "processes": {"shop": {"command": "shop.py"}}}
    assert actions(world.plan(world.case(trend(target), target, **settings)))
    world.matches = {}
    assert refused(world, trend(target), target, **settings) == ["another replica could not carry on alone"]


def test_a_replica_that_is_named_and_gone_counts_as_down():
    world, target = shops("active"), "unit:shop@1.service"
    group = {"restart": True, "replicas": "shop"}
    settings = {"services": {target: group, "unit:shop@2.service": group, "container:shop": group}}
    plan = world.plan(world.case(trend(target), target, **settings))
    finding = next(each for each in plan.findings if "not restarted" in each.title)
    assert finding.detail == "container:shop: it does not run; unit:shop@2.service: it does not run"


def test_containers_of_one_compose_service_are_replicas_without_being_told():
    facts = {"project": "shop", "service": "web"}
    first, second = container("shop-web-1", **facts), container("shop-web-2", health="starting", **facts)
    other = container("shop-db-1", project="shop", service="db", health="unhealthy")
    path = "/docker/shop-web-1"
    world = World(containers_here=[first, second, other], held={path: 410 * MIB}, limits={path: 740 * MIB})
    target = "container:shop-web-1"
    heard = trend(target, instance=f"{first.id[:12]}@{first.started.isoformat()}")
    assert refused(world, heard, target, restart=True) == ["another replica could not carry on alone"]
    world.containers_here[1] = second.model_copy(update={"health": "healthy"})
    assert actions(world.plan(world.case(heard, target, restart=True)))


def test_when_the_others_can_t_be_seen_it_is_left_alone():
    world, target = shops("active", "active"), "unit:shop@1.service"
    world.broken = {"units"}
    assert refused(world, trend(target), target, **SHOP) == ["another replica could not carry on alone"]


# ── whatever comes ────────────────────────────────────────────────────────────────────────────────────────────────────

DEVIATIONS = (
    ("unit", {"job": True}, True), ("unit", {"reload_needed": True}, True), ("unit", {"can_stop": False}, True),
    ("unit", {"can_start": False}, True), ("unit", {"refuses_manual_stop": True}, True),
    ("unit", {"refuses_manual_start": True}, True), ("unit", {"load": "masked"}, True),
    ("unit", {"enabled": "masked"}, True), ("unit", {"type": "oneshot"}, True),
    ("unit", {"active": "failed"}, True), ("unit", {"active": "deactivating"}, True),
    ("unit", {"dependants": ("dbus.service",)}, True), ("unit", {"dependants": ("redis.service",)}, True),
    ("unit", {"dependants": ("web.service",)}, False), ("unit", {"type": "notify"}, False),
    ("unit", {"enabled": "static"}, False), ("unit", {"restarts": 7}, False),
    ("heard", {"trend": Trend.LEARNING}, True), ("heard", {"trend": Trend.STEADY}, True),
    ("heard", {"instance": "b" * 32}, True), ("heard", {"target": "unit:other.service"}, True),
    ("heard", {"observed_at": NOW - timedelta(hours=1)}, True),
    ("heard", {"per_hour": 1.0, "seconds_to_limit": 1e9}, True),
    ("heard", {"per_hour": None, "seconds_to_limit": None}, True), ("heard", {"floor_start": None}, False),
    ("heard", {"seconds_to_limit": 0.0}, False), ("heard", {"per_hour": -1e12}, False),
    ("settings", {"restart": False}, True), ("settings", {"services": {"unit:*": {"restart": False}}}, True),
    ("settings", {"services": {"unit:*": {"garbage_collection": {"jcmd": True}}}}, False),
)  # fmt: skip
"""Of a leaking service that may be restarted: whose, what, and whether it forbids the restart."""

NAMES = st.sampled_from(
    [(name, False) for name in ("app.service", "shop@1.service", "web.service")]
    + [(glob.replace("*", "x"), True) for glob in PROTECTED_UNITS if glob.endswith(".service")]
    + [(f"{glob.replace('*', 'x')}.service", True) for glob in (*PROTECTED_UNITS, *KEEPERS) if glob.endswith("*")]
)
"""And whether that name forbids it where nobody permits it by name."""


@given(name=NAMES, deviations=st.lists(st.sampled_from(DEVIATIONS), max_size=3, unique_by=id))
def test_a_restart_is_planned_when_nothing_forbids_it_and_never_else(name, deviations):
    (name, forbidden), values = name, {"unit": {}, "heard": {}, "settings": {"restart": True}}
    for whose, what, _ in deviations:
        values[whose] = values[whose] | what
    # What a later deviation puts in the place of an earlier one forbids nothing any more.
    forbidden |= any(forbids and values[whose].items() >= what.items() for whose, what, forbids in deviations)
    world, target = leaking(name, **values["unit"])

    heard = trend(**{"target": target, **values["heard"]})
    plan = world.plan(world.case(heard, target, **values["settings"]))

    restarts = [action for action in actions(plan) if not isinstance(action, CollectGarbage)]
    assert [type(each) for each in restarts] == ([] if forbidden else [RestartUnit])
    assert all(each.invocation == "a" * 32 for each in restarts)
    assert plan.grace <= timedelta(minutes=2)
    assert plan.empty or not plan.advice


@given(states=st.lists(st.sampled_from(["active", "failed", "inactive", "activating"]), min_size=2, max_size=4))
def test_no_two_replicas_are_ever_planned_while_one_is_away(states):
    world = shops(*states)
    for number in range(1, len(states) + 1):
        target = f"unit:shop@{number}.service"
        if states[number - 1] == "active":
            planned = actions(world.plan(world.case(trend(target), target, **SHOP)))
            others = states[: number - 1] + states[number:]
            assert bool(planned) == all(state == "active" for state in others)
