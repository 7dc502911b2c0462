"""The kill switch, by file, by key and by command: three processes in the midst of long plans stop, and stay stopped."""

import asyncio
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from bus.port import Bucket
from bus.subjects import FREEZE
from schemas.audit import Step
from schemas.freeze import Freeze
from schemas.incident import IncidentState
from tests.chaos.fleet_site import LIMIT, STEP, Site, open_site, until
from tests.chaos.replicas import REPOSITORY, Replicas

TANKS = [f"tank{number}" for number in range(6)]
LATER = "later"
"""A tank that gets full while everything is frozen."""
ACTIONS = 60
WITHIN = 2.0
"""Seconds in which a freeze stops new actions everywhere."""

Switch = Callable[[bool], Awaitable[None]]


@pytest.fixture
async def site(tmp_path):
    async with open_site(tmp_path) as made:
        yield made


async def by_file(site: Site, on: bool) -> None:
    if on:
        site.freeze_file.touch()
    else:
        site.freeze_file.unlink()


async def by_key(site: Site, on: bool) -> None:
    bucket = await site.bucket(Bucket.FLEET)
    if on:
        await bucket.create(FREEZE, Freeze(reason="a test", who="anna").model_dump_json().encode())
    else:
        await bucket.delete(FREEZE)


async def by_command(site: Site, on: bool) -> None:
    code, said = await ansai(site, "freeze", "on" if on else "off", "--reason", "storage is being moved")
    assert code == 0, said


async def ansai(site: Site, *arguments: str) -> tuple[int, str]:
    """Run the command line with settings of this site only."""
    home = site.directory / "operator"
    home.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSAI_", "XDG_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "infra.cli.main", *arguments, cwd=home, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env=kept | {
            "HOME": str(home), "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "error",
            "ANSAI_BUS__URL": site.server.url, "ANSAI_POLICY__FREEZE_FILE": str(site.freeze_file),
        },
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def acting(site: Site) -> int:
    return sum(incident.state is IncidentState.ACTING for incident in await site.incidents())


async def refused_by_freeze(site: Site, target: str) -> bool:
    return target in {record.target for record in await site.records(Step.REFUSED, rule="freeze")}


def acted(replicas: Replicas, tanks: list[str]) -> bool:
    """More has been done about each of them."""
    return {effect.tank for effect in replicas.effects} >= set(tanks)


@pytest.mark.parametrize("switch", [by_file, by_key, by_command], ids=["file", "key", "command"])
async def test_a_freeze_stops_three_processes_in_mid_plan_survives_all_restarts_and_then_everything_goes_on(
    site, switch
):
    replicas = Replicas(site, {}, takes=0.05)
    for tank in TANKS:
        replicas.world.fill(tank, LIMIT + ACTIONS * STEP)
    replicas.world.fill(LATER, LIMIT)
    await replicas.start()
    for tank in TANKS:
        await site.report(f"tank:{tank}")
    await until(lambda: acted(replicas, TANKS), lambda: replicas.said)

    await switch(site, True)
    frozen = time.monotonic()
    await until(lambda: _nobody_acts(site), lambda: replicas.said)
    done = replicas.effects
    assert max(effect.began for effect in done) < frozen + WITHIN
    assert len(done) < ACTIONS * len(TANKS), "it was in the midst of it"

    replicas.world.fill(LATER, LIMIT + STEP)
    await site.report(f"tank:{LATER}")
    await until(lambda: refused_by_freeze(site, f"tank:{LATER}"), lambda: replicas.said)
    await replicas.stop()
    await site.server.stop()
    await site.server.start()
    await replicas.start()
    for tank in [*TANKS, LATER]:
        await site.report(f"tank:{tank}")
    await until(site.answered, lambda: replicas.said)
    assert replicas.effects == done

    await switch(site, False)
    await until(lambda: _all_well(replicas), lambda: replicas.said)
    await until(lambda: _all_closed(site), lambda: replicas.said)
    await replicas.stop()

    wanted = [f"{tank} from {level}" for tank in TANKS for level in range(LIMIT + ACTIONS * STEP, LIMIT, -STEP)]
    assert Counter(effect.name for effect in replicas.effects) == Counter([*wanted, f"{LATER} from {LIMIT + STEP}"])
    assert (await site.verified()).problems == ()


async def _nobody_acts(site: Site) -> bool:
    return await acting(site) == 0


def _all_well(replicas: Replicas) -> bool:
    return all(replicas.world.level(tank) <= LIMIT for tank in [*TANKS, LATER])


async def _all_closed(site: Site) -> bool:
    return all(incident.state is IncidentState.CLOSED for incident in await site.incidents())


async def test_the_command_freezes_a_host_whose_bus_is_down_and_says_that_only_this_one_is(site):
    replicas = Replicas(site, {}, count=1)
    replicas.world.fill("a", LIMIT + STEP)
    await replicas.start()
    await site.server.stop()

    code, said = await ansai(site, "freeze", "on", "--reason", "the network is down")
    assert code == 1
    assert "only this host is frozen" in said
    await site.server.start()
    await site.report("tank:a")
    await until(lambda: refused_by_freeze(site, "tank:a"), lambda: replicas.said)
    code, said = await ansai(site, "freeze", "status", "--json")
    assert code == 0, said
    assert json.loads(said)["frozen"] is True
    assert replicas.effects == []

    code, said = await ansai(site, "freeze", "off")
    assert code == 0, said
    await until(lambda: replicas.world.level("a") == LIMIT, lambda: replicas.said)
    await replicas.stop()
    assert [effect.name for effect in replicas.effects] == [f"a from {LIMIT + STEP}"]
