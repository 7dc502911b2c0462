"""`ansai collect`: collectors as a process of their own."""

import asyncio
from typing import Annotated

import typer

from infra.cli.chosen import collectors
from infra.cli.invocation import invocation
from infra.cli.running import run
from infra.hosts.live_reload import live_reload
from infra.hosts.station import station

app = typer.Typer(rich_markup_mode=None)


@app.command(epilog="Example: ansai collect disk.pressure --log-format json")
def collect(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="COLLECTOR...", help="As ansai collectors list shows them.")],
) -> None:
    """Run one or more collectors until Ctrl-C or SIGTERM; what the bus could not take yet waits in the spool."""
    asked = invocation(context)
    configuration, host = asked.start(), asked.host_name
    chosen = collectors(names)

    async def main(stop: asyncio.Event) -> None:
        async with (
            station(configuration, host, (), chosen) as running,
            live_reload(running, asked.loaded, asked.config, asked.options),
        ):
            await stop.wait()

    run(main)
