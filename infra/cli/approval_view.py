"""How a plan that waits for approval looks on a terminal: what is asked, the ladder, and every item if wanted."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from functions import registry
from functions.core.approval import read_plan
from functions.core.plan import Plan
from infra.cli.amounts import amount
from infra.cli.plan_view import findings, ladder, totals
from infra.cli.reports import gap
from infra.hosts.preview import Preview
from schemas.approval import PendingPlan
from schemas.remediation import ActionSummary
from schemas.settings.root import Configuration
from schemas.text import show_path
from schemas.units import show_duration


def view(pending: PendingPlan, configuration: Configuration, *, items: bool) -> RenderableType:
    """Everything about one plan. What can't be read back here is shown from its summary, and said so."""
    plan, problem = _read(pending, configuration)
    parts = [*_head(pending, plan)]
    if problem:
        parts.append(Text(problem, style="yellow"))
    if plan is not None:
        preview = Preview(pending.function, pending.target, None, pending.summary.gap, plan)
        rungs = ladder(preview)
        parts += [Padding(part, (0, 0, 0, 2), expand=False) for part in [rungs] if part is not None]
    parts.append(Text())
    steps = [planned.action for planned in plan.steps()] if plan is not None and items else []
    for position, action in enumerate(each for rung in pending.summary.rungs for each in rung.actions):
        parts += _action(action)
        parts += _items(steps[position].items() if steps else action.sample, action.items)
    parts += [
        Text(f"{rung.title}: {rung.unknown_effects}", style="yellow")
        for rung in pending.summary.rungs
        if rung.unknown_effects
    ]
    shown = findings(pending.summary.findings)
    return Group(*parts, *([shown] if shown is not None else []))


def _read(pending: PendingPlan, configuration: Configuration) -> tuple[Plan | None, str]:
    custom = configuration.custom_actions
    try:
        remedy = registry.load(pending.function, custom)
    except (registry.UnknownFunction, registry.BadFunction, registry.UnknownEvent) as error:
        return None, f"only the summary, {pending.function} is not known here: {error}"
    plan = read_plan(remedy, pending)
    if plan is None:
        return None, "the stored plan is not the one its hash names, or of another version; a grant would be refused"
    return plan, ""


def _head(pending: PendingPlan, plan: Plan | None) -> Iterator[RenderableType]:
    now = datetime.now(UTC)
    yield Text.assemble((pending.function, "bold cyan"), f" on {pending.host}, ", (show_path(pending.target), "bold"))
    rows = [
        ("hash", pending.hash),
        ("asked", f"{pending.requested_at.astimezone():%Y-%m-%d %H:%M:%S}"),
        ("expires", f"in {show_duration(pending.expires_at - now)}; no answer is a refusal"),
        ("gap", gap(pending.summary.gap)),
        ("incident", pending.incident),
        ("correlation", pending.correlation),
    ]
    if plan is not None:
        rows.append(("could free", totals(plan, pending.summary.gap.unit)))
    told = Table.grid(padding=(0, 2))
    for name, value in rows:
        told.add_row(Text(name, style="dim"), Text(value))
    yield told


def _action(action: ActionSummary) -> Iterator[RenderableType]:
    estimates = ", ".join(
        f"{'' if each.exact else '≤ '}{amount(each.amount, each.unit)}" for each in action.estimates if each.amount
    )
    yield Text.assemble(
        ("· ", "dim"), action.title, (f"  {estimates}", "cyan"), (f"  {action.risk}; {action.undo}", "dim")
    )


def _items(names: Sequence[str], count: int) -> Iterator[RenderableType]:
    yield from (Text(f"    {show_path(name)}") for name in names)
    if count > len(names):
        yield Text(f"    … and {count - len(names):,} more; all of them: --items", style="dim")
