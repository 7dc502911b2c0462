"""`ansai collect`: collectors as a process of their own."""

import asyncio
from typing import Annotated

import typer

from infra.cli.chosen import collectors
from infra.cli.invocation import invocation
from infra.cli.live_station import live_station
from infra.cli.running import run

app = typer.Typer(rich_markup_mode=None)


@app.command(epilog="Example: ansai collect disk.pressure --log-format json")
def collect(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="COLLECTOR...", help="As ansai collectors list shows them.")],
) -> None:
    """Run one or more collectors until Ctrl-C or SIGTERM; what the bus could not take yet waits in the spool."""
    asked = invocation(context)
    asked.start()
    chosen = collectors(names)

    async def main(stop: asyncio.Event) -> None:
        async with live_station(asked, (), chosen):
            await stop.wait()

    run(main)
