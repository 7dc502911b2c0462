"""`ansai audit`: read the trail."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from bus import subjects
from bus.port import Bus, Stored, StreamName
from infra.cli.arguments import Since
from infra.cli.failures import Failure
from infra.cli.invocation import invocation
from infra.cli.lines import audit_text, read
from infra.cli.output import AsJson, print_json
from infra.cli.reports import report
from infra.cli.tables import console, table
from infra.hosts.session import session
from schemas.audit import AuditRecord
from schemas.envelope import Event

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Read the audit trail.")


@dataclass(frozen=True)
class Entry:
    """One record with its place in the stream."""

    sequence: int
    event: Event[AuditRecord]

    @property
    def record(self) -> AuditRecord:
        return self.event.data

    def document(self) -> dict[str, Any]:
        return {
            "sequence": self.sequence,
            "correlation": self.event.correlationid,
            **self.record.model_dump(mode="json", exclude_none=True, exclude_defaults=True),
        }


@app.command("list", epilog="Example: ansai audit list --since '2 h' --function disk.free_space")
def list_records(
    context: typer.Context,
    function: Annotated[str | None, typer.Option(help="Only of this function.")] = None,
    target: Annotated[str | None, typer.Option(help="Only about this target.")] = None,
    incident: Annotated[str | None, typer.Option(help="Only of this incident.")] = None,
    correlation: Annotated[str | None, typer.Option(help="Only what this one event or order caused.")] = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List the newest records, oldest first."""

    def wanted(entry: Entry) -> bool:
        record = entry.record
        return (
            (target is None or record.target == target)
            and (incident is None or record.incident == incident)
            and (correlation is None or entry.event.correlationid == correlation)
        )

    found = [entry for entry in _entries(context, function, since) if wanted(entry)][-limit:]
    if as_json:
        print_json([entry.document() for entry in found])
        return
    console().print(table((">#", "time", "function", "step", "mode", "incident", "what"), map(_row, found)))
    if not found:
        typer.echo("no records", err=True)


@app.command(epilog="Examples: ansai audit show 17 · ansai audit show 3f9c2a7be01d44aa9c1be0f2")
def show(
    context: typer.Context,
    which: Annotated[str, typer.Argument(help="The number of a record, or the id of an incident or a correlation.")],
    as_json: AsJson = False,
) -> None:
    """Show one record in full, or the whole story of an incident."""
    entries = list(_entries(context, None, None))
    if which.isdigit():
        found = [entry for entry in entries if entry.sequence == int(which)]
    else:
        found = [entry for entry in entries if which in {entry.record.incident, entry.event.correlationid}]
    if not found:
        raise Failure(f"no record, incident or correlation {which!r} in the trail; see: ansai audit list")
    if as_json:
        print_json([entry.document() for entry in found])
        return
    for entry in found:
        _show(entry)


def _show(entry: Entry) -> None:
    record, screen = entry.record, console()
    rows = [
        (name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for name, value in entry.document().items()
        if not isinstance(value, dict)
    ]
    if record.action is not None:
        rows.append(("action", f"{record.action.title} ({record.action.risk}; {record.action.undo})"))
    if record.gap is not None:
        rows.append(("gap", f"{record.gap.amount} {record.gap.unit} {record.gap.reason}"))
    if record.result is not None:
        freed = ", ".join(f"{amount:,.0f} {unit}" for unit, amount in record.result.freed.items())
        rows.append(("result", f"{record.result.outcome}: {record.result.done} done, freed {freed or 'nothing'}"))
    screen.print(table((f"#{entry.sequence}", ""), rows))
    if record.report is not None:
        screen.print(report(record.report))
    screen.print()


def _entries(context: typer.Context, function: str | None, since: timedelta | None) -> list[Entry]:
    asked = invocation(context)
    settings = asked.start().bus
    begin = datetime.now(UTC) - since if since is not None else None

    async def main() -> list[Entry]:
        async with session(settings, "ansai-audit", start=True) as bus:
            return [entry async for entry in _read(bus, function, begin)]

    return asyncio.run(main())


async def _read(bus: Bus, function: str | None, since: datetime | None) -> AsyncIterator[Entry]:
    try:
        pattern = f"ansai.audit.*.{'.'.join(subjects.split_name(function))}.*" if function else ""
    except subjects.BadSubject as error:
        raise Failure(str(error)) from error
    async for stored in bus.read(StreamName.AUDIT, pattern, since):
        if entry := _entry(stored):
            yield entry


def _entry(stored: Stored) -> Entry | None:
    """None, with a word on standard error, for what is no record: the trail takes whatever may be published there."""
    event = read(stored.body)
    if event is None or not isinstance(event.data, AuditRecord):
        typer.echo(f"ansai: #{stored.sequence} on {stored.subject} is no audit record", err=True)
        return None
    return Entry(stored.sequence, event)


def _row(entry: Entry) -> tuple[str, ...]:
    record = entry.record
    moment = record.at.astimezone().strftime("%m-%d %H:%M:%S")
    return (
        str(entry.sequence), moment, record.function, record.step.value, record.mode.value, record.incident[:8],
        audit_text(record),
    )  # fmt: skip
