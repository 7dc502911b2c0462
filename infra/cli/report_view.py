"""How a report looks: a table of the targets, and below it what there is to say about those that need a look."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from infra.cli.lines import STYLES
from infra.cli.report_sources import Done, Told
from infra.cli.tables import table
from schemas.facts.files import Fact
from schemas.health import Health, Level
from schemas.probes import Probes
from schemas.remediation import Finding
from schemas.settings.root import Configuration
from schemas.text import plain
from schemas.units import show_duration

DOMAINS = {
    "disk": ("infra.cli.report_disk:PRESSURE",),
    "memory": ("infra.cli.report_memory:PRESSURE", "infra.cli.report_memory:TREND"),
    "services": ("infra.cli.report_services:STATE",),
}
"""Which domains have a report, and the views of which it is made; each is imported when it is asked for."""

OLD = timedelta(minutes=15)
"""A collector tells of a steady target every five minutes; this is three words missed."""

LATELY = 6
"""Things done about a target that are shown, and findings; the rest are counted."""

Cells = tuple[str | Text, ...]
Rows = Iterable[tuple[str, str]]
"""A label, and what is said under it; an empty label goes on with the one before."""


@dataclass(frozen=True)
class View:
    """How the events of one signal are told."""

    model: type[Health]
    headings: tuple[str, ...]
    """between target and level, and when it was told"""
    cells: Callable[[Any], Cells]
    details: Callable[[Any], Rows]
    """besides its reason and its findings"""
    look: Callable[[Configuration, str, Any, Probes], Fact] | None = None
    """what the target itself tells on its own host; blocks, raises ProbeError"""
    closely: Callable[[Any], Rows] = lambda _: ()
    """that, as rows"""

    @property
    def collector(self) -> str:
        return f"{self.model.domain}.{self.model.signal}"


def views(domain: str) -> list[View]:
    """Those of a domain of `DOMAINS`."""
    found = []
    for place in DOMAINS[domain]:
        module, _, attribute = place.partition(":")
        found.append(getattr(import_module(module), attribute))
    return found


def needs_a_look(told: Told) -> bool:
    """Whether there is more to say than a line of the table."""
    return bool(told.done) or told.event is None or told.event.data.level is not Level.OK


def overview(view: View, told: Iterable[Told], now: datetime) -> RenderableType:
    """One line for each target; when it was told is said when that is long ago for any of them."""
    shown = [(each, each.event) for each in told if each.event is not None and isinstance(each.event.data, view.model)]
    ages = [now - event.time for _, event in shown]
    old = any(age > OLD for age in ages)
    rows = [
        (plain(each.target), level(event.data), *view.cells(event.data), *((_ago(age),) if old else ()))
        for (each, event), age in zip(shown, ages, strict=True)
    ]
    return table(("target", "level", *view.headings, *((">told",) if old else ())), rows)


def _ago(age: timedelta) -> Text:
    """In the largest unit only."""
    return Text(f"{' '.join(duration(age).split()[:2])} ago", style="yellow" if age > OLD else "")


def level(health: Health) -> Text:
    return Text(health.level.value, style=STYLES[health.level.value])


def duration(length: timedelta | float | None) -> str:
    """`2 d 4 h`, `12 s`; nothing for none. Parts of a second, and what clocks differ by, are not told."""
    if length is None:
        return ""
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    return show_duration(round(seconds)) if seconds >= 10 else f"{max(0, round(seconds))} s"


def block(view: View | None, told: Told) -> RenderableType:
    """Everything about one target."""
    lines = Table.grid(padding=(0, 2, 0, 0))
    lines.add_column()
    lines.add_column(overflow="fold")
    for label, said in _rows(view, told):
        lines.add_row(Text(label, style="dim"), Text(plain(said)))
    return Group(_title(told), Padding(lines, (0, 0, 0, 2), expand=False))


def _title(told: Told) -> Text:
    health = told.event.data if told.event is not None else None
    if health is None:
        return Text.assemble((plain(told.target), "bold"), (" of which no collector told within a day", "dim"))
    since = f" since {moment(health.since)}" if health.since is not None else ""
    return Text.assemble((plain(told.target), "bold"), " ", level(health), (since, "dim"))


def _rows(view: View | None, told: Told) -> Rows:
    if told.event is not None and view is not None:
        health = told.event.data
        if health.reason:
            yield "reason", health.reason
        yield from view.details(health)
        if told.closer is not None:
            yield from view.closely(told.closer)
        if told.problem:
            yield "looked", told.problem
        yield from _listed("note", getattr(health, "findings", ()))
    if told.closer is None:
        yield from _listed("found", map(_finding, told.findings))
    yield from _done(told.done)


def _listed(label: str, texts: Iterable[str]) -> Rows:
    every = list(texts)
    for number, text in enumerate(every[:LATELY]):
        yield "" if number else label, text
    if len(every) > LATELY:
        yield "", f"and {len(every) - LATELY} more; all of them: --json"


def _finding(finding: Finding) -> str:
    between = "\n" if "\n" in finding.detail else " — "
    return f"{finding.title}{between}{finding.detail}" if finding.detail else finding.title


def _done(done: Sequence[Done]) -> Rows:
    """The latest last."""
    if len(done) > LATELY:
        yield "done", f"{len(done) - LATELY} earlier ones; all of them: --json"
    for number, each in enumerate(done[-LATELY:]):
        often = f" ({each.times} times)" if each.times > 1 else ""
        first = not number and len(done) <= LATELY
        yield "done" if first else "", f"{moment(each.at)} {each.function} {each.step.value}: {each.text}{often}"


def moment(at: datetime) -> str:
    """To the minute, in the time of whoever looks."""
    return at.astimezone().strftime("%m-%d %H:%M")


def sizes(pairs: Iterable[tuple[str, str]]) -> Iterable[str]:
    """Figures aligned right before their names."""
    listed = list(pairs)
    width = max((len(figure) for figure, _ in listed), default=0)
    return [f"{figure:>{width}}  {name}" for figure, name in listed]
