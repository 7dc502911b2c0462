"""`ansai audit explain`."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from infra.cli.audit_entries import entries
from infra.cli.audit_story import Story, stories
from infra.cli.failures import Failure
from infra.cli.lines import STYLES
from infra.cli.output import AsJson, print_json
from infra.cli.tables import console
from schemas.audit import AuditRecord
from schemas.text import show_path


def explain(
    context: typer.Context,
    correlation: Annotated[
        str | None, typer.Argument(help="A correlation or an incident, or how its id begins; without one, the newest.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell what one event, order or approval caused: who, why, what, with which result, and what was not done."""
    records = [entry.record for entry in entries(context)]
    if correlation is None:
        correlation = newest(records)
    told = stories(chosen(records, correlation)) if correlation else []
    if not told and not correlation:
        typer.echo("ansai: nothing was done, or refused, yet", err=True)
        return
    if not told:
        raise Failure(f"nothing in the trail was caused by {correlation!r}; see: ansai audit list")
    if as_json:
        print_json([story.document() for story in told])
        return
    for story in told:
        _print(story)


def newest(records: Sequence[AuditRecord]) -> str:
    """The correlation of the latest record about an incident, or about anything; empty when there is none."""
    about = [record for record in records if record.incident] or [record for record in records if record.correlation]
    return about[-1].correlation if about else ""


def chosen(records: Sequence[AuditRecord], beginning: str) -> list[AuditRecord]:
    """Those of the one correlation or incident that begins so; none when there is none. Raises Failure for several."""
    for field in ("correlation", "incident"):
        ids = {name for record in records if (name := getattr(record, field)).startswith(beginning) and name}
        if beginning in ids:
            ids = {beginning}
        if len(ids) > 1:
            shown = ", ".join(sorted(ids)[:3])
            raise Failure(f"{beginning!r} begins {len(ids)} ids, like {shown}; write more of the one that is meant")
        if ids:
            return [record for record in records if getattr(record, field) in ids]
    return []


def _print(story: Story) -> None:
    screen = console()
    about = f" on {show_path(story.target)}" if story.target else ""
    screen.print(Text(f"{story.function}{about}, host {story.host}", style="bold"))
    facts = (
        ("cause", story.correlation), ("incident", ", ".join(story.incidents)), ("mode", ", ".join(story.modes)),
        ("policy", ", ".join(story.policies)), ("people", ", ".join(story.people) or "none: it began by itself"),
    )  # fmt: skip
    for name, value in facts:
        if value:
            screen.print(Text.assemble((f"  {name:<9}", "dim"), value))
    screen.print()
    told = Table.grid(padding=(0, 2))
    for sentence in story.sentences:
        moment = Text(f"  {sentence.at.astimezone():%m-%d %H:%M:%S}", style="dim")
        told.add_row(moment, Text(sentence.text, style=STYLES.get(sentence.step.value, "")))
        for detail in sentence.details:
            told.add_row("", Padding(Text(detail, style="dim"), (0, 0, 0, 2)))
    screen.print(told)
    screen.print()
    screen.print(Text("  What was not done, and why" if story.not_done else "  Nothing was left undone.", style="bold"))
    for line in story.not_done:
        screen.print(Padding(Text(line), (0, 0, 0, 4)))
    screen.print(Text.assemble(("  How it stands  ", "bold"), story.ending))
    screen.print()
