"""What `ansai up` shows: this host's targets, what could be done about them, and the last events."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from infra.cli.lines import STYLES, Line, line_of, read
from infra.cli.plan_view import bar, effect, findings, fullness, ladder, totals, verdict
from infra.hosts.preview import Preview
from schemas.health import Health, Level
from schemas.heartbeat import ComponentState, Heartbeat
from schemas.text import show_path
from schemas.units import show_duration

EVENTS = 10
"""Lines of the pane."""
SAMPLES = 40
"""Points of a sparkline."""
BLOCKS = "▁▂▃▄▅▆▇█"
SMALLEST_SPAN = 2.0
"""Percentage points over the whole height of a sparkline at least: noise should look flat."""


@dataclass(frozen=True)
class Standing:
    """What is shown above all."""

    host: str
    url: str
    mode: str
    since: datetime
    names: Sequence[str] = ()
    """what this process runs; what others run is known from their heartbeats"""


@dataclass
class Screen:
    """Fed with messages, plans and log lines; `render` draws what it knows."""

    standing: Standing
    health: dict[tuple[str, str], Health] = field(default_factory=dict)
    """by target and type: several collectors may look at one target"""
    previews: dict[tuple[str, str], Preview] = field(default_factory=dict)
    beats: dict[str, Heartbeat] = field(default_factory=dict)
    events: deque[Line] = field(default_factory=lambda: deque(maxlen=EVENTS))
    history: dict[str, deque[float]] = field(default_factory=dict)
    planning: bool = True

    def hear(self, subject: str, body: bytes, at: datetime) -> Line | None:
        """Take one message in; the line to show for it, none for what only repeats itself."""
        event = read(body)
        if event is not None and isinstance(event.data, Heartbeat):
            self._beat(event.data)
        if subject.startswith("ansai.heartbeat."):
            return None
        line = line_of(subject, body, at)
        if event is not None and isinstance(event.data, Health):
            before = self.health.get(_key(event.data))
            self._health(event.data)
            if before is not None and before.level is event.data.level:
                return None
        if line.kind == "audit":
            return None  # the action events say the same, for people
        self.events.append(line)
        return line

    def look(self, preview: Preview) -> None:
        """Take one target's plan in."""
        self.previews[preview.function, preview.target] = preview

    def _beat(self, beat: Heartbeat) -> None:
        if beat.state is ComponentState.STOPPING:
            self.beats.pop(beat.component, None)
        else:
            self.beats[beat.component] = beat

    def _health(self, health: Health) -> None:
        self.health[_key(health)] = health
        percent = getattr(health, "percent", None)
        if percent is not None:
            self.history.setdefault(health.target, deque(maxlen=SAMPLES)).append(float(percent))

    def render(self) -> RenderableType:
        parts: list[RenderableType] = [self._title(), self._targets()]
        shown = [preview for preview in self.previews.values() if preview.plan is not None]
        for preview in shown:
            rungs = ladder(preview)
            if rungs is not None and preview.plan is not None:
                parts += [
                    Rule(Text(f"{preview.function} {show_path(preview.target)} — {could(preview)}"), align="left")
                ]
                parts.append(Padding(rungs, (0, 0, 0, 2), expand=False))
                if (told := findings(preview.plan.findings)) is not None:
                    parts.append(Padding(told, (0, 0, 0, 2), expand=False))
        if self.planning:
            parts.append(Text("looking for what could be cleaned…", style="dim"))
        parts.append(Rule(Text("events"), align="left"))
        parts += [line.rich() for line in self.events] or [Text("none yet", style="dim")]
        parts.append(Text("Ctrl-C stops everything", style="dim"))
        return Group(*parts)

    def _title(self) -> Text:
        standing = self.standing
        beating = {name for beat in self.beats.values() for name in beat.names}
        running = ", ".join(sorted({*standing.names, *beating})) or "starting"
        age = show_duration(datetime.now(UTC) - standing.since)
        mode_style = "yellow" if standing.mode == "auto" else "green"
        return Text.assemble(
            ("ANSAI", "bold cyan"),
            f" on {standing.host} · ",
            (standing.mode, mode_style),
            f" · {standing.url} · {running} · {age}",
        )

    def _targets(self) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        previews = {target: preview for (_, target), preview in self.previews.items()}
        told = {target: health for (target, _), health in sorted(self.health.items(), key=_worst_last)}
        for target in dict.fromkeys([*previews, *(target for target, _ in self.health)]):
            table.add_row(Text(show_path(target), style="bold"), *self._cells(previews.get(target), told.get(target)))
        return table

    def _cells(self, preview: Preview | None, health: Health | None) -> Sequence[Text]:
        trend = Text(sparkline(self.history.get(health.target, ())) if health else "", style="cyan")
        percent = getattr(health, "percent", None)
        if health is not None and percent is not None:
            style = STYLES[health.level.value]
            state = (bar(percent, style), Text(f"{percent:>3.0f} %"), Text(health.level.value, style=style))
        elif health is not None:
            state = (Text(""), Text(""), Text(health.level.value, style=STYLES[health.level.value]))
        elif preview is not None:
            known = fullness(preview)
            state = (known[0], known[1] if len(known) > 1 else Text(""), known[2] if len(known) > 2 else Text(""))
        else:
            state = (Text(""), Text(""), Text(""))
        words = verdict(preview) if preview is not None else ""
        if health is not None and health.level is Level.UNKNOWN:
            words = health.reason
        return (*state, trend, Text(words, style="dim"))


def _key(health: Health) -> tuple[str, str]:
    return health.target, health.type_name()


def _worst_last(told: tuple[tuple[str, str], Health]) -> int:
    return told[1].level.rank


def could(preview: Preview) -> str:
    """`could free 3.2 GiB`, and whether it is needed."""
    assert preview.plan is not None
    unit = preview.gap.unit
    return f"{effect(unit)} {totals(preview.plan, unit)}; {verdict(preview)}"


def sparkline(samples: Sequence[float] | deque[float]) -> str:
    """One block a sample, scaled between the lowest and the highest; flat where next to nothing changes."""
    if len(samples) < 2:
        return ""
    low, high = min(samples), max(samples)
    span = max(high - low, SMALLEST_SPAN)
    return "".join(BLOCKS[min(len(BLOCKS) - 1, int((sample - low) / span * len(BLOCKS)))] for sample in samples)
