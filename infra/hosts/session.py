"""A connection to the bus for as long as a command needs it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from bus.port import Unavailable
from schemas.settings.bus import BusSettings

if TYPE_CHECKING:
    from bus.jetstream import JetStreamBus


@asynccontextmanager
async def session(settings: BusSettings, name: str, *, start: bool = False) -> AsyncIterator[JetStreamBus]:
    """The bus that `bus.url` names; without one the embedded server's.

    *start*: start that server when it does not run, and end it with the session. Otherwise raises Unavailable.
    Raises BusError.
    """
    async with AsyncExitStack() as stack:
        url = settings.url
        if url is None:
            if not start and not embedded_runs(settings):
                raise Unavailable(
                    "no bus: no embedded server runs here and bus.url is not set;"
                    " start one with: ansai up, or name one with --bus nats://HOST:4222"
                )
            from bus.embedded import EmbeddedServer  # not needed by those who have a server

            server = await stack.enter_async_context(EmbeddedServer(settings.embedded))
            url = server.url
        from bus.jetstream import connect  # nor is the client by those who have none

        bus = await connect(settings, name=name, url=url)
        stack.push_async_callback(bus.close)
        yield bus


def embedded_runs(settings: BusSettings) -> bool:
    """Whether some process holds the embedded server's directory."""
    try:
        lock = os.open(settings.embedded.directory / "lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False
