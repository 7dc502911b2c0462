"""A thousand copies of health events in any order, at three replicas that are restarted, over a broker that is too."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from bus import subjects
from functions.core.execution import STOPPED
from schemas.audit import Step
from schemas.envelope import Event
from schemas.health import Level
from schemas.incident import IncidentState
from tests.chaos.fleet_site import HOST, LIMIT, STEP, Effect, Site, health, open_site, until
from tests.chaos.replicas import Replicas
from tests.functions.core.tank import TankHealth

COOLDOWN = timedelta(seconds=3)
SEED = 20261124
ONE_WINDOW = [f"tank{number:02}" for number in range(16)]
"""Two actions heal them."""
TWO_WINDOWS = [f"tank{number:02}" for number in range(16, 20)]
"""They need two attempts of two actions, with a cooldown between them."""
EVENTS, COPIES = 10, 5
"""Of each tank: so many events, each of them so often. Together a thousand."""


@pytest.fixture
async def site(tmp_path):
    async with open_site(tmp_path) as made:
        yield made


def events() -> list[Event[TankHealth]]:
    """In no order at all; the first of each tank says that it was well then, as it was."""
    now = datetime.now(UTC)
    made = []
    for tank in ONE_WINDOW + TWO_WINDOWS:
        for number in range(EVENTS):
            level = Level.OK if number == 0 else (Level.WARNING, Level.CRITICAL, Level.EMERGENCY)[number % 3]
            made.append(health(f"tank:{tank}", level, now - timedelta(seconds=EVENTS - number)))
    copies = made * COPIES
    random.Random(SEED).shuffle(copies)
    return copies


async def publish(site: Site, some: Sequence[Event[TankHealth]], begin: int) -> None:
    """Under ids of their own, so that the server takes none of them for one that it has already."""
    await asyncio.gather(
        *(
            site.bus.publish(
                subjects.health(HOST, "water", "level", event.data.target), event.body(), message_id=f"{SEED}-{number}"
            )
            for number, event in enumerate(some, begin)
        )
    )


async def test_a_thousand_events_restarts_of_the_replicas_and_of_the_broker_are_one_set_of_actions_a_window(site):
    limits = {"cooldown": COOLDOWN, "max_cooldown": COOLDOWN, "max_attempts": 10}
    replicas = Replicas(site, {"default": limits}, actions=2, takes=0.05)
    for tank in ONE_WINDOW:
        replicas.world.fill(tank, LIMIT + 2 * STEP)
    for tank in TWO_WINDOWS:
        replicas.world.fill(tank, LIMIT + 4 * STEP)
    await replicas.start()
    copies = events()
    assert len(copies) == 1000

    async def restart(number: int) -> None:
        assert await replicas.all[number].stop() == 0, replicas.said
        await replicas.all[number].start()

    for part in range(5):
        publishing = asyncio.create_task(publish(site, copies[part * 200 : part * 200 + 200], part * 200))
        if part < 3:
            await restart(part)
        elif part == 3:
            await site.server.stop()
            await site.server.start()
        await publishing
    await until(lambda: healed(replicas), lambda: replicas.said)
    await until(site.answered, lambda: replicas.said)
    await replicas.stop()

    effects = replicas.effects
    wanted = Counter(
        f"{tank} from {level}"
        for tanks, sets in ((ONE_WINDOW, 1), (TWO_WINDOWS, 2))
        for tank in tanks
        for level in range(LIMIT + sets * 2 * STEP, LIMIT, -STEP)
    )
    assert Counter(effect.name for effect in effects) == wanted
    assert not overlapping(effects)
    incidents = await site.incidents()
    assert {incident.state for incident in incidents} == {IncidentState.CLOSED}
    assert len(incidents) == len(ONE_WINDOW + TWO_WINDOWS)
    story = await site.records()
    assert len({record.emitter for record in story}) >= 3, "everybody took part, else this proves nothing"
    for tank in ONE_WINDOW + TWO_WINDOWS:
        steps = Counter(record.step for record in story if record.target == f"tank:{tank}")
        assert (steps[Step.OPENED], steps[Step.HEALED]) == (1, 1)
    for tank in TWO_WINDOWS:
        assert_apart([record for record in story if record.target == f"tank:{tank}"])
    assert (await site.verified()).problems == ()


def healed(replicas: Replicas) -> bool:
    return all(replicas.world.level(tank) <= LIMIT for tank in ONE_WINDOW + TWO_WINDOWS)


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
