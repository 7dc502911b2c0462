"""How plans look on a terminal: per target a bar and a level, below it the ladder, rung by rung."""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from functions.core.plan import Plan, Rung
from infra.cli.amounts import amount, amounts
from infra.cli.lines import STYLES
from infra.hosts.preview import Preview
from schemas.facts.files import Resource, Usage
from schemas.health import Level
from schemas.remediation import Finding
from schemas.settings.disk import percent_of
from schemas.text import show_path
from schemas.units import show_size

BAR = 24
"""Characters of a usage bar."""
FINDINGS = 12
"""Findings shown for one target; the rest are counted."""


def header(preview: Preview) -> Table:
    """One line about the target: name, bar, percent, level, figures."""
    line = Table.grid(padding=(0, 2))
    line.add_column(min_width=14)
    line.add_row(Text(show_path(preview.target), style="bold"), *fullness(preview), Text(verdict(preview), style="dim"))
    return line


def fullness(preview: Preview) -> tuple[Text, ...]:
    """Bar, percent, level and figures of what fills up; only the level of anything else; `unknown` when not seen."""
    seen = preview.seen
    if seen is None:
        return (Text("unknown", style=STYLES["unknown"]), Text(preview.problem))
    level = getattr(seen, "level", None)
    shown = Text(level.value, style=STYLES[level.value]) if isinstance(level, Level) else Text("")
    usage, resource = getattr(seen, "usage", None), getattr(seen, "resource", None)
    if not isinstance(usage, Usage) or not isinstance(resource, Resource):
        return (shown,)
    percent = percent_of(usage, resource)
    if percent is None:
        return (Text("no limit"), Text(""), shown)
    used, total = _figures(usage, resource)
    return bar(percent, str(shown.style)), Text(f"{percent:>3.0f} %"), shown, Text(f"{used} of {total}")


def _figures(usage: Usage, resource: Resource) -> tuple[str, str]:
    if resource is Resource.INODES:
        return f"{usage.inodes_used:,}", f"{usage.inodes_used + usage.inodes_available:,} inodes"
    return show_size(usage.used), show_size(usage.used + usage.available)


def bar(percent: float, style: str, width: int = BAR) -> Text:
    """`█████▌····`, in eighths of a character."""
    eighths = round(min(max(percent, 0), 100) / 100 * width * 8)
    full, part = divmod(eighths, 8)
    drawn = "█" * full + (" ▏▎▍▌▋▊▉"[part].strip() if part else "")
    return Text.assemble((drawn, style), ("·" * (width - len(drawn)), "dim"))


def verdict(preview: Preview) -> str:
    """Whether something presses, as a few words."""
    if not preview.gap.known:
        return "" if preview.problem else preview.gap.reason
    if preview.gap.closed:
        return "not needed now"
    over = f"{amount(preview.gap.amount or 0, preview.gap.unit)} over target"
    return f"{over}; advice only" if preview.plan is not None and preview.plan.advice else over


def ladder(preview: Preview) -> Table | None:
    """The rungs in order: what, how many candidates, how much they could free, and what would run now."""
    plan = preview.plan
    if plan is None or plan.empty:
        return None
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("", "rung", "candidates", "could free", "undo", "now"):
        table.add_column(heading, justify="right" if heading in {"candidates", "could free"} else "left")
    needed, position = preview.needed, 0
    for number, rung in enumerate(plan.rungs, start=1):
        run = sum(position <= each < position + len(rung.actions) for each in needed)
        position += len(rung.actions)
        if rung.actions:
            table.add_row(
                str(number),
                Text(rung.title),
                candidates(rung),
                could_free(rung, preview.gap.unit),
                undo(rung),
                now(rung, run),
            )
    return table


def candidates(rung: Rung) -> Text:
    return Text(f"{sum(len(action.items()) for action in rung.actions):,}")


def could_free(rung: Rung, unit: str) -> Text:
    """In the unit of the gap, or in others when it frees none of it; `≤` where any estimate is an upper bound."""
    freed, exact = estimated([rung], unit)
    return Text(f"{'' if exact else '≤ '}{amounts(freed)}" if freed else "not known")


def estimated(rungs: Iterable[Rung], unit: str) -> tuple[dict[str, float], bool]:
    """What *rungs* could free together, by unit, and whether that is exact. Only *unit*, where they free any of it."""
    estimates = [each for rung in rungs for action in rung.actions for each in action.expected]
    told = [each for each in estimates if each.unit == unit and each.amount] or estimates
    sums: dict[str, float] = {}
    for each in told:
        sums[each.unit] = sums.get(each.unit, 0) + each.amount
    return sums, all(each.exact for each in told)


def undo(rung: Rung) -> Text:
    """How its actions are taken back, in the words of their risk."""
    return Text(", ".join(dict.fromkeys(action.risk.value for action in rung.actions)), style="dim")


def now(rung: Rung, run: int) -> Text:
    if not run:
        return Text("not needed now", style="dim")
    if run == len(rung.actions):
        return Text("▶ would run", style="cyan")
    return Text(f"▶ would run, {run} of {len(rung.actions)} steps at most", style="cyan")


def findings(found: Sequence[Finding]) -> RenderableType | None:
    """What a person should know or could do, each with its command."""
    if not found:
        return None
    lines = [
        Text.assemble(
            ("· ", "dim"), finding.title, (f" — {finding.detail}" if finding.detail else "", "dim"),
            (f"\n    {_command(finding)}" if finding.command else "", "cyan"),
        )
        for finding in found[:FINDINGS]
    ]  # fmt: skip
    if len(found) > FINDINGS:
        lines.append(Text(f"· and {len(found) - FINDINGS} more; all of them: --json", style="dim"))
    return Group(*lines)


def _command(finding: Finding) -> str:
    from shlex import join

    return join(finding.command)


def totals(plan: Plan, unit: str) -> str:
    """All rungs together, as `≤ 3.2 GiB`."""
    freed, exact = estimated(plan.rungs, unit)
    return f"{'' if exact else '≤ '}{amounts(freed)}"


def block(preview: Preview) -> RenderableType:
    """Everything about one target."""
    parts: list[RenderableType] = [header(preview)]
    plan = preview.plan
    if plan is not None:
        rungs = ladder(preview)
        inner: list[RenderableType] = (
            [rungs] if rungs is not None else [Text("nothing here that may be cleaned", "dim")]
        )
        if plan.advice and preview.gap.open:
            inner.append(Text(f"advice only: {plan.advice}", style="yellow"))
        inner += [shown for shown in [findings(plan.findings)] if shown is not None]
        parts += [Padding(part, (0, 0, 0, 2), expand=False) for part in inner]
    elif preview.problem and preview.seen is not None:
        parts.append(Padding(Text(f"no plan: {preview.problem}", style="yellow"), (0, 0, 0, 2)))
    return Group(*parts)


def summary(previews: Iterable[Preview]) -> Text:
    """The last line: what presses, and what could be freed in all."""
    shown = list(previews)
    pressing = [preview for preview in shown if preview.gap.open]
    unknown = [preview for preview in shown if not preview.gap.known]
    parts = [f"{len(shown)} targets", f"{len(pressing)} above target" if pressing else "nothing presses"]
    if unknown:
        parts.append(f"{len(unknown)} unknown")
    return Text(", ".join(parts) + ". Nothing was changed.", style="bold")
