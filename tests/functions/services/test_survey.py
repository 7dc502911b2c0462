"""What is found about a unit that is down."""

import os

import pytest

from functions.services.checks import CHECKS, check_of
from functions.services.facts import Found
from functions.services.restart_failed import REMEDY
from functions.services.survey import MOST
from schemas.facts.commands import Checked
from schemas.facts.processes import Listener
from schemas.settings.services import ServiceMonitoring
from tests.functions.services.world import APP, World, case, down, process, running, seen, titles, unit

PASSES = Checked(passed=True)


def look(world, facts=None, **settings):
    return REMEDY.survey(case(**settings), seen(unit() if facts is None else facts), world)


def test_files_that_are_there_are_found():
    world = World(paths={"/run/app.pid", "/run/app.lock"})
    settings = {"app": {"stale_files": ["/run/app.lock", "/run/none.lock", "/run/app.pid"]}}
    found = look(world, unit(pid_file="/run/app.pid"), services=settings)
    assert found.stale_files == ("/run/app.pid", "/run/app.lock")


def test_who_holds_its_ports_is_found_once_for_each_port():
    held = [
        Listener(protocol="tcp", address=f"{address}:8080", port=8080, holders=(process(),), cgroups=("/a",))
        for address in ("0.0.0.0", "[::]")
    ]
    other = Listener(protocol="tcp", address="127.0.0.1:1", port=1, holders=(process(8),), cgroups=("/b",))
    found = look(World({APP: unit()}, listening=[*held, other]), services={"app": {"ports": [8080]}})
    assert [(each.port, each.process, each.group) for each in found.holders] == [(8080, process(), "/a")]


@pytest.mark.parametrize(
    "facts",
    [running(pid_file="/run/app.pid"), unit(active="activating", sub="start", pid_file="/run/app.pid")],
    ids=["runs", "is being started"],
)
def test_nothing_is_stale_while_a_run_is_under_way(facts):
    world = World(paths={"/run/app.pid"})
    found = look(world, facts, services={"app": {"ports": [8080]}})
    assert (found.stale_files, found.holders) == ((), ())
    assert world.asked == []


@pytest.mark.parametrize(
    "now",
    [running(invocation="2"), unit(invocation="2"), unit(active="activating", sub="start"), None],
    ids=["runs", "ran and failed again", "is being started", "is gone"],
)
def test_who_was_met_while_it_was_started_by_somebody_may_be_of_the_new_run(now):
    listener = Listener(protocol="tcp", address="[::]:8080", port=8080, holders=(process(),), cgroups=("/a",))
    world = World({APP: unit()}, listening=[listener], after={APP: now} if now is not None else {APP: None})
    found = look(world, services={"app": {"ports": [8080]}})
    assert found.holders == ()
    assert "could not look at who holds its ports: it was started meanwhile" in titles(found)


def test_what_it_needs_and_does_not_run_is_found():
    others = (unit("db.service"), down("cache.service"), running("fine.service"), unit("x.mount"))
    world = World({each.name: each for each in others})
    facts = unit(
        requires=("system.slice", "sysinit.target", "db.service", "x.mount"),
        wants=("cache.service", "fine.service", "db.service"),
    )
    assert [each.name for each in look(world, facts).others] == ["db.service", "x.mount", "cache.service"]
    assert "system.slice" not in world.asked


def test_what_is_started_along_is_found_at_any_remove_and_what_runs_brings_nothing_along():
    others = (
        down("db.service", wants=("cache.service",), requires=("db.target",)), down("cache.service"),
        down("db.target", wants=("old.service",)), down("old.service", wants=(APP,)),
        running("fine.service", wants=("far.service",)), down("far.service"),
    )  # fmt: skip
    world = World({each.name: each for each in others})
    found = look(world, unit(wants=("db.service", "fine.service")))
    assert [each.name for each in found.others] == ["db.service", "cache.service", "old.service"]


def test_a_start_that_would_stop_others_says_whom():
    others = (
        running("apache2.service"), down("old.service"), running("shutdown.target"),
        down("db.service", conflicts=("mysql.service", APP)), running("mysql.service"),
        down("shut.target", job=True),
    )  # fmt: skip
    world = World({each.name: each for each in others})
    facts = unit(wants=("db.service",), conflicts=("apache2.service", "old.service", "db.service", "shut.target"))
    assert look(world, facts).stopped_along == ("apache2.service", "shut.target", "mysql.service")


