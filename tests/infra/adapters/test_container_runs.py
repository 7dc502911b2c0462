"""A real dockerd: which containers run and where, restarting one, and limiting its memory."""

import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from functions.core.ports import ToolError
from infra.adapters import engine_client
from infra.adapters.cgroup_trees import memory_tree
from infra.adapters.cgroups import ControlGroups
from infra.adapters.container_runs import working_set
from infra.adapters.containers import ContainerCleaner, Containers
from schemas.probes import ProbeError
from schemas.remediation import Outcome
from tests.waiting import until

MIB = 1 << 20
SLEEP = ["/bin/sleep", "600"]


@pytest.fixture
def run(docker):
    """run("name", …): a container of BusyBox that runs; options as of docker's client. Returns its id."""
    docker.import_busybox("app:1")

    def start(name: str, command: "list[str]" = SLEEP, **options: object) -> str:
        with docker.client() as client:
            container = client.containers.run("app:1", command, name=name, network_mode="none", detach=True, **options)
            return str(container.id)

    return start


def seen(docker, name):
    return Containers(docker.url, {}).container(name)


def tools(docker):
    return ContainerCleaner(docker.url, {})


# ── as they are seen ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_container_with_all_that_is_told_of_it(docker, run):
    before = datetime.now(UTC) - timedelta(seconds=2)
    labels = {"com.docker.compose.project": "shop", "com.docker.compose.service": "web", "team": "a"}
    container_id = run(
        "web", labels=labels, mem_limit=64 * MIB, memswap_limit=96 * MIB, restart_policy={"Name": "always"}
    )

    container = seen(docker, "web")

    assert (container.id, container.name, container.image) == (container_id, "web", "app:1")
    assert before < container.started <= datetime.now(UTC)
    assert Path(f"/proc/{container.pid}/cmdline").read_bytes() == b"/bin/sleep\x00600\x00"
    assert (container.labels, container.project, container.service) == (labels, "shop", "web")
    assert (container.memory_limit, container.memory_swap_limit) == (64 * MIB, 96 * MIB)
    assert (container.restart_policy, container.health) == ("always", "")


def test_its_control_group_is_where_its_memory_is_counted(docker, run):
    run("web", mem_limit=64 * MIB)
    container = seen(docker, "web")

    group = ControlGroups().control_group(container.control_group)

    assert container.id in container.control_group
    assert group.processes == (container.pid,)
    assert group.maximum == 64 * MIB


async def test_what_a_container_moves_itself_to_is_still_the_containers_group(docker, run):
    """As a service manager inside does, which puts itself into a group of its own."""
    run("web")
    container = seen(docker, "web")
    groups = ControlGroups()
    below = real_directory(container.control_group) / "init.scope"
    below.mkdir()
    try:
        (below / "cgroup.procs").write_text(str(container.pid))
        moved = groups.control_group_of(container.pid)
        again = seen(docker, "web")
    finally:
        with docker.client() as client:
            client.containers.get("web").kill()
        await until(lambda: not (below / "cgroup.procs").exists() or not (below / "cgroup.procs").read_text())
        if below.exists():
            below.rmdir()

    assert moved == f"{container.control_group}/init.scope"
    assert again.control_group == container.control_group


def real_directory(path):
    tree = memory_tree("/sys/fs/cgroup", "/proc")
    return Path(tree.directory) / path.removeprefix(tree.top).strip("/")


def test_only_those_that_run_are_told(docker, run):
    run("one")
    run("two")
    with docker.client() as client:
        client.containers.get("two").kill()
        client.containers.create("app:1", SLEEP, name="three", network_mode="none")

    assert [each.name for each in Containers(docker.url, {}).running()] == ["one"]
    assert [seen(docker, name) for name in ("two", "three", "four")] == [None, None, None]


def test_the_beginning_of_an_id_is_no_name(docker, run):
    container_id = run("web")

    assert seen(docker, container_id[:12]) is None
    assert seen(docker, container_id) is None


def test_without_limits_there_are_none(docker, run):
    run("web")

    assert (seen(docker, "web").memory_limit, seen(docker, "web").memory_swap_limit) == (None, None)
    assert seen(docker, "web").restart_policy in {"", "no"}


