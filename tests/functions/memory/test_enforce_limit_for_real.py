"""Real limits of this kernel: of a group that nobody manages, of a unit of a real systemd, of a real container."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from functions.core.remedy import Case
from functions.memory.enforce_limit import REMEDY
from functions.memory.limit_actions import LimitContainer, LimitControlGroup
from infra.adapters.containers import ContainerCleaner, Containers
from infra.hosts.local import LocalProbes, LocalTools
from schemas.incident import IncidentState
from schemas.remediation import Outcome
from schemas.trigger import Asked, Trigger
from tests import cgroups
from tests.docker_engine import DockerEngine, docker_engine
from tests.functions.memory.limit_world import LimitPlant, only, settings_of, titles
from tests.functions.memory.world import MIB, NOW
from tests.waiting import until

HELD = 32 * MIB
HOLDER = f"import sys, time; held = bytearray({HELD}); print('held', flush=True); time.sleep(1000)"
WORKER = "process:worker"


def case(target: str, **limits: int) -> Case:
    return Case(host="here", target=target, settings=settings_of(target, **limits), now=NOW)


# ── a group that nobody manages ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def worker(memory_cgroup, tmp_path) -> Iterator[str]:
    """Holds memory in a group of its own; gives the pattern that it alone matches."""
    argv = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with memory_cgroup.start(*argv, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield f"time.sleep.* {tmp_path}$"
        process.kill()


def settings(pattern: str, **limits: int) -> Any:
    return settings_of(WORKER, processes={"worker": {"command": pattern}}, **limits)


async def ask(plant: LimitPlant) -> None:
    await plant.engine.on_trigger(Trigger(target=WORKER, mode=Asked.LIVE), "c", "anna")


async def test_processes_are_held_to_a_maximum_and_the_kernel_does(memory_cgroup, worker):
    plant = LimitPlant(LocalProbes(), settings(worker, maximum=64 * MIB), tools=LocalTools())

    await ask(plant)

    assert memory_cgroup.limit_in_force() == 64 * MIB
    assert plant.incident(WORKER).state is IncidentState.CLOSED
    assert plant.story.events[-1].report.gap_after.amount == 0
    await plant.engine.stop()


async def test_a_maximum_near_what_is_in_use_is_left_to_a_person(memory_cgroup, worker):
    plant = LimitPlant(LocalProbes(), settings(worker, maximum=HELD + MIB), tools=LocalTools())

    await ask(plant)

    assert memory_cgroup.limit_in_force() == float("inf")
    assert memory_cgroup.oom_kills == 0
    assert plant.refused() == ["empty_plan"]
    await plant.engine.stop()


def test_the_way_back_restores_what_the_kernel_had(memory_cgroup, worker):
    memory_cgroup.limit(512 * MIB)
    here, probes, tools = settings(worker, maximum=64 * MIB), LocalProbes(), LocalTools()
    asked = Case(host="here", target=WORKER, settings=here, now=NOW)
    seen = REMEDY.observe(asked, probes)
    action = only(REMEDY.plan(asked, seen, REMEDY.survey(asked, seen, probes)))
    assert isinstance(action, LimitControlGroup)

    done = action.apply(tools)
    held = memory_cgroup.limit_in_force()
    undone = action.inverse(done).apply(tools)

    assert (done.outcome, held) == (Outcome.DONE, 64 * MIB)
    assert (undone.outcome, memory_cgroup.limit_in_force()) == (Outcome.DONE, 512 * MIB)


def test_a_group_in_which_somebody_else_runs_is_left_alone(memory_cgroup, worker):
    with memory_cgroup.start("sleep", "1000") as other:
        asked = Case(host="here", target=WORKER, settings=settings(worker, maximum=64 * MIB), now=NOW)
        seen = REMEDY.observe(asked, LocalProbes())
        plan = REMEDY.plan(asked, seen, REMEDY.survey(asked, seen, LocalProbes()))
        other.kill()

    assert plan.empty
    assert "1 processes of others are in its control group" in titles(plan)[0]


# ── a unit ────────────────────────────────────────────────────────────────────────────────────────────────────────────

INSIDE = """
import json, sys
from datetime import UTC, datetime
from functions.core.remedy import Case
from functions.memory.enforce_limit import REMEDY
from infra.hosts.local import LocalProbes, LocalTools
from schemas.settings.memory import MemoryMonitoring

probes, tools = LocalProbes(), LocalTools()
settings = MemoryMonitoring.model_validate_json(sys.argv[1])
kinds = {kind.model_fields["action"].default: kind for kind in REMEDY.actions}
told = {"targets": REMEDY.targets(settings, probes)}
if len(sys.argv) > 2:
    document = json.loads(sys.argv[2])
    actions = [kinds[document["action"]].model_validate(document).inverse(None)]
else:
    case = Case("here", told["targets"][0], settings, datetime.now(UTC))
    seen = REMEDY.observe(case, probes)
    plan = REMEDY.plan(case, seen, REMEDY.survey(case, seen, probes))
    told |= {"gap": REMEDY.gap(case, seen).amount, "findings": [finding.title for finding in plan.findings]}
    actions = [action for rung in plan.rungs for action in rung.actions]
