"""`ansai schemas`: the generated descriptions of all messages."""

from pathlib import Path
from typing import Annotated

import typer

from infra.cli.failures import FAILED, Failure
from schemas import export as generated

app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Generate the JSON Schemas and the AsyncAPI document."
)


@app.callback()
def group() -> None:
    """Generate the JSON Schemas and the AsyncAPI document."""


@app.command(epilog="Example: ansai schemas export --output /tmp/schemas")
def export(
    output: Annotated[
        Path, typer.Option(help="Directory for json/ and asyncapi.json.", show_default="the package's own")
    ] = generated.DIRECTORY,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit with 1 if a file would.")] = False,
) -> None:
    """Write a JSON Schema for every message, and one AsyncAPI 3 document with all of them."""
    try:
        changed = generated.differences(output) if check else generated.export(output)
    except OSError as error:
        raise Failure(f"{error.filename or output}: {error.strerror}; name another directory with --output") from error
    for name in changed:
        typer.echo(f"{output / name} {'differs from the models' if check else 'written'}")
    if check and changed:
        raise typer.Exit(FAILED)
    if not changed:
        typer.echo(f"{output}: up to date")
