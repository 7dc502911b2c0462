"""`ansai audit`: read the trail, verify it, take it along, archive it, and look after its keys."""

from typing import Annotated

import typer

from infra.cli import audit_archive, audit_explain, audit_keys, audit_verify
from infra.cli.arguments import Since
from infra.cli.audit_entries import Entry, entries
from infra.cli.failures import Failure
from infra.cli.lines import audit_text
from infra.cli.output import AsJson, print_json
from infra.cli.reports import gap, report
from infra.cli.tables import console, table

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Read the audit trail, and prove that it is whole.")
app.add_typer(audit_keys.app, name="keys")


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
            and (correlation is None or record.correlation == correlation)
        )

    found = [entry for entry in entries(context, function, since) if wanted(entry)][-limit:]
    if as_json:
        print_json([entry.document() for entry in found])
        return
    console().print(table((">#", "time", "function", "step", "mode", "incident", "what"), map(_row, found)))
    if not found:
        typer.echo("no records", err=True)


@app.command(epilog="Examples: ansai audit show 17 · ansai audit show 17.2 · ansai audit show 3f9c2a7be01d44aa9c1be0f2")
def show(
    context: typer.Context,
    which: Annotated[str, typer.Argument(help="The number of a record, or the id of an incident or a correlation.")],
    as_json: AsJson = False,
) -> None:
    """Show one record in full, or all records of an incident; `explain` tells them as a story."""
    found = [
        entry
        for entry in entries(context)
        if which in {entry.place, str(entry.message)} or (which in {entry.record.incident, entry.record.correlation})
    ]
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
        rows.append(("gap", f"{gap(record.gap)} {record.gap.reason}".rstrip()))
    if record.result is not None:
        freed = ", ".join(f"{amount:,.0f} {unit}" for unit, amount in record.result.freed.items())
        rows.append(("result", f"{record.result.outcome}: {record.result.done} done, freed {freed or 'nothing'}"))
    rows += [(f"data.{name}", str(value)) for name, value in record.data.items()]
    screen.print(table((f"#{entry.place}", ""), rows))
    if record.report is not None:
        screen.print(report(record.report))
    screen.print()


def _row(entry: Entry) -> tuple[str, ...]:
    record = entry.record
    moment = record.at.astimezone().strftime("%m-%d %H:%M:%S")
    return (
        entry.place, moment, record.function, record.step.value, record.mode.value, record.incident[:8],
        audit_text(record),
    )  # fmt: skip


app.command(epilog="Example: ansai audit explain 3f9c2a7be01d44aa9c1be0f2")(audit_explain.explain)
app.command(epilog="Examples: ansai audit verify · ansai audit verify ./archive-2025 ./rest --trust trusted.json")(
    audit_verify.verify
)
app.command(epilog="Example: ansai audit export ./audit-of-may --since '31 days'")(audit_archive.export)
app.command(epilog="Example: ansai audit archive /srv/audit/2026-05 --before '90 days'")(audit_archive.archive)
