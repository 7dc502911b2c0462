"""Functions and collectors as `ansai run` runs them, on a clock that may be fast.

    python tests/programs/station.py CONFIGURATION HOST SCALE NAME...

CONFIGURATION is an ansai.yaml; a SCALE of 60 makes a minute a second. Until SIGTERM.
"""

import asyncio
import logging
import signal
import sys
from pathlib import Path

from collectors import registry as collectors
from functions import registry as functions
from infra.configuration import load
from infra.hosts.station import station
from schemas.clock import SystemClock


async def run(configuration: Path, host: str, scale: float, names: list[str]) -> None:
    settings = load(str(configuration), {})
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    remedies = [functions.load(name) for name in names if name in functions.names()]
    eyes = [collectors.load(name) for name in names if name in collectors.names()]
    async with station(settings, host, remedies, eyes, clock=SystemClock(scale)):
        print("ready", flush=True)  # whoever started it waits for this
        await stop.wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(run(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4:]))
