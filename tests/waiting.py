"""Tests wait for conditions, never for time to pass."""

import asyncio
from collections.abc import Callable
from typing import Any

PATIENCE = 60.0
"""Seconds for what must come, on a machine that does much else."""


async def until(
    condition: Callable[[], Any], what: Callable[[], object] = lambda: "", seconds: float = PATIENCE
) -> Any:
    """Wait for *condition*, plain or a coroutine function, to answer something true; return its answer."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                answer = condition()
                if asyncio.iscoroutine(answer):
                    answer = await answer
                if answer:
                    return answer
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"{condition} did not come true within {seconds:g} s: {what()}") from None
