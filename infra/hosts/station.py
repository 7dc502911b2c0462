"""Everything that runs on one host, put together: bus, spool, functions, collectors; stopped in reverse order."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from bus import subjects
from bus.jetstream import JetStreamBus
from bus.spool import Spool
from functions.core.remedy import AnyRemedy
from infra.hosts.beat import FunctionBeat
from infra.hosts.claim import claim, machine_id
from infra.hosts.function_host import FunctionHost, Machine, process_name
from infra.hosts.local import machine_of
from infra.hosts.session import session
from schemas.settings.bus import state_directory
from schemas.settings.root import Configuration

if TYPE_CHECKING:
    from collectors.core.collector import AnyCollector
    from collectors.core.run import CollectorRun

logger = logging.getLogger(__name__)


@dataclass
class Station:
    """What is running."""

    bus: JetStreamBus
    functions: FunctionHost | None = None
    collectors: list[CollectorRun[Any, Any, Any]] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Functions and collectors."""
        return [*(self.functions.functions if self.functions else ()), *(run.name for run in self.collectors)]


@asynccontextmanager
async def station(
    configuration: Configuration,
    host: str,
    remedies: Sequence[AnyRemedy],
    collectors: Sequence[AnyCollector],
    *,
    everything: bool = False,
    machine: Machine | None = None,
) -> AsyncIterator[Station]:
    """Run *remedies* and *collectors* as *host* for as long as the context lasts. Raises BusError, BadSubject.

    *everything*: this is all that runs here: its own bus is started when none is configured, and triggers for
    functions that nobody has become dead letters. *machine*: what may be read and changed, by default this one.
    """
    subjects.host_token(host)
    async with AsyncExitStack() as stack:
        name = (
            "ansai-up"
            if everything
            else f"ansai-{process_name([*(each.name for each in remedies), *(each.name for each in collectors)])}"
        )
        bus = await stack.enter_async_context(session(configuration.bus, name, start=everything))
        await claim(bus, host, machine_id())
        spool = Spool(bus, configuration.bus.spool, name)
        await spool.open()
        stack.push_async_callback(spool.close)
        running = Station(bus)
        machine = machine or machine_of(configuration, host)
        if remedies:
            running.functions = FunctionHost(remedies, configuration, bus, spool, machine, every_trigger=everything)
            stack.push_async_callback(running.functions.stop)
            await running.functions.start()
            beat = FunctionBeat(running.functions, bus, host, own_version())
            stack.push_async_callback(beat.stop)
            beat.start()
        if collectors:
            running.collectors = _collect(collectors, configuration, host, machine, spool)
            for run in running.collectors:
                stack.push_async_callback(run.stop)
                run.start()
        logger.info("running on %s as %s: %s", bus.url, host, ", ".join(running.names))
        yield running
        logger.info("stopping")


def _collect(
    collectors: Sequence[AnyCollector], configuration: Configuration, host: str, machine: Machine, spool: Spool
) -> list[CollectorRun[Any, Any, Any]]:
    from collectors.core.run import CollectorRun  # a process that runs functions only has no need of it
    from infra.hosts.outlet import BusOutlet

    outlet = BusOutlet(spool, host)
    return [
        CollectorRun(
            collector, getattr(configuration, collector.section_name), machine.probes, outlet, host,
            directory=state_directory() / "collectors", version=own_version(),
        )
        for collector in collectors
    ]  # fmt: skip


def own_version() -> str:
    """That of the installed package; empty in a checkout that is not installed."""
    try:
        return version("ansai")
    except PackageNotFoundError:
        return ""
