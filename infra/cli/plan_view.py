"""How plans look on a terminal: per target a bar and a level, below it the ladder, rung by rung."""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from functions.core.plan import Plan, Rung
from functions.core.shown import shown
from infra.cli.amounts import amount, amounts
from infra.cli.lines import STYLES
from infra.hosts.preview import Preview
from schemas.remediation import Finding
from schemas.text import show_path

BAR = 24
"""Characters of a usage bar."""
NAME, PERCENT, LEVEL = 14, 5, 8
"""Characters of the other columns of a line at least."""
FINDINGS = 12
"""Findings shown for one target; the rest are counted."""


def header(preview: Preview, names: int = 0) -> Table:
    """One line about the target: name, bar, percent, level, figures, verdict.

    *names*: the width of the longest one, where many such lines stand below each other.
    """
    line = Table.grid(padding=(0, 2))
    line.add_column(min_width=max(names, NAME))
    cells = fullness(preview)
    if names:
        for width in (BAR, PERCENT, LEVEL):
            line.add_column(min_width=width)
        cells = _aligned(cells)
    said = "" if explained(preview) else verdict(preview)
    line.add_row(Text(show_path(preview.target) or "its targets", style="bold"), *cells, Text(said, style="dim"))
    return line


def _aligned(cells: tuple[Text, ...]) -> tuple[Text, ...]:
    """What `fullness` gives, as bar, percent, level and figures."""
    none = Text("")
    match cells:
        case (level,):
            return none, none, level, none
        case (unknown, problem):
            return unknown, none, none, problem
        case (figures, _, level):
            return figures, none, level, none
    return cells


def fullness(preview: Preview) -> tuple[Text, ...]:
    """Bar, percent, level and figures of what fills up; only the level of anything else; `unknown` when not seen."""
    if preview.seen is None:
        none = preview.gap.closed  # there is nothing to be seen
        what = Text("none", style="dim") if none else Text("unknown", style=STYLES["unknown"])
        return what, Text(preview.problem)
    looks = shown(preview.seen)
    level = Text(looks.level.value, style=STYLES[looks.level.value]) if looks.level is not None else Text("")
    if looks.percent is not None:
        return bar(looks.percent, str(level.style)), Text(f"{looks.percent:>3.0f} %"), level, Text(looks.figures)
    return (Text(looks.figures), Text(""), level) if looks.figures else (level,)


def explained(preview: Preview) -> bool:
    """Whether the verdict is a sentence that has a line of its own."""
    return not preview.gap.closed and not preview.problem and shown(preview.seen).reason


def bar(percent: float, style: str, width: int = BAR) -> Text:
    """`█████▌····`, in eighths of a character."""
    eighths = round(min(max(percent, 0), 100) / 100 * width * 8)
    full, part = divmod(eighths, 8)
    drawn = "█" * full + (" ▏▎▍▌▋▊▉"[part].strip() if part else "")
    return Text.assemble((drawn, style), ("·" * (width - len(drawn)), "dim"))


def verdict(preview: Preview) -> str:
    """Whether something presses, as a few words; a whole sentence where the figures don't say it all."""
    gap = preview.gap
    if not gap.known:
        return "" if preview.problem else gap.reason
    if gap.closed:
        return "" if preview.problem else "not needed now"
    if gap.verifying:
        return gap.reason or "healthy for now"
    if shown(preview.seen).reason and gap.reason:
        return gap.reason
    over = f"{amount(gap.amount or 0, gap.unit)} over target"
    return f"{over}; advice only" if preview.plan is not None and preview.plan.advice else over


FREED = frozenset({"bytes", "inodes"})
"""Units of what can be freed; of others something can only be changed."""


def effect(unit: str) -> str:
    """`could free`, of a plan that is measured in *unit*."""
    return "could free" if unit in FREED else "could change"


def ladder(preview: Preview) -> Table | None:
    """The rungs in order: what, how many candidates, how much they could free, and what would run now."""
    plan = preview.plan
    if plan is None or plan.empty:
        return None
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for heading in ("", "rung", ">candidates", f">{effect(preview.gap.unit)}", "undo", "now"):
        table.add_column(heading.removeprefix(">"), justify="right" if heading.startswith(">") else "left")
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
            ("· ", "dim"), finding.title, (_detail(finding), "dim"),
            (f"\n    {_command(finding)}" if finding.command else "", "cyan"),
        )
        for finding in found[:FINDINGS]
    ]  # fmt: skip
    if len(found) > FINDINGS:
        lines.append(Text(f"· and {len(found) - FINDINGS} more; all of them: --json", style="dim"))
    return Group(*lines)


def _detail(finding: Finding) -> str:
    """Behind the title; what has several lines stands below it."""
    several = "\n" in finding.detail
    detail = finding.detail.replace("\n", "\n    ")
    return (f"\n    {detail}" if several else f" — {detail}") if detail else ""


def _command(finding: Finding) -> str:
    from shlex import join

    return join(finding.command)


def totals(plan: Plan, unit: str) -> str:
    """All rungs together, as `≤ 3.2 GiB`."""
    freed, exact = estimated(plan.rungs, unit)
    return f"{'' if exact else '≤ '}{amounts(freed)}"


def block(preview: Preview, names: int = 0) -> RenderableType:
    """Everything about one target. *names*: as for `header`."""
    parts: list[RenderableType] = [header(preview, names)]
    if explained(preview):
        parts.append(Padding(Text(verdict(preview), style="dim"), (0, 0, 0, 2)))
    plan = preview.plan
    if plan is not None:
        rungs = ladder(preview)
        inner: list[RenderableType] = [rungs] if rungs is not None else [Text(shown(preview.seen).idle, "dim")]
        if plan.advice and preview.gap.open:
            inner.append(Text(f"advice only: {plan.advice}", style="yellow"))
        inner += [told for told in [findings(plan.findings)] if told is not None]
        parts += [Padding(part, (0, 0, 0, 2), expand=False) for part in inner]
    elif preview.problem and preview.seen is not None:
        parts.append(Padding(Text(f"no plan: {preview.problem}", style="yellow"), (0, 0, 0, 2)))
    return Group(*parts)


def summary(previews: Iterable[Preview]) -> Text:
    """The last line: what presses, and what could be freed in all."""
    every = [preview for preview in previews if preview.target or not preview.gap.closed]
    pressing = [preview for preview in every if preview.gap.open]
    unknown = [preview for preview in every if not preview.gap.known]
    above = "above target" if all(preview.gap.unit in FREED for preview in pressing) else "unhealthy"
    parts = [f"{len(every)} targets", f"{len(pressing)} {above}" if pressing else "nothing presses"]
    if unknown:
        parts.append(f"{len(unknown)} unknown")
    return Text(", ".join(parts) + ". Nothing was changed.", style="bold")
