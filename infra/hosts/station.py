"""Everything that runs on one host, put together: bus, spool, functions, collectors; stopped in reverse order."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
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
from schemas.clock import Clock
from schemas.settings.bus import state_directory
from schemas.settings.root import Configuration

if TYPE_CHECKING:
    from collectors.core.collector import AnyCollector
    from collectors.core.run import CollectorRun

logger = logging.getLogger(__name__)


AT_START = ("bus", "host", "custom_actions")
"""Sections that are read when a process starts, and not again."""


@dataclass
class Station:
    """What is running."""

    bus: JetStreamBus
    configuration: Configuration
    new_collector: Callable[[AnyCollector, Configuration], CollectorRun[Any, Any, Any]]
    functions: FunctionHost | None = None
    collectors: list[CollectorRun[Any, Any, Any]] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Functions and collectors."""
        return [*(self.functions.functions if self.functions else ()), *(run.name for run in self.collectors)]

    async def reconfigure(self, configuration: Configuration, sections: frozenset[str]) -> None:
        """Put what changed in *sections* in force, but for what is only read at the start: that is said."""
        before = self.configuration
        late = [name for name in AT_START if name in sections]
        if (before.policy.group, before.policy.freeze_file) != (
            configuration.policy.group,
            configuration.policy.freeze_file,
        ):
            late.append("policy.group and policy.freeze_file")
        if late:
            logger.warning("restart to put in force what changed in: %s", ", ".join(late))
        kept = {"group": before.policy.group, "freeze_file": before.policy.freeze_file}
        policy = configuration.policy.model_copy(update=kept)
        self.configuration = configuration.model_copy(update={"policy": policy, "bus": before.bus, "host": before.host})
        if self.functions is not None:
            await self.functions.reconfigure(self.configuration)
        for place, run in enumerate(self.collectors):
            if run.collector.section_name in sections:
                await run.stop()
                self.collectors[place] = self.new_collector(run.collector, self.configuration)
                self.collectors[place].start()

    async def keep(self, why: str) -> None:
        """The settings on disk are broken."""
        if self.functions is not None:
            await self.functions.keep(why)

    async def stop_collectors(self) -> None:
        for run in self.collectors:
            await run.stop()


@asynccontextmanager
async def station(
    configuration: Configuration,
    host: str,
    remedies: Sequence[AnyRemedy],
    collectors: Sequence[AnyCollector],
    *,
    everything: bool = False,
    machine: Machine | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Station]:
    """Run *remedies* and *collectors* as *host* for as long as the context lasts. Raises BusError, BadSubject.

    *everything*: this is all that runs here: its own bus is started when none is configured, and triggers for
    functions that nobody has become dead letters. *machine*: what may be read and changed, by default this one.
    *clock*: by default the system's.
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
        machine = machine or machine_of(configuration, host)
        running = Station(
            bus, configuration, partial(_collector_run, host=host, machine=machine, spool=spool, clock=clock)
        )
        if remedies:
            running.functions = FunctionHost(
                remedies,
                configuration,
                bus,
                spool,
                machine,
                every_trigger=everything,
                version=own_version(),
                clock=clock,
            )
            stack.push_async_callback(running.functions.stop)
            await running.functions.start()
            beat = FunctionBeat(running.functions, bus, host, own_version())
            stack.push_async_callback(beat.stop)
            beat.start()
        stack.push_async_callback(running.stop_collectors)
        for collector in collectors:
            running.collectors.append(running.new_collector(collector, configuration))
            running.collectors[-1].start()
        logger.info("running on %s as %s: %s", bus.url, host, ", ".join(running.names))
        yield running
        logger.info("stopping")


def _collector_run(
    collector: AnyCollector,
    configuration: Configuration,
    *,
    host: str,
    machine: Machine,
    spool: Spool,
    clock: Clock | None,
) -> CollectorRun[Any, Any, Any]:
    from collectors.core.run import CollectorRun  # a process that runs functions only has no need of it
    from infra.hosts.outlet import BusOutlet

    return CollectorRun(
        collector, getattr(configuration, collector.section_name), machine.probes, BusOutlet(spool, host), host,
        directory=state_directory() / "collectors", version=own_version(), clock=clock,
    )  # fmt: skip


def own_version() -> str:
    """That of the installed package; empty in a checkout that is not installed."""
    try:
        return version("ansai")
    except PackageNotFoundError:
        return ""
