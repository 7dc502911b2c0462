"""`ansai up`: everything on this host, shown live."""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import typer
from rich.live import Live

from bus.port import Bus
from collectors import registry as collector_registry
from functions.core.remedy import AnyRemedy
from infra.cli.chosen import collectors, function_names, functions
from infra.cli.invocation import invocation
from infra.cli.lines import Line
from infra.cli.live_station import live_station
from infra.cli.plan_view import block, summary
from infra.cli.running import run
from infra.cli.screen import Screen, Standing
from infra.cli.tables import console
from infra.hosts.local import probes_of
from infra.hosts.preview import Preview, preview
from infra.hosts.signals import BusSignals
from infra.hosts.station import Station
from schemas.probes import ProbeError
from schemas.settings.root import Configuration
from schemas.text import plain

app = typer.Typer(rich_markup_mode=None)
logger = logging.getLogger(__name__)

REDRAWS = 4
"""A second."""


@app.command(epilog="Examples: ansai up · ANSAI_BUS__URL=nats://10.0.0.5:4222 ansai up")
def up(context: typer.Context) -> None:
    """Run everything on this host, in dry-run, with its own bus when none is configured.

    Starts the embedded nats-server unless bus.url names one, every collector and every function, and shows what
    they see and what could be done about it. Nothing is changed unless policy.mode is auto. Ctrl-C stops everything.
    """
    asked = invocation(context)
    configuration, host = asked.start(), asked.host_name
    remedies = functions(function_names(configuration), configuration)
    watched = collectors(collector_registry.names())

    async def main(stop: asyncio.Event) -> None:
        async with live_station(asked, remedies, watched, everything=True) as running:
            await _show(running, remedies, configuration, host, stop)

    run(main)


async def _show(
    running: Station, remedies: list[AnyRemedy], configuration: Configuration, host: str, stop: asyncio.Event
) -> None:
    standing = Standing(host, running.bus.url, configuration.policy.mode.value, datetime.now(UTC), running.names)
    screen = Screen(standing)
    show = _live if sys.stdout.isatty() else _plain
    await show(screen, lambda told: _feed(screen, running.bus, remedies, configuration, told), stop)


Told = Callable[[Line | Preview | None], None]
"""What is called with each new line, and with each new plan; with None when all targets are looked at."""


async def _feed(screen: Screen, bus: Bus, remedies: list[AnyRemedy], configuration: Configuration, told: Told) -> None:
    """Fill *screen* from the bus and from a first look at every target, until it is cancelled."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_hear(screen, bus, told))
        group.create_task(_plan(screen, bus, remedies, configuration, told))


async def _hear(screen: Screen, bus: Bus, told: Told) -> None:
    listening = bus.listen("ansai.>")
    await listening.ready()
    async for subject, body in listening:
        if (line := screen.hear(subject, body, datetime.now(UTC))) is not None:
            told(line)


async def _plan(
    screen: Screen, bus: Bus, remedies: list[AnyRemedy], configuration: Configuration, told: Told
) -> None:  # fmt: skip
    probes, host = probes_of(configuration), screen.standing.host
    for remedy in remedies:
        signals = BusSignals(bus, host, remedy.listens, configuration.policy.future_tolerance)
        try:
            async for each in preview(
                remedy, getattr(configuration, remedy.section_name), host, probes, signals=signals
            ):
                screen.look(each)
                told(each)
        except ProbeError as error:
            logger.warning("%s: no plan: %s", remedy.name, error)
    screen.planning = False
    told(None)


def _nothing(_: Line | Preview | None) -> None:
    """The next redraw shows it."""


async def _live(screen: Screen, feed: Callable[[Told], Awaitable[None]], stop: asyncio.Event) -> None:
    """Redraw the whole picture a few times a second; log lines become events of it."""
    handler = _Pane(screen)
    root = logging.getLogger()
    others, root.handlers = root.handlers, [handler]
    try:
        with Live(screen.render(), console=console(), auto_refresh=False, vertical_overflow="crop") as live:
            feeding = asyncio.ensure_future(feed(_nothing))
            try:
                while not stop.is_set() and not feeding.done():
                    live.update(screen.render(), refresh=True)
                    await asyncio.wait(
                        {asyncio.ensure_future(_pause(stop)), feeding}, return_when=asyncio.FIRST_COMPLETED
                    )
            finally:
                await _end(feeding)
            live.update(screen.render(), refresh=True)
    finally:
        root.handlers = others


async def _pause(stop: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(stop.wait(), 1 / REDRAWS)
    except TimeoutError:
        return


async def _plain(screen: Screen, feed: Callable[[Told], Awaitable[None]], stop: asyncio.Event) -> None:
    """One line for each event, for files, journals and pipes; the plans once, when they are made."""
    output = console()
    standing = screen.standing
    output.print(f"ANSAI on {standing.host}, {standing.mode}, bus {standing.url}. Ctrl-C stops everything.")

    def told(what: Line | Preview | None) -> None:
        if isinstance(what, Line):
            output.print(what.rich())
        elif what is not None:
            output.print(block(what))
        else:
            output.print(summary(screen.previews.values()))
        sys.stdout.flush()

    feeding = asyncio.ensure_future(feed(told))
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({feeding, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        await _end(feeding)


async def _end(feeding: "asyncio.Future[None]") -> None:
    """Cancel it; if it ended by itself, with an error, raise that."""
    if feeding.done():
        feeding.result()
        return
    feeding.cancel()
    await asyncio.wait({feeding})


class _Pane(logging.Handler):
    """Log lines as events on the screen: written to the terminal they would tear it."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        moment = datetime.fromtimestamp(record.created, UTC)
        level = record.levelname.lower()
        self._screen.events.append(Line(moment, "log", record.name, level, plain(record.getMessage())))
