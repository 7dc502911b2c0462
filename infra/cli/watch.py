"""`ansai watch`."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Annotated

import typer

from bus.port import Bus
from infra.cli.invocation import invocation
from infra.cli.lines import lines_of
from infra.cli.running import run, until
from infra.cli.tables import console
from infra.hosts.session import session
from schemas.text import plain

app = typer.Typer(rich_markup_mode=None)

KINDS = ("health", "trigger", "action", "audit", "alert", "approval", "checkpoint", "dlq", "heartbeat")


@app.command(epilog="Examples: ansai watch · ansai watch alert · ansai watch 'ansai.health.*.disk.>' --json")
def watch(
    context: typer.Context,
    pattern: Annotated[str, typer.Argument(help=f"Subjects with wildcards, or one of {', '.join(KINDS)}.")] = "ansai.>",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    count: Annotated[int, typer.Option(min=0, help="End after so many; 0 goes on until Ctrl-C.")] = 0,
) -> None:
    """Follow events as they happen; heartbeats only when asked for."""
    settings = invocation(context).start().bus
    wanted = f"ansai.{pattern}.>" if pattern in KINDS else pattern

    async def main(stop: asyncio.Event) -> None:
        async with session(settings, "ansai-watch") as bus:
            await until(stop, follow(bus, wanted, as_json=as_json, count=count))

    run(main)


async def follow(bus: Bus, pattern: str, *, as_json: bool, count: int) -> None:
    """Print what comes, until *count* lines are printed."""
    screen, printed = console(), 0
    listening = bus.listen(pattern)
    await listening.ready()
    async for subject, body in listening:
        if subject.startswith("ansai.heartbeat.") and not pattern.startswith("ansai.heartbeat"):
            continue
        if as_json:
            typer.echo(json.dumps({"subject": plain(subject), "event": _document(body)}))
        else:
            for line in lines_of(subject, body, datetime.now(UTC)):
                screen.print(line.rich())
        printed += 1
        if printed == count:
            return


def _document(body: bytes) -> object:
    """The event as it came; text when it is no JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "backslashreplace")