told["results"] = [json.loads(action.apply(tools).model_dump_json()) for action in actions]
told["actions"] = [action.model_dump(mode="json") for action in actions]
if len(sys.argv) == 2:
    told["after"] = REMEDY.gap(case, REMEDY.observe(case, probes)).amount
print(json.dumps(told))
"""

UNIT = "[Service]\nExecStart=/bin/sleep 1000\n{more}"


def enforce(machine, settings: Any, *action: dict) -> dict:
    """Beside systemd, as on a host: what is missing is set, or *action* is taken back."""
    arguments = [settings.model_dump_json(), *map(json.dumps, action)]
    answer: dict = json.loads(machine.run(sys.executable, "-c", INSIDE, *arguments).stdout)
    return answer


async def started(machine, more: str) -> cgroups.MemoryCgroup:
    """The control group of app.service, which runs then."""
    await machine.unit("app.service", UNIT.format(more=more))
    await machine.systemctl("start", "app.service")
    await until(lambda: machine.cgroup("memory", "/system.slice/app.service").exists())
    version = 2 if cgroups.memory_hierarchy().type == "cgroup2" else 1
    return cgroups.MemoryCgroup(machine.cgroup("memory", "/system.slice/app.service"), version)


@pytest.mark.needs("memory limit")
async def test_a_unit_is_held_to_its_maximum_until_the_old_one_is_set_again(machine):
    group = await started(machine, "MemoryMax=1G\n")
    here = settings_of("unit:app.service", maximum=256 * MIB, high=128 * MIB)

    done = enforce(machine, here)

    assert (done["targets"], done["gap"] >= 1, done["after"]) == (["unit:app.service"], True, 0)
    assert [result["outcome"] for result in done["results"]] == ["done"]
    assert group.limit_in_force() == 256 * MIB
    assert (await machine.show("app.service", "MemoryMax"))["MemoryMax"] == str(256 * MIB)
    assert any("Restart=no" in finding for finding in done["findings"])

    undone = enforce(machine, here, done["actions"][0])

    assert [result["outcome"] for result in undone["results"]] == ["done"]
    assert group.limit_in_force() == 1024 * MIB
    assert await machine.show("app.service", "MemoryMax", "MemoryHigh") == {
        "MemoryMax": str(1024 * MIB), "MemoryHigh": "infinity",
    }  # fmt: skip


@pytest.mark.needs("memory limit")
async def test_a_unit_that_manages_its_groups_itself_keeps_what_it_has(machine):
    group = await started(machine, "Delegate=yes\nMemoryMax=1G\n")

    done = enforce(machine, settings_of("unit:app.service", maximum=256 * MIB))

    assert (done["gap"], done["actions"], done["after"]) == (1, [], 1)
    assert any("managed by itself" in finding for finding in done["findings"])
    assert group.limit_in_force() == 1024 * MIB


@pytest.mark.needs("memory limit")
async def test_a_unit_that_was_restarted_since_it_was_planned_is_left_alone(machine):
    group = await started(machine, "MemoryMax=1G\n")
    here = settings_of("unit:app.service", maximum=256 * MIB)
    done = enforce(machine, here)
    assert enforce(machine, here, done["actions"][0])["results"][0]["outcome"] == "done"

    await machine.systemctl("restart", "app.service")
    again = enforce(machine, here, enforce(machine, here, done["actions"][0])["actions"][0])

    assert again["results"][0]["outcome"] == "skipped"
    assert group.limit_in_force() == 1024 * MIB


# ── a container ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def engine() -> Iterator[DockerEngine]:
    with docker_engine() as started:
        yield started


@pytest.mark.needs("memory limit")
def test_a_container_is_held_to_its_maximum_until_the_old_one_is_set_again(engine):
    engine.import_busybox("box:1")
    with engine.client() as client:
        running = client.containers.run("box:1", "sleep 1000", name="web-1", detach=True, network_mode="none")
        try:
            limit_and_restore(engine, running)
        finally:
            running.remove(force=True)
    engine.clear()


def limit_and_restore(engine: DockerEngine, running: Any) -> None:
    probes, tools = LocalProbes(), LocalTools()
    vars(probes)["containers"] = Containers(engine.url, {})
    vars(tools)["containers"] = ContainerCleaner(engine.url, {})
    asked = case("container:web-1", maximum=256 * MIB)
    seen = REMEDY.observe(asked, probes)
    assert REMEDY.gap(asked, seen).amount == 1

    action = only(REMEDY.plan(asked, seen, REMEDY.survey(asked, seen, probes)))
    assert isinstance(action, LimitContainer)
    assert action.apply(tools).outcome is Outcome.DONE
    held = REMEDY.observe(asked, probes)
    assert (held.maximum, REMEDY.gap(asked, held).closed) == (256 * MIB, True)

    assert action.inverse(None).apply(tools).outcome is Outcome.DONE
    assert REMEDY.observe(asked, probes).maximum is None
    running.reload()
    assert running.status == "running"
