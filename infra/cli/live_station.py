"""What the long-running commands have in common: a station that follows its settings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from infra.hosts.live_reload import live_reload
from infra.hosts.station import Station, station

if TYPE_CHECKING:
    from collectors.core.collector import AnyCollector
    from functions.core.remedy import AnyRemedy
    from infra.cli.invocation import Invocation


@asynccontextmanager
async def live_station(
    asked: Invocation, remedies: Sequence[AnyRemedy], collectors: Sequence[AnyCollector], *, everything: bool = False
) -> AsyncIterator[Station]:
    """Run them as configured, also when the settings change. *everything* and what it raises: as for `station`."""
    async with (
        station(asked.configuration, asked.host_name, remedies, collectors, everything=everything) as running,
        live_reload(running, asked.loaded, asked.config, asked.options),
    ):
        yield running
