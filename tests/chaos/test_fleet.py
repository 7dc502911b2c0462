"""Fifty hosts of one group: a storm stops them all, a few heal a few at a time, one alone waits for nobody."""

import asyncio
from datetime import timedelta

import pytest

from infra.hosts.function_host import FunctionHost
from schemas.alert import AlertState, Severity
from schemas.audit import Step
from schemas.health import Level
from tests.chaos.fleet_site import HOST, Effect, SetClock, Site, World, open_site
from tests.waiting import until

MINUTE_A_SECOND = 60
GATHER = timedelta(hours=1)
"""Time enough for all of them to say how they are; the test lets it pass."""
HOSTS = [f"web-{number:02}" for number in range(1, 51)]


@pytest.fixture
async def site(tmp_path):
    async with open_site(tmp_path) as made:
        yield made


class Group:
    """Hosts on shared connections, in worlds with one log."""

    def __init__(self, site: Site, **world: float) -> None:
        self.site = site
        self.clock = SetClock(MINUTE_A_SECOND)
        self.effects: list[Effect] = []
        self.worlds = {
            name: World(name, {"a": 8}, self.effects, clock=self.clock, **world)  # type: ignore[arg-type]
            for name in HOSTS
        }
        self.hosts: list[FunctionHost] = []

    async def start(self, **fleet: object) -> None:
        policy = {"group": "web", "default": {"fleet": fleet}}
        buses = [await self.site.join() for _ in range(5)]
        for number, world in enumerate(self.worlds.values()):
            self.hosts.append(await self.site.host(world, policy=policy, bus=buses[number % len(buses)]))

    async def fill(self, names: list[str], litres: int = 16) -> None:
        """They become unhealthy all at once, and their collectors say so."""
        for name in names:
            self.worlds[name].water["a"] = litres
        await asyncio.gather(*(self.site.report(host=name, at=self.clock.now()) for name in names))
        await until(lambda: self.unhealthy(len(names)))
        assert self.effects == [], "nobody acts before the others could say how they are"
        self.clock.advance(GATHER)

    async def mend(self, names: list[str]) -> None:
        """Somebody finds the cause, and the tanks empty by themselves."""
        for name in names:
            self.worlds[name].water["a"] = 8
        await asyncio.gather(
            *(self.site.report(host=name, at=self.clock.now(), level=Level.OK) for name in names)
        )  # fmt: skip

    async def refused_by_storm(self, names: list[str]) -> bool:
        return {record.host for record in await self.site.records(Step.REFUSED, rule="storm")} >= set(names)

    async def unhealthy(self, count: int) -> bool:
        return sum(incident.open for incident in await self.site.incidents()) == count


def most_at_once(effects: list[Effect]) -> int:
    """How many hosts acted at one moment, as the world saw it."""
    return max(
        len({other.host for other in effects if other.began <= each.began < other.ended}) for each in effects
    )  # fmt: skip


async def test_thirty_of_fifty_at_once_are_a_storm_that_stops_everybody_and_ends_by_itself(site):
    group = Group(site, takes=0.05)
    await group.start(gather=GATHER)
    unhealthy, mended = HOSTS[:30], HOSTS[:15]

    await group.fill(unhealthy)
    await until(lambda: group.refused_by_storm(unhealthy), lambda: group.effects)
    assert group.effects == []
    (storm,) = await site.alerts(AlertState.STORM)
    assert storm.severity is Severity.CRITICAL
    assert "of 50 hosts are unhealthy at once" in storm.title
    assert len(await site.records(Step.STORM)) == 1

    await group.mend(mended)
    await until(lambda: len(group.effects) == 30, lambda: group.effects)
    await until(lambda: group.unhealthy(0), lambda: group.effects)

    assert {effect.host for effect in group.effects} == set(unhealthy) - set(mended)
    assert len(set(group.effects)) == len({(effect.host, effect.name) for effect in group.effects})
    assert most_at_once(group.effects) <= 5, "a tenth of fifty"
    assert len(await site.alerts(AlertState.STORM)) == 1
    await until(lambda: site.alerts(AlertState.RESOLVED, saying="storm"))
    assert len(await site.alerts(AlertState.RESOLVED, saying="storm")) == 1
    assert (await site.verified(*HOSTS[:1])).problems == ()


@pytest.mark.parametrize(("share", "places"), [(0.02, 1), (0.05, 2)])
async def test_of_a_few_unhealthy_hosts_no_more_than_the_limit_act_at_any_moment_and_all_heal(site, share, places):
    group = Group(site, takes=0.1)
    await group.start(gather=GATHER, share=share)
    unhealthy = HOSTS[:3] if places == 1 else HOSTS[:8]

    await group.fill(unhealthy)
    await until(lambda: len(group.effects) == 2 * len(unhealthy), lambda: group.effects)
    await until(lambda: group.unhealthy(0), lambda: group.effects)

    assert most_at_once(group.effects) <= places
    assert {world.water["a"] for world in group.worlds.values()} <= {8, 10}
    assert len({(effect.host, effect.name) for effect in group.effects}) == 2 * len(unhealthy)
    waited = {record.host for record in await site.records(Step.DEFERRED, rule="fleet_share")}
    assert len(waited) >= 1, "somebody had to wait, else this proves nothing"


async def test_a_host_that_is_alone_in_its_group_waits_for_nobody(site):
    world = World(HOST, {"a": 16})
    await site.host(world, policy={"default": {"fleet": {"gather": GATHER}}})

    await site.report()

    await until(lambda: site.records(Step.HEALED))
    assert world.done == ["a from 16", "a from 13"]
    assert await site.records(Step.DEFERRED) == []
