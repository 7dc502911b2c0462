"""Real services under a real systemd, some of which leak: collector and function run inside, a minute in a second."""

import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bus import subjects
from schemas.alert import AlertState
from schemas.audit import Step
from schemas.envelope import Event
from schemas.facts.memory import Detector, Trend
from schemas.health import Level
from schemas.memory import MemoryTrend
from tests.cgroups import MemoryCgroup, memory_hierarchy
from tests.e2e.conftest import HOST, REPOSITORY
from tests.e2e.service_site import ServiceSite, service_site
from tests.systemd import Machine
from tests.waiting import until

MIB = 2**20
LIMIT = f"MemoryAccounting=yes\nMemoryMax={96 * MIB}"
LOWER = f"MemoryAccounting=yes\nMemoryMax={80 * MIB}"
HEALTHY = 20
"""Services of each healthy shape, every one with a seed of its own."""
WITHIN = 300
"""Seconds in which the whole story must be over."""
PROGRAM = f'exec "{sys.executable}" "{REPOSITORY}/tests/programs/leaking.py"'
LEAKY = "unit:test-leaky.service"
LEAKS_ONCE = (
    "if mkdir /run/leaked; then "
    f"{PROGRAM} --shape linear --rate {1.2 * MIB:.0f} --collectable 0.0; "
    f"else {PROGRAM} --shape linear --rate {MIB} --limit {10 * MIB}; fi"
)
"""A leak that a restart cures, and that no collection helps."""


@pytest.fixture
async def site(machine: Machine, tmp_path: Path) -> AsyncIterator[ServiceSite]:
    async with service_site(machine, tmp_path) as made:
        yield made


def settings(**memory: Any) -> dict[str, Any]:
    return {
        "policy": {"mode": "auto", "default": {"confirmation": {"needed": 2, "of": 3, "every": "30 s"}}},
        "memory_monitoring": {"containers": [], "units": ["test-*.service"], "restart": True, **memory},
    }


def sawtooth(seed: int) -> str:
    period = 5 + seed  # seconds, simulated minutes
    return f"{PROGRAM} --shape sawtooth --seed {seed} --period {period} --rate {50 * MIB / period:.0f}"


def warm_up(seed: int) -> str:
    limit = (35 + seed) * MIB
    return f"{PROGRAM} --shape warmup --seed {seed} --limit {limit} --rate {limit / (5 + seed):.0f}"


async def test_a_leak_is_told_then_contained_before_memory_runs_out_and_what_is_healthy_is_left_alone(
    site: ServiceSite,
):
    await site.service("test-leaky", LEAKS_ONCE, LIMIT)
    shapes = {f"test-{shape.__name__}-{seed}": shape(seed) for shape in (sawtooth, warm_up) for seed in range(HEALTHY)}
    for name, command in shapes.items():
        await site.service(name, command, LOWER)
    await site.machine.systemctl("start", "test-leaky", *shapes)
    before = await site.machine.show("test-leaky", "InvocationID")
    collect = {LEAKY: {"garbage_collection": {"signal": "SIGUSR1", "timeout": "1 s"}}}

    await site.run_fast(settings(services=collect), "memory.trend", "memory.contain_leak")

    async def ended() -> bool:
        return any(record.step in {Step.HEALED, Step.STUCK} for record in await site.records(LEAKY))

    await until(ended, site.said, seconds=WITHIN)

    records = await site.records(LEAKY)
    assert (records[0].step, records[-1].step) == (Step.OPENED, Step.HEALED), site.said()
    done = [record.action.action for record in records if record.step is Step.ACTED and record.action is not None]
    assert done == ["memory.collect_garbage", "memory.restart_unit"]
    assert [alert.state for alert in await site.alerts(LEAKY)] == [AlertState.OPENED, AlertState.RESOLVED]
    after = await site.machine.show("test-leaky", "InvocationID", "ActiveState", "NRestarts", "ControlGroup")
    assert (after["ActiveState"], after["NRestarts"]) == ("active", "0")
    assert after["InvocationID"] != before["InvocationID"]
    group = site.machine.cgroup("memory", after["ControlGroup"])
    version = 2 if memory_hierarchy().type == "cgroup2" else 1
    assert MemoryCgroup(group, version).oom_kills == 0

    trends = await site.told(MemoryTrend, LEAKY)
    assert {trend.out_of_memory_kills for trend in trends} <= {0, None}, "none where its group was just being made anew"
    assert (trends[-1].level, trends[-1].instance) == (Level.OK, after["InvocationID"])

    grew = next(trend.processes for trend in reversed(trends) if trend.processes)
    assert grew[0].grown > 10 * MIB, "who leaks is named"
    assert "leaking.py" in grew[0].identity.command

    for name in shapes:
        told = await site.told(MemoryTrend, f"unit:{name}.service")
        assert told, name
        assert {trend.level for trend in told} == {Level.OK}, [trend for trend in told if trend.level is not Level.OK]
        assert {trend.trend for trend in told} <= {Trend.LEARNING, Trend.STEADY}
        assert await site.records(f"unit:{name}.service") == []


OTHERS = ("docker", "isal", "faststream", "uvloop")
"""What a process with this function alone has no need of."""


async def test_the_function_alone_needs_nothing_but_its_own(site: ServiceSite, tmp_path: Path):
    """The packages of other functions can't even be imported; the unit is real, its growth is only told."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    for name in OTHERS:
        (blocked / f"{name}.py").write_text(f"raise ImportError({name!r} + ' is not installed here')")
    await site.service("test-leaky", f"{PROGRAM} --shape linear --rate {200 * MIB} --limit {70 * MIB}", LIMIT)
    await site.machine.systemctl("start", "test-leaky")

    async def near_its_limit() -> bool:
        return int((await site.machine.show("test-leaky", "MemoryCurrent"))["MemoryCurrent"]) > 75 * MIB

    await until(near_its_limit)
    run = await site.machine.show("test-leaky", "InvocationID")
    await site.run(
        {"policy": {"mode": "dry_run"}, "memory_monitoring": settings()["memory_monitoring"]},
        "memory.contain_leak", PYTHONPATH=f"{blocked}:{REPOSITORY}",
    )  # fmt: skip
    now = datetime.now(UTC)
    health = MemoryTrend(
        target=LEAKY, level=Level.CRITICAL, reason="it leaks", observed_at=now, instance=run["InvocationID"],
        trend=Trend.EXHAUSTING, detector=Detector.FAST, per_hour=200.0 * MIB, floor_start=9 * MIB, floor_now=76 * MIB,
        seconds_to_limit=300, series_since=now,
    )  # fmt: skip
    event = Event[MemoryTrend](source="/test", type=MemoryTrend.type_name(), subject=LEAKY, time=now, data=health)
    subject = subjects.health(HOST, "memory", "trend", LEAKY)

    await site.bus.publish(subject, event.body(), message_id=event.id)

    async def foretold() -> Any:
        return next((record for record in await site.records(LEAKY) if record.step is Step.WOULD), None)

    told = await until(foretold, site.said)
    assert [rung.rung for rung in told.report.rungs] == ["restart"]
    assert (await site.machine.show("test-leaky", "InvocationID")) == run
