"""`ansai dlq`: messages that could not be understood, and a second chance for them."""

import asyncio
import base64
import hashlib
from typing import Annotated, Any

import typer

from bus import subjects
from bus.port import Stored, StreamName
from infra.cli.arguments import Since
from infra.cli.failures import Failure
from infra.cli.invocation import invocation
from infra.cli.output import AsJson, print_json
from infra.cli.tables import console, table
from infra.hosts.session import session
from schemas.envelope import new_id
from schemas.text import plain
from schemas.units import show_size

app = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Read and replay messages that could not be understood."
)

Function = Annotated[str | None, typer.Option(help="Only those meant for this function.")]
SHOWN = 4_000
"""Characters of a body that `show` prints."""


@app.command("list", epilog="Example: ansai dlq list --since '1 day'")
def list_letters(
    context: typer.Context, function: Function = None, since: Since = None, as_json: AsJson = False
) -> None:
    """List the dead letters, oldest first: when, on which subject, how long, and why."""
    from datetime import UTC, datetime

    begin = datetime.now(UTC) - since if since is not None else None
    found = [letter for letter in _read(context, function) if begin is None or letter.stored_at >= begin]
    if as_json:
        print_json([_document(letter) for letter in found])
        return
    console().print(table((">#", "time", "subject", ">length", "why"), map(_row, found)))
    if not found:
        typer.echo("no dead letters", err=True)


@app.command(epilog="Example: ansai dlq show 3")
def show(
    context: typer.Context, number: Annotated[int, typer.Argument(help="As listed.")], as_json: AsJson = False
) -> None:
    """Show one dead letter with its bytes."""
    (letter,) = _chosen(_read(context, None), [number])
    if as_json:
        print_json(_document(letter) | {"body_base64": base64.b64encode(letter.body).decode()})
        return
    rows = [(name, value if isinstance(value, str) else str(value)) for name, value in _document(letter).items()]
    screen = console()
    screen.print(table((f"#{number}", ""), rows))
    text = letter.body.decode("utf-8", "backslashreplace")
    screen.print("\n".join(plain(line) for line in text[:SHOWN].splitlines()))
    if len(text) > SHOWN:
        screen.print(f"… {len(text) - SHOWN} more characters; all of it: ansai dlq show {number} --json")


@app.command(epilog="Examples: ansai dlq replay 3 4 · ansai dlq replay --all --function disk.free_space")
def replay(
    context: typer.Context,
    numbers: Annotated[list[int] | None, typer.Argument(help="As listed.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    function: Function = None,
    subject: Annotated[str | None, typer.Option(help="Publish there instead of where it came from.")] = None,
) -> None:
    """Publish dead letters again, as they came, where they came from; the letters themselves are kept."""
    if bool(numbers) == everything:
        raise Failure("name the numbers to replay, or give --all")
    asked = invocation(context)
    settings = asked.start().bus
    letters = _read(context, function)
    chosen = letters if everything else _chosen(letters, numbers or [])
    for letter in chosen:
        _refuse_incomplete(letter)

    async def main() -> None:
        async with session(settings, "ansai-dlq", start=True) as bus:
            for letter in chosen:
                to = subject or _origin(letter)
                await bus.publish(to, letter.body, message_id=new_id())
                typer.echo(f"#{letter.sequence} published on {to}")

    asyncio.run(main())


def _read(context: typer.Context, function: str | None) -> list[Stored]:
    settings = invocation(context).start().bus
    try:
        pattern = subjects.dead_letter(function) if function else ""
    except subjects.BadSubject as error:
        raise Failure(str(error)) from error

    async def main() -> list[Stored]:
        async with session(settings, "ansai-dlq", start=True) as bus:
            return [stored async for stored in bus.read(StreamName.DLQ, pattern)]

    return asyncio.run(main())


def _chosen(letters: list[Stored], numbers: list[int]) -> list[Stored]:
    by_number = {letter.sequence: letter for letter in letters}
    if missing := [str(number) for number in numbers if number not in by_number]:
        raise Failure(f"no dead letter {', '.join(missing)}; see: ansai dlq list")
    return [by_number[number] for number in numbers]


def _refuse_incomplete(letter: Stored) -> None:
    """Only the first 512 KiB of a message are kept: half a message is not published again."""
    digest = letter.headers.get("Ansai-Sha256")
    if digest is not None and hashlib.sha256(letter.body).hexdigest() != digest:
        length = letter.headers.get("Ansai-Length", "?")
        raise Failure(
            f"#{letter.sequence} is kept only in part ({len(letter.body)} of {length} bytes); it can't be replayed"
        )


def _origin(letter: Stored) -> str:
    origin = letter.headers.get("Ansai-Subject", "")
    try:
        subjects.parse(origin)
    except subjects.BadSubject as error:
        raise Failure(
            f"#{letter.sequence} does not say where it came from ({error}); name it with --subject"
        ) from error
    return origin


def _document(letter: Stored) -> dict[str, Any]:
    return {
        "sequence": letter.sequence,
        "time": letter.stored_at.isoformat(),
        "subject": plain(letter.headers.get("Ansai-Subject", "")),
        "error": plain(letter.headers.get("Ansai-Error", "")),
        "length": int(letter.headers.get("Ansai-Length", len(letter.body))),
        "sha256": plain(letter.headers.get("Ansai-Sha256", "")),
    }


def _row(letter: Stored) -> tuple[str, ...]:
    document = _document(letter)
    moment = letter.stored_at.astimezone().strftime("%m-%d %H:%M:%S")
    return str(letter.sequence), moment, document["subject"], show_size(document["length"]), document["error"]
