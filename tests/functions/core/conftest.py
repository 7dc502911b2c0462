"""Plants that are stopped afterwards, and what a test does with one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta

import pytest

from tests.functions.core.tank import Plant


async def settled(condition: Callable[[], object]) -> None:
    """Let the engine's own tasks run until *condition* holds; its threads take real moments."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def passed(plant: Plant, duration: timedelta, condition: Callable[[], object]) -> None:
    """Let time pass, timer by timer, until *condition* holds. Fails when it does not within *duration*."""
    left = duration
    async with asyncio.timeout(20):
        while not condition():
            if not plant.busy() and plant.clock.waiting():
                step = plant.clock.next_wake() + timedelta(milliseconds=1)
                assert step <= left, f"nothing of the kind within {duration}; told were {plant.story.steps}"
                left -= step
                plant.clock.advance(step)
            await asyncio.sleep(0.001)


async def quiet(plant: Plant) -> None:
    """Until the engine works on nothing: it waits for time to pass, or for an event."""
    await settled(lambda: not plant.busy())


@pytest.fixture
async def plants() -> AsyncIterator[Callable[..., Plant]]:
    made: list[Plant] = []

    def build(*args: object, **kwargs: object) -> Plant:
        made.append(Plant(*args, **kwargs))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for plant in made:
        for engine in plant.engines:
            await engine.stop()
