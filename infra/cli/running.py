"""Commands that run until they are stopped: Ctrl-C or SIGTERM ends them cleanly, a second one at once."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

Answer = TypeVar("Answer")

STOPPING = (signal.SIGINT, signal.SIGTERM)


def run(main: Callable[[asyncio.Event], Awaitable[Answer]]) -> Answer:
    """Run *main* with an event that is set when the process is asked to stop; return what it returns."""

    async def supervised() -> Answer:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()

        def asked_to_stop() -> None:
            stop.set()
            for number in STOPPING:  # a second one has its usual effect
                loop.remove_signal_handler(number)

        for number in STOPPING:
            loop.add_signal_handler(number, asked_to_stop)
        try:
            return await main(stop)
        finally:
            for number in STOPPING:
                loop.remove_signal_handler(number)

    return asyncio.run(supervised())


async def until(stop: asyncio.Event, work: Awaitable[Answer]) -> Answer | None:
    """The answer of *work*; None when *stop* comes first, and then the work is cancelled."""
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        return None
    finally:
        stopping.cancel()
