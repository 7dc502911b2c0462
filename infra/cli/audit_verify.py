"""`ansai audit verify`: on the bus, or offline from exports."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from infra.audit.export import Progress as Told
from infra.audit.exported import NoExport, verify_exports
from infra.audit.findings import ChainFound, Verification
from infra.audit.keys import Keyring
from infra.audit.online import verify_stream
from infra.audit.trust import Pins, Trust, TrustUnusable, local_keys, meet, named
from infra.cli.failures import Failure
from infra.cli.invocation import Invocation, invocation
from infra.cli.output import AsJson, print_json
from infra.cli.tables import console, error_console, table
from infra.hosts.session import session
from schemas.settings.bus import state_directory
from schemas.text import plain

Named = Annotated[
    list[str] | None,
    typer.Option("--trust", metavar="FILE|FINGERPRINT", help="Trust these keys besides those that this machine knows."),
]

PROBLEMS = 20
"""Printed; the rest are counted, and in --json."""


def verify(
    context: typer.Context,
    directories: Annotated[
        list[Path] | None, typer.Argument(metavar="[DIRECTORY]...", help="Exports; without one, what is on the bus.")
    ] = None,
    trust: Named = None,
    as_json: AsJson = False,
) -> None:
    """Prove order, completeness and origin of the trail; exit with 1, the first bad record named, when it is not whole.

    Several directories are verified as one trail: archives, and an export of the rest.
    """
    asked = invocation(context)
    with progress("verifying") as told:
        if directories:
            found = _offline(asked, directories, trust or (), told)
        else:
            found, new = asyncio.run(_online(asked, trust or (), told))
            for host, keys in new.items():
                note = f"{host} is met for the first time: its keys {', '.join(keys)} are trusted from now on"
                typer.echo(f"ansai: {note}; compare them with: ansai audit keys list, on {host}", err=True)
    if as_json:
        print_json(found.document())
    else:
        show(found)
    if not found.ok:
        raise typer.Exit(1)


def audit_directory() -> Path:
    """Where this machine keeps its keys, what it trusts, and what it remembers of its chains."""
    return state_directory() / "audit"


def own_trust(asked: Invocation) -> Trust:
    """The keys of this machine, when it has any. Raises KeyUnusable."""
    return local_keys(asked.host_name, Keyring(audit_directory() / "keys"))


def _offline(asked: Invocation, directories: list[Path], words: list[str] | tuple[()], told: Told) -> Verification:
    try:
        known = Pins().read().joined(own_trust(asked)).joined(named(words))
        return verify_exports(directories, known, told)
    except (NoExport, TrustUnusable) as error:
        raise Failure(str(error)) from error


async def _online(
    asked: Invocation, words: list[str] | tuple[()], told: Told
) -> tuple[Verification, dict[str, list[str]]]:  # fmt: skip
    try:
        async with session(asked.start().bus, "ansai-audit", start=True) as bus:
            known, new = await meet(bus, Pins(), own_trust(asked))
            found = await verify_stream(bus, known.joined(named(words)), audit_directory() / "heads", told)
            if found.ok:  # what a trusted key has handed over to is remembered, also when its record is archived
                grown = known.after([*known.rotations, *found.rotations])
                Pins().pin(grown, "cross-signed by a trusted key", hosts=known.pins)
            return found, new
    except TrustUnusable as error:
        raise Failure(str(error)) from error


@contextmanager
def progress(what: str) -> Iterator[Told]:
    """A bar on standard error, when that is a terminal."""
    screen = error_console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as shown:
        task = shown.add_task(what, total=None)

        def told(done: int, total: int) -> None:
            shown.update(task, completed=done, total=total)

        yield told


# What is shown.


def show(found: Verification) -> None:
    """The chains as a table, what is to be known, and the verdict."""
    screen = console()
    if found.chains:
        headings = ("host", "function", "emitter", ">records", "from", "to", "key", "")
        screen.print(table(headings, map(_row, found.chains)))
        screen.print()
    for note in found.notes:
        screen.print(Text(f"note: {plain(note)}", style="dim"))
    for problem in found.problems[:PROBLEMS]:
        screen.print(
            Text.assemble((f"{problem.kind.value} ", "bold red"), f"{plain(problem.place)}: {plain(problem.text)}")
        )
    left = len(found.problems) - PROBLEMS + found.more_problems
    if left > 0:
        screen.print(Text(f"and {left:,} more; all of them: ansai audit verify --json"))
    screen.print(_verdict(found))


def _row(chain: ChainFound) -> tuple[str | Text, ...]:
    state = ("ended" if chain.ended else "open") if chain.ok else "NOT WHOLE"
    keys = ", ".join(key[:12] for key in chain.keys)
    return (
        plain(chain.host), plain(chain.function), chain.emitter[:12], _records(chain), _moment(chain.began_at),
        _moment(chain.ended_at), keys, Text(state, style="green" if chain.ok else "bold red"),
    )  # fmt: skip


def _records(chain: ChainFound) -> str:
    return f"{chain.first:,}–{chain.last:,}" if chain.first > 1 else f"{chain.records:,}"


def _moment(text: str) -> str:
    return plain(text)[:19].replace("T", " ")


def _verdict(found: Verification) -> Text:
    held = (
        f"{_count(found.records, 'record')} in {_count(found.messages, 'message')},"
        f" {_count(len(found.chains), 'chain')}, {_count(found.checkpoints, 'checkpoint')}"
    )
    if not found.ok:
        first = found.problems[0]
        return Text.assemble(
            ("NOT WHOLE. ", "bold red"), f"The first bad record: {plain(first.place)}: {plain(first.text)}. {held}."
        )
    if not found.messages:
        return Text("There are no records.", style="yellow")
    keys = ", ".join(f"{key[:12]} of {host}" for host, key in found.keys)
    span = f"#{found.first_sequence} of {_moment(found.first_at)} to #{found.last_sequence} of {_moment(found.last_at)}"
    return Text.assemble(("WHOLE. ", "bold green"), f"{held}, from {span}, signed by {keys}.")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
