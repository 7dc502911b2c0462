"""How the report of a remedy looks: rung by rung what was planned, freed and measured."""

from rich.console import Group, RenderableType
from rich.text import Text

from infra.cli.amounts import amount, amounts
from infra.cli.lines import STYLES
from infra.cli.tables import table
from schemas.remediation import Gap, Report, RungReport
from schemas.text import show_path
from schemas.units import show_duration

NOT_DONE = 5
"""Items of a rung that are named with the reason why nothing was done."""


def report(told: Report) -> RenderableType:
    """The whole report."""
    parts: list[RenderableType] = [_title(told)]
    if told.rungs:
        headings = ("rung", ">planned", ">done", ">freed", ">measured", "outcome", "took")
        parts.append(table(headings, map(_row, told.rungs)))
    for row in told.rungs:
        parts += [
            Text(f"  not done: {show_path(item.name)}: {item.outcome} {item.reason}", style="dim")
            for item in row.not_done[:NOT_DONE]
        ]
    parts.append(Text(f"{gap(told.gap_before)} before, {gap(told.gap_after)} after; {told.next}"))
    if told.unexplained:
        parts.append(Text(told.unexplained, style="yellow"))
    return Group(*parts)


def _title(told: Report) -> Text:
    style = STYLES["healed"] if told.gap_after.closed else STYLES["warning"]
    return Text.assemble(
        (f"{told.function} on {show_path(told.target)}: ", "bold"), (f"{told.outcome}", style),
        (f" ({told.mode}, {show_duration(told.ended - told.began)})", "dim"),
    )  # fmt: skip


def _row(row: RungReport) -> tuple[str, ...]:
    planned = amounts(row.planned)
    return (
        row.title, planned if row.exact or not row.planned else f"≤ {planned}", f"{row.done:,} of {row.candidates:,}",
        amounts(row.freed), amounts(row.measured), row.outcome.value, show_duration(row.seconds),
    )  # fmt: skip


def gap(measured: Gap) -> str:
    """`1.2 GiB over target`."""
    if measured.amount is None:
        return "unknown"
    if measured.amount <= 0:
        return "at or below target"
    return f"{amount(measured.amount, measured.unit)} over target"
