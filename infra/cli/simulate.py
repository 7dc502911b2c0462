"""`ansai simulate`: faults on small real things, healed by the real functions."""

import asyncio
from typing import Annotated

import typer

from infra.cli.failures import FAILED, Failure
from infra.cli.invocation import invocation
from infra.cli.output import AsJson, print_json
from infra.cli.running import run as run_until_stopped
from infra.cli.running import until
from infra.cli.tables import console, table
from infra.simulate import registry

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Let the real functions heal real faults on small things of their own.",
)


@app.command("list", epilog="Example: ansai simulate list")
def list_scenarios(as_json: AsJson = False) -> None:
    """List the scenarios."""
    found = [{"name": name, "title": registry.load(name).title} for name in registry.names()]
    if as_json:
        print_json(found)
    else:
        console().print(table(("scenario", "what happens"), [(each["name"], each["title"]) for each in found]))


@app.command(epilog="Example: ansai simulate run disk-full")
def run(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="As listed.")],
) -> None:
    """Run one scenario: fault, event, plan, actions, verification, audit trail; nothing of it is left behind."""
    invocation(context).start()
    try:
        scenario = registry.load(name)
    except registry.UnknownScenario as error:
        raise Failure(f"{error}; see: ansai simulate list") from error

    async def main(stop: asyncio.Event) -> bool | None:
        return await until(stop, scenario.run(console()))

    if not run_until_stopped(main):
        raise typer.Exit(FAILED)