def test_a_restart_that_would_restart_others_says_whom_at_any_remove():
    others = (running("web.service", dependants=("dbus.service",)), running("dbus.service"), down("idle.service"))
    world = World({each.name: each for each in others})
    tied = {"dependants": ("web.service", "idle.service")}
    assert look(world, running(**tied)).restarted_along == ("web.service", "dbus.service")
    assert look(world, unit(**tied)).restarted_along == ()


def test_ties_without_end_are_not_followed_for_ever():
    world = World()
    for number in range(2 * MOST):
        name = f"app@{number}.service"
        world.known[name] = down(name, wants=(f"app@{number + 1}.service",))
    found = look(world, unit(wants=("app@0.service",)))
    assert len(found.others) == MOST
    assert f"there are more than {MOST} units" in titles(found)


def test_a_unit_in_which_we_run_is_known_as_such():
    group = "/system.slice/app.service"
    assert look(World(inside={group: (1, os.getpid())}), running(control_group=group)).ours
    assert not look(World(inside={group: (1,)}), running(control_group=group)).ours


def test_each_part_that_cannot_be_read_is_told_and_stops_no_other():
    world = World(paths={"/run/app.pid"}, broken={"listeners", "db.service"})
    facts = unit(pid_file="/run/app.pid", requires=("db.service",))
    found = look(world, facts, services={"app": {"ports": [8080]}})
    assert found.stale_files == ("/run/app.pid",)
    assert titles(found) == (
        "could not look at db.service: db.service: permission denied\n"
        "could not look at who holds its ports: listeners: permission denied"
    )


# ── configuration checks ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_check_of_the_settings_takes_the_place_of_the_one_built_in():
    settings = ServiceMonitoring(services={"nginx": {"check": ["/opt/nginx", "-t"]}})
    assert check_of(unit("nginx.service"), settings) == ("/opt/nginx", "-t")
    assert check_of(unit("nginx.service"), ServiceMonitoring()) == ("nginx", "-t", "-q")
    assert check_of(unit(aliases=("bind9.service",)), ServiceMonitoring()) == ("named-checkconf",)
    assert check_of(unit("postfix@-.service"), ServiceMonitoring()) == ("postfix", "check")
    assert check_of(unit(), ServiceMonitoring()) is None


def test_the_longest_glob_tells_about_a_unit():
    settings = ServiceMonitoring(services={"*": {"ports": [1]}, "app*": {"ports": [2]}, "web": {"ports": [3]}})
    assert settings.of(APP).ports == (2,)


def test_the_programs_are_looked_for_where_the_systems_are():
    assert all("/" not in argv[0] for argv in CHECKS.values())


def test_an_answer_is_kept_whatever_it_is():
    world = World(answers={"nginx": Checked(passed=False, said="unknown directive")})
    check = look(world, unit("nginx.service")).check
    assert check is not None
    assert not check.passed
    assert check.answer == Checked(passed=False, said="unknown directive")


def test_a_check_that_does_not_answer_has_not_passed():
    check = look(World(broken={"nginx -t -q"}), unit("nginx.service")).check
    assert check is not None
    assert not check.passed
    assert check.trouble == "nginx -t -q: permission denied"


def test_a_built_in_check_whose_program_is_not_here_is_none_and_is_told():
    found = look(World(), unit("nginx.service"))
    assert found.check is None
    assert "is not checked before a start: there is no nginx on this machine" in titles(found)


def test_a_check_that_was_asked_for_and_is_not_here_has_not_passed():
    check = look(World(), services={"app": {"check": ["/opt/check"]}}).check
    assert check is not None
    assert not check.passed
    assert check.trouble == "there is no program /opt/check"


def test_no_check_is_run_for_work_that_is_never_started():
    world = World(answers={"/opt/check": PASSES})
    assert look(world, unit(type="oneshot"), services={"app": {"check": ["/opt/check"]}}).check is None


def test_of_a_unit_that_is_gone_nothing_is_looked_for():
    world = World()
    assert REMEDY.survey(case(), seen(None), world) == Found()
    assert world.asked == []
