"""A thousand copies of health events in any order, at three replicas that are restarted, over a broker that is too."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from bus import subjects
from bus.port import Bucket
from functions.core.execution import STOPPED
from schemas.audit import Step
from schemas.envelope import Event
from schemas.fleet import Member
from schemas.health import Level
from schemas.incident import IncidentState
from tests.chaos.fleet_site import (
    FUNCTION,
    HOST,
    LIMIT,
    STEP,
    Effect,
    SetClock,
    Site,
    World,
    draining,
    health,
    open_site,
)
from tests.chaos.replicas import Replicas
from tests.functions.core.tank import TankHealth
from tests.waiting import until

COOLDOWN = timedelta(seconds=3)
SEED = 20261124
TANKS = [f"tank{number:02}" for number in range(20)]
TWO_WINDOWS = TANKS[4::5]
"""They need two attempts of two actions, with a cooldown between them; two actions heal the others."""
SPREAD = 6.0
"""Seconds over which they come, at least: the restarts fall into them."""
EVENTS, COPIES = 10, 5
"""Of each tank: so many events, each of them so often. Together a thousand."""


@pytest.fixture
async def site(tmp_path):
    async with open_site(tmp_path) as made:
        yield made


def events() -> list[Event[TankHealth]]:
    """Of one tank after the other, but for each copy that may come before or after those of its eight neighbours."""
    now, chance = datetime.now(UTC), random.Random(SEED)
    made = []
    for place, tank in enumerate(TANKS):
        for number in range(EVENTS):
            # The first says that it was well then, as it was.
            level = Level.OK if number == 0 else (Level.WARNING, Level.CRITICAL, Level.EMERGENCY)[number % 3]
            event = health(f"tank:{tank}", level, now - timedelta(seconds=EVENTS - number))
            made += [(place + chance.uniform(-4, 4), event) for _ in range(COPIES)]
    return [event for _, event in sorted(made, key=lambda pair: pair[0])]


async def publish(site: Site, copies: Sequence[Event[TankHealth]]) -> None:
    """Over some seconds; under ids of their own, so that the server takes none of them for one that it has already."""
    for number, event in enumerate(copies):
        subject = subjects.health(HOST, "water", "level", event.data.target)
        await site.bus.publish(subject, event.body(), message_id=f"{SEED}-{number}")
        await asyncio.sleep(SPREAD / len(copies))


async def test_a_thousand_events_restarts_of_the_replicas_and_of_the_broker_are_one_set_of_actions_a_window(site):
    limits = {"cooldown": COOLDOWN, "max_cooldown": COOLDOWN, "max_attempts": 10}
    replicas = Replicas(site, {"default": limits}, actions=2, takes=0.05)
    for tank in TANKS:
        replicas.world.fill(tank, LIMIT + sets(tank) * 2 * STEP)
    await replicas.start()
    copies = events()
    assert len(copies) == 1000

    async def restart(number: int) -> None:
        assert await replicas.all[number].stop() == 0, replicas.said
        await replicas.all[number].start()

    publishing = asyncio.create_task(publish(site, copies))
    for number in range(3):
        await restart(number)
    stopped = time.monotonic()
    await site.server.stop()
    await site.server.start()
    started = time.monotonic()
    await publishing
    await until(lambda: healed(replicas), lambda: replicas.said)
    await until(site.answered, lambda: replicas.said)
    await replicas.stop()

    effects = replicas.effects
    wanted = Counter(
        f"{tank} from {level}" for tank in TANKS for level in range(LIMIT + sets(tank) * 2 * STEP, LIMIT, -STEP)
    )
    assert Counter(effect.name for effect in effects) == wanted
    assert not overlapping(effects)
    incidents = await site.incidents()
    assert {incident.state for incident in incidents} == {IncidentState.CLOSED}
    assert len(incidents) == len(TANKS)
    assert any(effect.began < stopped for effect in effects)
    assert any(effect.began > started for effect in effects), (
        "there was work before and after, else this proves nothing"
    )
    entry = await (await site.bucket(Bucket.FLEET)).get(subjects.group_key("member", "default", FUNCTION, HOST))
    assert entry is not None
    assert Member.model_validate_json(entry.value).unhealthy_since is None
    story = await site.records()
    assert len({record.emitter for record in story}) >= 3, "everybody took part, else this proves nothing"
    for tank in TANKS:
        steps = Counter(record.step for record in story if record.target == f"tank:{tank}")
        assert (steps[Step.OPENED], steps[Step.HEALED]) == (1, 1)
    for tank in TWO_WINDOWS:
        assert_apart([record for record in story if record.target == f"tank:{tank}"])
    assert (await site.verified()).problems == ()


def sets(tank: str) -> int:
    return 2 if tank in TWO_WINDOWS else 1


def healed(replicas: Replicas) -> bool:
    return all(replicas.world.level(tank) <= LIMIT for tank in TANKS)


def overlapping(effects: list[Effect]) -> list[tuple[Effect, Effect]]:
    """Two actions on one tank at one moment."""
    return [
        (one, two)
        for one in effects
        for two in effects
        if one is not two and one.tank == two.tank and one.began <= two.began < one.ended
    ]


def assert_apart(story: list) -> None:
    """After an attempt that ended without healing the next one begins a cooldown later; a cut-off one is none."""
    began = None
    for record in story:
        if record.step is Step.PLANNED:
            if began is not None:
                assert record.at - began >= COOLDOWN - timedelta(milliseconds=200)
            began = record.at
        elif record.step is Step.RECOVERED or (record.step is Step.UNHEALED and STOPPED in record.text):
            began = None


async def test_an_old_event_that_comes_late_does_not_end_an_incident_and_a_new_one_does(site, monkeypatch):
    monkeypatch.setattr("functions.core.engine.BUSY", timedelta(milliseconds=200))
    world = World(HOST, {"a": 22}, clock=SetClock(0.001))
    await site.host(world, draining(actions=2), policy={"default": {"cooldown": "15 minutes"}})
    minute = timedelta(minutes=1)
    await site.report(at=world.clock.now())
    await until(lambda: site.records(Step.UNHEALED))

    await site.report(at=world.clock.now() - minute, level=Level.OK)
    await until(site.answered)
    assert [incident.state for incident in await site.incidents()] == [IncidentState.OPEN]

    world.clock.advance(minute)
    await site.report(at=world.clock.now(), level=Level.OK)
    await until(lambda: site.records(Step.HEALED))
    assert [incident.state for incident in await site.incidents()] == [IncidentState.CLOSED]
    assert world.done == ["a from 22", "a from 19"]
