"""The settings file is followed while a station runs: what changed is in force from the next event on."""

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from infra.configuration import Loaded
from infra.configuration.reload import ConfigurationWatch
from infra.hosts.station import Station


@asynccontextmanager
async def live_reload(
    running: Station, loaded: Loaded, path: str | None, options: Mapping[str, str | None]
) -> AsyncIterator[None]:
    """Follow what *loaded* was read from, with the same *path* and *options*; SIGHUP reads it at once."""
    watch = ConfigurationWatch(loaded, path, options, changed=running.reconfigure, broken=running.keep)
    loop, watching = asyncio.get_running_loop(), asyncio.create_task(watch.run())
    loop.add_signal_handler(signal.SIGHUP, watch.wake)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        watching.cancel()
        await asyncio.wait({watching})
