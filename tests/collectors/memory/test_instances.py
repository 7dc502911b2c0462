"""Which services are watched, and what each of them holds."""

import pytest

from collectors.memory import instances
from collectors.memory.instances import HOST, Known, Limit
from schemas.settings.memory import MemoryMonitoring
from tests.collectors.memory.machine import MIB, Machine
from tests.fakes import GIB

FREE = 12 * GIB


@pytest.fixture
def machine():
    return Machine()


def read(machine, known=(), **settings):
    known = {target: Known(failing=False, sampled_at=1.0) for target in known}
    found = instances.read_all(MemoryMonitoring(**settings), machine, known)
    assert len({each.target for each in found}) == len(found)
    return {each.target: each for each in found}


def held(machine, **settings):
    return {target: each.holding.held for target, each in read(machine, **settings).items()}


def test_units_containers_and_process_matches_are_read(machine):
    machine.unit("app.service", 100 * MIB, invocation="abc")
    machine.container("web", 200 * MIB)
    machine.process(7, "python worker.py", 30 * MIB)
    machine.process(8, "python worker.py", 40 * MIB, started=600)
    machine.process(9, "vim", 5 * MIB)

    found = read(machine, processes={"worker": {"command": r"worker\.py"}})

    assert {target: each.name for target, each in found.items()} == {
        "unit:app.service": "abc", "container:web": "web-01234567@2026-03-01T12:00:00+00:00", "process:worker": "7@500",
    }  # fmt: skip
    assert [each.holding.held // MIB for each in found.values()] == [100, 200, 70]


def test_the_page_cache_is_no_part_of_what_is_held(machine):
    machine.unit(held=100 * MIB, cache=500 * MIB)
    holding = read(machine)["unit:app.service"].holding
    assert (holding.held, holding.working_set) == (100 * MIB, 600 * MIB)


def test_without_systemd_and_without_an_engine_there_is_nothing_to_tell(machine):
    machine.broken = {"services": "systemd does not run", "running": "no engine"}
    assert read(machine) == {}


def test_a_source_that_no_longer_answers_makes_unknown_what_it_had_and_hides_nothing_else(machine):
    machine.unit()
    machine.container("web", MIB)
    machine.broken = {"services": "systemctl: no answer within 10 s"}
    found = read(machine, known=("unit:app.service",))
    assert found["unit:app.service"].error == "systemctl: no answer within 10 s"
    assert found["container:web"].holding.held == MIB


@pytest.mark.parametrize(
    ("active", "watched"),
    [
        ("active", True),
        ("reloading", True),
        ("deactivating", True),
        ("activating", False),
        ("inactive", False),
        ("failed", False),
    ],
)
def test_only_what_runs_is_watched(machine, active, watched):
    machine.unit(active=active)
    assert ("unit:app.service" in read(machine)) is watched


def test_a_unit_that_has_ended_but_for_its_state_is_not_watched(machine):
    machine.unit("setup.service", sub="exited", control_group="")
    machine.unit("empty.service", sub="exited", processes=())
    assert read(machine) == {}


def test_what_the_settings_ignore_or_do_not_name_is_not_watched(machine):
    machine.unit("app.service")
    machine.unit("other.service")
    machine.container("web", MIB)
    assert set(held(machine, ignore=("unit:o*",))) == {"unit:app.service", "container:web"}
    assert set(held(machine, units=("app",), containers=())) == {"unit:app.service"}


def test_one_that_stops_while_it_is_read_is_left_out(machine):
    machine.unit("app.service")
    machine.unit("other.service")
    machine.after_list = [lambda: machine.stop("app.service")]
    assert set(read(machine, known=("unit:app.service", "unit:other.service"))) == {"unit:other.service"}


def test_one_that_starts_anew_while_it_is_read_is_left_out(machine):
    machine.unit()
    machine.after_list = [lambda: machine.unit(invocation="2"), machine.groups.clear]
    assert read(machine) == {}


def test_one_that_cannot_be_read_is_unknown_and_hides_no_other(machine):
    machine.unit("app.service", processes=())
    machine.unit("other.service")
    machine.broken = {"/system.slice/app.service": "permission denied"}
    machine.uncounted["/system.slice/app.service"] = (4,)
    found = read(machine)
    assert found["unit:app.service"].error.startswith("none of its 1 processes can be read")
    assert found["unit:other.service"].holding is not None


def test_a_unit_whose_memory_is_not_counted_is_measured_by_its_processes(machine):
    machine.unit("app.service")
    del machine.groups["/system.slice/app.service"]
    machine.uncounted["/system.slice/app.service"] = (4, 5, 6)
    machine.process(4, "app", 10 * MIB)
    machine.process(5, "app", 20 * MIB, exact=False)
    holding = read(machine)["unit:app.service"].holding
    assert (holding.held, holding.working_set, holding.group) == (30 * MIB, 30 * MIB, "")
    assert holding.limit == Limit(30 * MIB + FREE, HOST, shared=True)
    assert holding.notes == ("1 of its 2 processes are measured by their resident set, which is less exact",)


def test_a_container_without_a_known_control_group_is_unknown_for_its_number_may_be_another_process(machine):
    """As an engine tells it that runs in another PID namespace: it would be restarted for what others hold."""
    machine.container("web", 0, path="", memory_limit=100 * MIB)
    machine.process(1, "init", 30 * MIB, cgroup="")
    found = read(machine)["container:web"]
    assert found.holding is None
    assert found.error.startswith("its control group could not be found")


def test_the_limit_is_its_own_that_of_a_slice_or_the_host_whichever_is_reached_first(machine):
    path = "/system.slice/app.service"
    machine.unit(held=100 * MIB, cache=20 * MIB)
    assert read(machine)["unit:app.service"].holding.limit == Limit(120 * MIB + FREE, HOST, shared=True)

    machine.unit(held=100 * MIB, cache=20 * MIB, limit=500 * MIB)
    assert read(machine)["unit:app.service"].holding.limit == Limit(500 * MIB, path, shared=False)

    machine.unit(held=100 * MIB, limit=500 * MIB, limit_at="/system.slice")
    machine.group("/system.slice", 450 * MIB, limit=500 * MIB)
    assert read(machine)["unit:app.service"].holding.limit == Limit(150 * MIB, "/system.slice", shared=True)

    machine.host(available=30 * MIB)
    assert read(machine)["unit:app.service"].holding.limit == Limit(130 * MIB, HOST, shared=True)

    machine.broken = {"host": "no /proc", "/system.slice": "gone"}
    assert read(machine)["unit:app.service"].holding.limit == Limit(500 * MIB, "/system.slice", shared=True)


def test_a_process_match_inside_a_limited_group_has_what_is_left_of_it(machine):
    machine.group("/box", 300 * MIB, limit=400 * MIB)
    machine.process(7, "worker", 50 * MIB, cgroup="/box")
    limit = read(machine, processes={"worker": {"command": "worker"}})["process:worker"].holding.limit
    assert limit == Limit(150 * MIB, "/box", shared=True)


def test_nothing_is_counted_twice_in_a_delegated_unit(machine):
    user = "/user.slice/user@1000.service"
    machine.unit("user@1000.service", 0, control_group=user, delegated=True)
    machine.group(user, 700 * MIB, limit=GIB, shared=8 * MIB, cache=100 * MIB)
    machine.container("web", 400 * MIB, path=f"{user}/libpod-web.scope", shared=5 * MIB)
    machine.container("database", 200 * MIB, path=f"{user}/deep/libpod-database.scope")

    found = read(machine)

    assert {target: each.holding.held // MIB for target, each in found.items()} == {
        "unit:user@1000.service": 100, "container:web": 400, "container:database": 200,
    }  # fmt: skip
    own = found["unit:user@1000.service"].holding
    assert (own.working_set, own.shared, own.limit.size) == (200 * MIB, 3 * MIB, GIB - 600 * MIB)
    assert own.out_of_memory_kills is None


def test_of_three_groups_in_each_other_each_counts_what_is_its_own(machine):
    for name, path, size in (("a.service", "/a", 100), ("b.service", "/a/b", 60), ("c.service", "/a/b/x/c", 10)):
        machine.unit(name, 0, control_group=path)
        machine.group(path, size * MIB)
    assert [size // MIB for size in held(machine).values()] == [40, 50, 10]


def test_a_container_that_a_unit_runs_in_its_own_group_is_the_units(machine):
    machine.unit("web.service", 300 * MIB)
    inside = {"path": "/system.slice/web.service/libpod-payload", "labels": {"PODMAN_SYSTEMD_UNIT": "web.service"}}
    machine.container("web", 250 * MIB, **inside)
    assert held(machine) == {"unit:web.service": 300 * MIB}
    assert held(machine, ignore=("unit:web.service",)) == {"container:web": 250 * MIB}


def test_of_a_unit_and_a_container_in_one_group_the_unit_is_told(machine):
    machine.container("web", 0, path="/system.slice/web.service")
    machine.unit("web.service", 300 * MIB)
    assert held(machine) == {"unit:web.service": 300 * MIB}


def test_when_time_runs_out_the_rest_is_left_out_those_sampled_longest_ago_first(machine, monkeypatch):
    for name in ("a", "b", "c", "d"):
        machine.unit(f"{name}.service")
    seconds = iter(range(0, 100, 3))
    monkeypatch.setattr(instances, "monotonic", lambda: next(seconds))
    known = {
        "unit:a.service": Known(failing=True, sampled_at=1), "unit:b.service": Known(failing=False, sampled_at=30),
        "unit:c.service": Known(failing=False, sampled_at=20),
    }  # fmt: skip

    found = instances.read_all(MemoryMonitoring(), machine, known)

    assert [(each.target[5], each.left_out) for each in found] == [("d", False), ("c", False), ("b", True), ("a", True)]
    assert found[-1].error == "no time was left, others took 12.0 s"


def test_a_unit_that_was_killed_stays_a_target_until_it_is_started_again(machine):
    machine.unit(restart_policy="no")
    machine.stop(active="failed", result="oom-kill")
    assert read(machine) == {}
    killed = read(machine, known=("unit:app.service",))["unit:app.service"]
    assert (killed.killed, killed.restarts_itself, killed.holding) == (True, False, None)


@pytest.mark.parametrize(
    ("policy", "again"),
    [
        ("no", False),
        ("on-success", False),
        ("on-abort", False),
        ("on-failure", True),
        ("on-abnormal", True),
        ("always", True),
    ],
)
def test_restart_says_whether_a_killed_unit_comes_back(machine, policy, again):
    machine.unit(restart_policy=policy)
    assert read(machine)["unit:app.service"].restarts_itself is again