async def test_health_is_told_of_those_that_check_it(docker, run):
    second = 10**9
    run("web", healthcheck={"test": ["CMD", "/bin/true"], "interval": second // 10, "timeout": second})

    await until(lambda: seen(docker, "web").health == "healthy", lambda: seen(docker, "web").health)


def test_where_the_processes_can_not_be_seen_the_group_is_unknown(docker, run, tmp_path):
    run("web")

    container = Containers(docker.url, {}, ControlGroups(str(tmp_path))).container("web")

    assert container.control_group == ""


def test_a_number_that_is_another_process_here_gives_no_group(docker, run):
    """As for an engine in another PID namespace."""
    run("web")

    class Groups(ControlGroups):
        def control_group_of(self, pid: int) -> str:
            return super().control_group_of(os.getpid())

    assert Containers(docker.url, {}, Groups()).container("web").control_group == ""


def test_without_an_engine_nothing_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_client, "SOCKETS", (str(tmp_path / "none"),))

    assert Containers(environment={}).running() == []
    assert Containers(environment={}).container("web") is None
    for act in (lambda tools: tools.restart("docker", "0", datetime.now(UTC), 1),
                lambda tools: tools.limit_memory("docker", "0", None, None)):  # fmt: skip
        with pytest.raises(ToolError, match="no container engine listens here; start docker"):
            act(ContainerCleaner(environment={}))


def test_an_engine_that_does_not_answer_is_unknown(tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    with pytest.raises(ProbeError, match="Connection refused"):
        Containers(f"unix://{path}").running()


# ── restarting ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_restart_makes_another_run_of_the_same_container(docker, run):
    run("web", init=True)
    before = seen(docker, "web")

    result = tools(docker).restart("docker", before.id, before.started, 5)

    after = seen(docker, "web")
    assert (result.name, result.outcome, result.reason) == ("web", Outcome.DONE, "")
    assert after.id == before.id
    assert after.started > before.started
    assert after.pid != before.pid


def test_its_grace_is_what_was_given(docker, run):
    """A shell that takes its time for a SIGTERM, and leaves a note when it had it."""
    note = "trap 'touch /tmp/stopped; exit 0' TERM; while :; do sleep 0.1; done"
    run("web", ["/bin/sh", "-c", note])
    before = seen(docker, "web")

    assert tools(docker).restart("docker", before.id, before.started, 30).outcome is Outcome.DONE
    with docker.client() as client:
        assert client.containers.get("web").exec_run(["/bin/cat", "/tmp/stopped"]).exit_code == 0


def test_another_run_than_planned_is_left_alone(docker, run):
    container_id = run("web", init=True)
    planned = seen(docker, "web")
    with docker.client() as client:
        client.containers.get("web").restart(timeout=1)
    now = seen(docker, "web")

    result = tools(docker).restart("docker", container_id, planned.started, 1)

    assert result.outcome is Outcome.SKIPPED
    assert result.reason == f"it was started again, at {now.started}"
    assert seen(docker, "web").started == now.started


def test_one_that_stopped_or_is_gone_is_not_started(docker, run):
    container_id = run("web")
    planned = seen(docker, "web")
    with docker.client() as client:
        client.containers.get("web").kill()
        stopped = tools(docker).restart("docker", container_id, planned.started, 1)
        client.containers.get("web").remove()
    gone = tools(docker).restart("docker", container_id, planned.started, 1)

    assert (stopped.outcome, stopped.reason) == (Outcome.SKIPPED, "it does not run")
    assert (gone.name, gone.outcome, gone.reason) == (container_id[:12], Outcome.SKIPPED, "it is gone")


def test_a_name_is_no_id(docker, run):
    run("web")
    planned = seen(docker, "web")

    assert tools(docker).restart("docker", "web", planned.started, 1).reason == "it is gone"
    assert seen(docker, "web").started == planned.started


def test_one_that_does_not_come_up_again_is_a_failure(docker, run):
    """Its program is gone by then."""
    run("web", ["/bin/sh", "-c", "rm /bin/sh; sleep 600"])
    planned = seen(docker, "web")

    result = tools(docker).restart("docker", planned.id, planned.started, 1)

    assert result.outcome is Outcome.FAILED
    assert result.reason.startswith("it is down now, and should run: ")


def test_the_wrong_engine_is_refused(docker, run):
    run("web")
    planned = seen(docker, "web")

    with pytest.raises(ToolError, match=r"restart the container .* is docker, not podman"):
        tools(docker).restart("podman", planned.id, planned.started, 1)


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def group_of(docker, name):
    return ControlGroups().control_group(seen(docker, name).control_group)


def test_a_limit_is_set_in_the_kernel_and_taken_away_again(docker, run):
    container_id = run("web")

    first = tools(docker).limit_memory("docker", container_id, 64 * MIB, 96 * MIB)

    assert (first.name, first.outcome, first.reason) == ("web", Outcome.DONE, "")
    assert group_of(docker, "web").maximum == 64 * MIB
    assert (seen(docker, "web").memory_limit, seen(docker, "web").memory_swap_limit) == (64 * MIB, 96 * MIB)

    second = tools(docker).limit_memory("docker", container_id, None, None)

    assert (second.outcome, second.reason) == (Outcome.DONE, "")
    assert group_of(docker, "web").maximum is None
    assert (seen(docker, "web").memory_limit, seen(docker, "web").memory_swap_limit) == (None, None)


@pytest.mark.parametrize(("limit", "swap"), [(256 * MIB, 256 * MIB), (32 * MIB, 48 * MIB), (128 * MIB, None)])
def test_an_old_limit_goes_up_and_down_with_that_of_swap(docker, run, limit, swap):
    container_id = run("web", mem_limit=64 * MIB, memswap_limit=64 * MIB)

    assert tools(docker).limit_memory("docker", container_id, limit, swap).outcome is Outcome.DONE
    assert group_of(docker, "web").maximum == limit
    assert seen(docker, "web").memory_swap_limit == swap
    assert tools(docker).limit_memory("docker", container_id, 64 * MIB, 64 * MIB).outcome is Outcome.DONE
    assert group_of(docker, "web").maximum == 64 * MIB


async def test_a_limit_below_what_is_in_use_is_refused_and_the_container_lives(docker, run):
    command = ["/bin/sh", "-c", "dd if=/dev/zero of=/held/file bs=1M count=24; sleep 600"]
    container_id = run("web", command, tmpfs={"/held": ""})
    await until(lambda: group_of(docker, "web").shared >= 24 * MIB, lambda: group_of(docker, "web"))

    result = tools(docker).limit_memory("docker", container_id, 24 * MIB, 24 * MIB)

    assert result.outcome is Outcome.REFUSED
    assert "are in use, and a limit must be at least 1.25 times that" in result.reason
    assert group_of(docker, "web").maximum is None


def test_what_the_engine_refuses_is_a_failure_in_its_words(docker, run):
    result = tools(docker).limit_memory("docker", run("web"), 64 * MIB, 32 * MIB)

    assert result.outcome is Outcome.FAILED
    assert result.reason.startswith("the engine refuses: ")
    assert group_of(docker, "web").maximum is None


def test_one_that_is_gone_is_not_limited(docker, run):
    container_id = run("web")
    with docker.client() as client:
        client.containers.get("web").kill()

    assert tools(docker).limit_memory("docker", container_id, 64 * MIB, 64 * MIB).outcome is Outcome.SKIPPED


@pytest.mark.parametrize(
    ("statistics", "size"),
    [
        ({}, None), ({"memory_stats": {}}, None), ({"memory_stats": {"usage": 100}}, 100),
        ({"memory_stats": {"usage": 100, "stats": {"inactive_file": 30}}}, 70),
        ({"memory_stats": {"usage": 100, "stats": {"total_inactive_file": 30, "inactive_file": 9}}}, 70),
        ({"memory_stats": {"usage": 100, "stats": {"inactive_file": 130}}}, 0),
    ],
)  # fmt: skip
def test_what_is_in_use_by_an_engines_statistics(statistics, size):
    assert working_set(statistics) == size
