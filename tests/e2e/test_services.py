"""Real units under a real systemd crash, and `ansai run` brings them back; nothing that somebody stopped is touched."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from schemas.alert import AlertState
from schemas.audit import Step
from schemas.health import Level
from schemas.services import ServiceState
from tests.e2e.service_site import ServiceSite, service_site
from tests.systemd import Machine
from tests.waiting import until

SETTINGS = {
    "policy": {"mode": "auto", "default": {"confirmation": {"needed": 1, "of": 1}, "second_source": False}},
    "service_monitoring": {
        "units": ["test-*.service"], "every": "200 ms", "settle": "500 ms", "stable_for": "1 s", "steady_every": "1 s",
    },
}  # fmt: skip
RUNS = f'exec "{sys.executable}" -c "import time; time.sleep(3600)"'


@pytest.fixture
async def site(machine: Machine, tmp_path: Path) -> AsyncIterator[ServiceSite]:
    async with service_site(machine, tmp_path) as made:
        yield made


async def test_a_crashed_unit_runs_again_and_one_that_was_stopped_or_masked_does_not(site: ServiceSite):
    names = ("test-crashed", "test-stopped", "test-masked", "test-healthy")
    for name in names:
        await site.service(name, RUNS)
    await site.machine.systemctl("start", *names)
    await site.run(SETTINGS, "services.state", "services.restart_failed")

    async def seen() -> bool:
        return all([await site.told(ServiceState, f"unit:{name}.service") for name in names])

    await until(seen, site.said)

    await site.machine.systemctl("stop", "test-stopped", "test-masked")
    await site.machine.systemctl("mask", "test-masked")
    await site.machine.systemctl("kill", "--signal=SIGKILL", "test-crashed")

    crashed = "unit:test-crashed.service"

    async def healed() -> bool:
        return any(record.step is Step.HEALED for record in await site.records(crashed))

    await until(healed, site.said)
    states = {name: (await site.machine.show(name, "ActiveState"))["ActiveState"] for name in names}
    assert states == {
        "test-crashed": "active", "test-stopped": "inactive", "test-masked": "inactive", "test-healthy": "active",
    }  # fmt: skip
    done = [record.action.action for record in await site.records(crashed) if record.step is Step.ACTED]
    assert done == ["services.start"]
    assert [alert.state for alert in await site.alerts(crashed)] == [AlertState.OPENED, AlertState.RESOLVED]
    for name in names[1:]:
        assert await site.records(f"unit:{name}.service") == []

    async def told() -> bool:
        last = (await site.told(ServiceState, "unit:test-stopped.service"))[-1]
        return (last.level, last.stopped_on_purpose) == (Level.OK, True)

    await until(told, site.said)


async def test_a_unit_that_fails_again_is_left_to_a_person_who_is_told_what_to_do(site: ServiceSite):
    await site.service("test-broken", "exit 3")
    await site.machine.systemctl("start", "test-broken", check=False)
    broken = "unit:test-broken.service"

    policy = {**SETTINGS["policy"], "functions": {"services.restart_failed": {"max_attempts": 1}}}
    await site.run({**SETTINGS, "policy": policy}, "services.state", "services.restart_failed")

    async def stuck() -> bool:
        return any(record.step is Step.STUCK for record in await site.records(broken))

    await until(stuck, site.said)
    texts = " ".join(f"{alert.title} {alert.next} {alert.report}" for alert in await site.alerts(broken))
    assert "systemctl status test-broken.service" in texts
    assert "ansai trigger services.restart_failed --target unit:test-broken.service --live" in texts
