"""`ansai run`: functions as a process of their own."""

import asyncio
from typing import Annotated

import typer

from collectors import registry as collector_registry
from infra.cli.chosen import collectors, functions
from infra.cli.invocation import invocation
from infra.cli.live_station import live_station
from infra.cli.running import run as run_until_stopped

app = typer.Typer(rich_markup_mode=None)


@app.command(
    epilog="Examples: ansai run disk.free_space · ansai run disk.free_space disk.pressure --bus nats://10.0.0.5:4222"
)
def run(
    context: typer.Context,
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Functions, and collectors that share their process.")
    ],
) -> None:
    """Run one or more functions until Ctrl-C or SIGTERM; a running action is finished first.

    All that run in one process share its connection. The bus must be there: bus.url, or that of ansai up.
    """
    asked = invocation(context)
    configuration = asked.start()
    eyes = collectors([name for name in names if name in collector_registry.names()])
    remedies = functions([name for name in names if name not in collector_registry.names()], configuration)

    async def main(stop: asyncio.Event) -> None:
        async with live_station(asked, remedies, eyes):
            await stop.wait()

    run_until_stopped(main)
