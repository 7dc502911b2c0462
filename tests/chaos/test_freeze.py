"""The kill switch by file, key and command: three processes in the midst of long plans stop, and stay stopped."""

import json
import time
from collections import Counter

import pytest

from bus.port import Bucket
from bus.subjects import FREEZE
from schemas.audit import Step
from schemas.freeze import Freeze
from schemas.incident import IncidentState
from tests.chaos.fleet_site import LIMIT, STEP, Site, open_site
from tests.chaos.replicas import Replicas
from tests.waiting import until

TANKS = [f"tank{number}" for number in range(5)]
ACTIONS = 60
WITHIN = 2.0
"""Seconds in which a freeze stops new actions everywhere."""


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
    code, _, complained = await site.ansai("freeze", "on" if on else "off", "--reason", "storage is being moved")
    assert code == 0, complained


async def acting(site: Site) -> int:
    return sum(incident.state is IncidentState.ACTING for incident in await site.incidents())


async def refused_by_freeze(site: Site, target: str) -> bool:
    return target in {record.target for record in await site.records(Step.REFUSED, rule="freeze")}


def acted(replicas: Replicas, before: int) -> bool:
    """Something new has been done about more than one tank."""
    return len({effect.tank for effect in replicas.effects[before:]}) > 1


async def test_each_switch_stops_three_processes_in_mid_plan_and_when_it_is_lifted_everything_goes_on(site):
    replicas = Replicas(site, {}, takes=0.05)
    for tank in TANKS:
        replicas.world.fill(tank, LIMIT + ACTIONS * STEP)
    for number in range(3):
        replicas.world.fill(f"later{number}", LIMIT)
    await replicas.start()
    for tank in TANKS:
        await site.report(f"tank:{tank}")

    for number, switch in enumerate((by_file, by_key, by_command)):
        before = len(replicas.effects)
        await until(lambda: acted(replicas, before), lambda: replicas.said)  # noqa: B023
        await switch(site, True)
        frozen = time.monotonic()
        await until(lambda: _nobody_acts(site), lambda: replicas.said)
        done = replicas.effects
        assert max(effect.began for effect in done) < frozen + WITHIN
        assert len(done) < ACTIONS * len(TANKS), "it was in the midst of it"

        later = f"later{number}"
        replicas.world.fill(later, LIMIT + STEP)
        await site.report(f"tank:{later}")
        await until(lambda: refused_by_freeze(site, f"tank:{later}"), lambda: replicas.said)  # noqa: B023
        if switch is by_key:
            await restart_everything(site, replicas)
        assert replicas.effects == done
        await switch(site, False)

    await until(lambda: _all_closed(site), lambda: replicas.said)
    await replicas.stop()
    wanted = [f"{tank} from {level}" for tank in TANKS for level in range(LIMIT + ACTIONS * STEP, LIMIT, -STEP)]
    wanted += [f"later{number} from {LIMIT + STEP}" for number in range(3)]
    assert Counter(effect.name for effect in replicas.effects) == Counter(wanted)
    assert len(await site.records(Step.FROZEN)) == len(await site.records(Step.THAWED)) == 1, "those of the command"
    assert (await site.verified()).problems == ()


async def restart_everything(site: Site, replicas: Replicas) -> None:
    """And let everybody look at everything again."""
    await replicas.stop()
    await site.server.stop()
    await site.server.start()
    await replicas.start()
    for tank in replicas.world.tanks():
        await site.report(f"tank:{tank}")
    await until(site.answered, lambda: replicas.said)


async def _nobody_acts(site: Site) -> bool:
    return await acting(site) == 0


async def _all_closed(site: Site) -> bool:
    return all(incident.state is IncidentState.CLOSED for incident in await site.incidents())


async def test_the_command_freezes_a_host_whose_bus_is_down_and_says_that_only_this_one_is(site):
    replicas = Replicas(site, {}, count=1)
    replicas.world.fill("a", LIMIT + STEP)
    await replicas.start()
    await site.server.stop()

    code, _, complained = await site.ansai("freeze", "on", "--reason", "the network is down")
    assert code == 1
    assert "only this host is frozen" in complained
    await site.server.start()
    await site.report("tank:a")
    await until(lambda: refused_by_freeze(site, "tank:a"), lambda: replicas.said)
    code, said, complained = await site.ansai("freeze", "status", "--json")
    assert code == 0, complained
    assert json.loads(said)["frozen"] is True
    assert replicas.effects == []

    code, _, complained = await site.ansai("freeze", "off")
    assert code == 0, complained
    await until(lambda: replicas.world.level("a") == LIMIT, lambda: replicas.said)
    await replicas.stop()
    assert [effect.name for effect in replicas.effects] == [f"a from {LIMIT + STEP}"]
