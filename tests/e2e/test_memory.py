"""Real services under a real systemd, some of which leak: collector and function run inside, a minute in a second."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bus import subjects
from bus.jetstream import JetStreamBus, connect
from bus.port import StreamName
from schemas.alert import Alert, AlertState
from schemas.audit import AuditRecord, Step
from schemas.envelope import Event
from schemas.facts.memory import Trend
from schemas.health import Level
from schemas.memory import MemoryTrend
from schemas.settings.bus import BusSettings
from tests.audit_trail import records_of
from tests.cgroups import MemoryCgroup, memory_hierarchy
from tests.e2e.conftest import REPOSITORY, clean_environment
from tests.servers import running_server
from tests.systemd import Machine
from tests.waiting import until

HOST = "web-1"
SCALE = 60
"""A minute is a second."""
MIB = 2**20
LIMIT = 96 * MIB
HEALTHY = 20
"""Services of each healthy shape, every one with a seed of its own."""
WITHIN = 300
"""Seconds in which the whole story must be over."""

UNIT = """\
[Unit]
Description={name}
[Service]
ExecStart=/bin/sh -c '{command}'
MemoryMax={limit}
MemoryAccounting=yes
"""
PROGRAM = f"exec {sys.executable} {REPOSITORY}/tests/programs/leaking.py"


class Site:
    """A bus outside, a systemd with services inside, and our process beside them."""

    def __init__(self, machine: Machine, bus: JetStreamBus, directory: Path, url: str) -> None:
        self.machine = machine
        self.bus = bus
        self._directory = directory
        self._url = url
        self._process: asyncio.subprocess.Process | None = None

    async def service(self, name: str, command: str, limit: int = LIMIT) -> None:
        await self.machine.unit(f"{name}.service", UNIT.format(name=name, command=command, limit=limit))

    async def run(self, settings: dict[str, Any], *names: str) -> None:
        file = self._directory / "ansai.yaml"
        file.write_text(yaml.safe_dump({"bus": {"url": self._url}, **settings}))
        with (self._directory / "output").open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                *self.machine.argv(
                    sys.executable, REPOSITORY / "tests/programs/station.py", file, HOST, str(SCALE), *names
                ),
                env=clean_environment(self._directory), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        await until(lambda: "ready" in self.said(), self.said)

    def said(self) -> str:
        return (self._directory / "output").read_text(errors="replace")

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            await self._process.wait()

    async def records(self, target: str) -> list[AuditRecord]:
        stored = [message async for message in self.bus.read(StreamName.AUDIT)]
        return [record for record in records_of(stored) if record.target == target]

    async def trends(self, target: str) -> list[MemoryTrend]:
        subject = subjects.health(HOST, "memory", "trend", target)
        stored = [message async for message in self.bus.read(StreamName.HEALTH, subject)]
        return [Event[MemoryTrend].model_validate_json(each.body).data for each in stored]

    async def alerts(self, target: str) -> list[Alert]:
        stored = [message async for message in self.bus.read(StreamName.ALERT)]
        alerts = [Event[Alert].model_validate_json(each.body).data for each in stored]
        return [alert for alert in alerts if alert.target == target]


@pytest.fixture
async def site(machine: Machine, tmp_path: Path) -> AsyncIterator[Site]:
    async with running_server(tmp_path / "nats") as server:
        bus = await connect(BusSettings(url=server.url), name="the test")
        made = Site(machine, bus, tmp_path, server.url)
        try:
            yield made
        finally:
            await made.stop()
            await bus.close()


def settings(**memory: Any) -> dict[str, Any]:
    return {
        "policy": {"mode": "auto", "default": {"confirmation": {"needed": 2, "of": 3, "every": "30 s"}}},
        "memory_monitoring": {"containers": [], "units": ["test-*.service"], "restart": True, **memory},
    }


LEAKS_ONCE = (
    "if mkdir /run/leaked; then "
    f"{PROGRAM} --shape linear --rate {1.2 * MIB:.0f} --collectable 0.0; "
    f"else {PROGRAM} --shape linear --rate {MIB} --limit {10 * MIB}; fi"
)
"""A leak that a restart cures, and that no collection helps."""


def sawtooth(seed: int) -> str:
    period = 5 + seed  # seconds, simulated minutes
    return f"{PROGRAM} --shape sawtooth --seed {seed} --period {period} --rate {50 * MIB / period:.0f}"


def warm_up(seed: int) -> str:
    limit = (35 + seed) * MIB
    return f"{PROGRAM} --shape warmup --seed {seed} --limit {limit} --rate {limit / (5 + seed):.0f}"


async def test_a_leak_is_told_then_contained_before_memory_runs_out_and_what_is_healthy_is_left_alone(site: Site):
    await site.service("test-leaky", LEAKS_ONCE)
    shapes = {f"test-{shape.__name__}-{seed}": shape(seed) for shape in (sawtooth, warm_up) for seed in range(HEALTHY)}
    for name, command in shapes.items():
        await site.service(name, command, limit=80 * MIB)
    await site.machine.systemctl("start", "test-leaky", *shapes)
    before = await site.machine.show("test-leaky", "InvocationID", "ControlGroup")
    collect = {"unit:test-leaky.service": {"garbage_collection": {"signal": "SIGUSR1", "timeout": "1 s"}}}

    await site.run(settings(services=collect), "memory.trend", "memory.contain_leak")

    target = "unit:test-leaky.service"

    async def ended() -> bool:
        return any(record.step in {Step.HEALED, Step.STUCK} for record in await site.records(target))

    await until(ended, site.said, seconds=WITHIN)

    records = await site.records(target)
    steps = [record.step for record in records]
    assert steps[0] is Step.OPENED
    assert steps[-1] is Step.HEALED, site.said()
    done = [record.action.action for record in records if record.step is Step.ACTED and record.action is not None]
    assert done == ["memory.collect_garbage", "memory.restart_unit"]
    alerts = await site.alerts(target)
    assert [alert.state for alert in alerts] == [AlertState.OPENED, AlertState.RESOLVED]
    after = await site.machine.show("test-leaky", "InvocationID", "ActiveState", "NRestarts", "ControlGroup")
    assert (after["ActiveState"], after["NRestarts"]) == ("active", "0")
    assert after["InvocationID"] != before["InvocationID"]
    group = site.machine.cgroup("memory", after["ControlGroup"])
    version = 2 if memory_hierarchy().type == "cgroup2" else 1
    assert MemoryCgroup(group, version).oom_kills == 0

    trends = await site.trends(target)
    assert {trend.out_of_memory_kills for trend in trends} == {0}
    assert (trends[-1].level, trends[-1].instance) == (Level.OK, after["InvocationID"])

    for name in shapes:
        told = await site.trends(f"unit:{name}.service")
        assert told, name
        assert {trend.level for trend in told} == {Level.OK}, [trend for trend in told if trend.level is not Level.OK]
        assert {trend.trend for trend in told} <= {Trend.LEARNING, Trend.STEADY}
        assert await site.records(f"unit:{name}.service") == []
