"""What `ansai report memory` says of a host and of its services."""

from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise

from rich.text import Text

from functions.core.remedy import Case
from functions.memory.services import observe
from infra.cli.report_view import Cells, Rows, View, duration, sizes
from schemas.facts.files import Fact
from schemas.facts.processes import MemoryMapping, ProcessGrowth, ProcessMemory
from schemas.memory import MemoryPressure, MemoryTrend
from schemas.probes import ProbeError, Probes
from schemas.settings.root import Configuration
from schemas.text import show_path, sparkline
from schemas.units import show_size

SPARKS = 8
"""Blocks of a sparkline in the table; below it there are all."""

FLAT = 0.02
"""Of the highest sample: differences below look flat."""

LARGEST, MAPPINGS = 5, 5
"""Processes of a service, and mappings of the largest one, that are told."""

COMMAND = 60
"""Characters of a process's arguments."""

NEGLIGIBLE = 1024
"""Bytes an hour."""

HOST = "host"


def cells(health: MemoryTrend) -> Cells:
    limit = show_size(health.limit) if health.limit is not None else "none"
    drawn = Text(drawing(_condensed(health.sparkline)), style="cyan")
    return _size(health.held), limit, drawn, _pace(health.per_hour), duration(health.seconds_to_limit)


def details(health: MemoryTrend) -> Rows:
    if health.held is not None:
        yield "now", f"{show_size(health.held)} held{_use(health)}"
    yield "trend", f"{_trend(health)}{_over(health)}"
    if health.sparkline:
        low, high = show_size(min(health.sparkline)), show_size(max(health.sparkline))
        yield "", f"{drawing(health.sparkline)}  {low} to {high}"
    if health.per_hour is not None:
        yield "slope", f"{_pace(health.per_hour) or '0 B'} an hour{_interval(health)}"
    if health.seconds_to_limit is not None:
        yield "forecast", f"at its limit in {duration(health.seconds_to_limit)}"
    grown = [(f"+{show_size(each.grown)}", _grown(each)) for each in health.processes]
    yield from _labelled("grew most", sizes(grown))
    if health.out_of_memory_kills:
        yield "killed", f"{health.out_of_memory_kills} times by the kernel, for lack of memory"


def _grown(process: ProcessGrowth) -> str:
    return f"process {process.identity.pid} since {process.since:%H:%M} UTC, now {show_size(process.memory)}"


def _use(health: MemoryTrend) -> str:
    if health.working_set is None:
        return ""
    used = f", {show_size(health.working_set)} in use"
    if not health.limit:
        return f"{used}, without a limit"
    whose = "what the host has left" if health.limit_at == HOST else show_path(health.limit_at)
    return f"{used}, {100 * health.working_set / health.limit:.0f} % of {show_size(health.limit)} ({whose})"


def _trend(health: MemoryTrend) -> str:
    return f"{health.trend}, says the {health.detector} detector" if health.detector is not None else f"{health.trend}"


def _over(health: MemoryTrend) -> str:
    """By how much the fitted line rose or fell."""
    if health.floor_start is None or health.floor_now is None:
        return ""
    within = f" within {duration(health.window)}" if health.window else ""
    return f"; its floor went from {show_size(health.floor_start)} to {show_size(health.floor_now)}{within}"


def _interval(health: MemoryTrend) -> str:
    if health.per_hour_low is None or health.per_hour_high is None:
        return ""
    return f", between {show_size(health.per_hour_low)} and {show_size(health.per_hour_high)} with 95 % confidence"


def _size(value: int | None) -> str:
    return show_size(value) if value is not None else ""


def _pace(per_hour: float | None) -> str:
    if per_hour is None or abs(per_hour) < NEGLIGIBLE:
        return ""
    return f"{'+' if per_hour > 0 else ''}{show_size(per_hour)}"


def drawing(samples: Iterable[int]) -> str:
    """`▁▂▅█`; small differences look flat."""
    drawn = list(samples)
    return sparkline(drawn, smallest_span=FLAT * max(drawn, default=0))


def _condensed(samples: tuple[int, ...]) -> list[int]:
    """The lowest of each of `SPARKS` equal stretches. Pure."""
    count = min(SPARKS, len(samples))
    bounds = [number * len(samples) // count for number in range(count + 1)] if count else []
    return [min(samples[begin:end]) for begin, end in pairwise(bounds)]


class Closer(Fact):
    """Who holds the memory."""

    held: int
    working_set: int
    count: int
    """of its processes"""
    processes: tuple[ProcessMemory, ...]
    """the largest"""
    mappings: tuple[MemoryMapping, ...] = ()
    """the largest of the largest process"""
    problem: str = ""
    """why there are none"""


def look(configuration: Configuration, host: str, health: MemoryTrend, probes: Probes) -> Closer:
    """The same run that was told of. Raises ProbeError when it is gone, or can't be read."""
    case = Case(host, health.target, configuration.memory_monitoring, datetime.now(UTC), heard=health)
    seen = observe(case, probes)
    if seen.instance != health.instance or not seen.processes:
        raise ProbeError(seen.reason or "it was restarted since it was told of")
    found = sorted(probes.processes.memory(seen.processes), key=lambda process: (-process.memory, process.identity.pid))
    closer = Closer(
        held=seen.held, working_set=seen.working_set, count=len(seen.processes), processes=tuple(found[:LARGEST])
    )
    try:
        mappings = probes.processes.mappings(found[0].identity.pid, MAPPINGS) if found else []
    except ProbeError as error:
        return closer.model_copy(update={"problem": str(error)})
    return closer.model_copy(update={"mappings": tuple(mappings)})


def closely(closer: Closer) -> Rows:
    lines = [(show_size(each.memory), f"process {each.identity.pid}: {_named(each)}") for each in closer.processes]
    yield from _labelled("largest", sizes(lines))
    if (more := closer.count - len(closer.processes)) > 0:
        yield "", f"and {more} more processes"
    maps = [(show_size(each.memory), show_path(each.name)) for each in closer.mappings]
    yield from _labelled(f"of {closer.mappings[0].pid}" if closer.mappings else "", sizes(maps))
    if closer.problem:
        yield "", closer.problem


def _named(process: ProcessMemory) -> str:
    command = " ".join(process.identity.command.split())
    short = command if len(command) <= COMMAND else f"{command[: COMMAND - 1]}…"
    return f"{short or 'no arguments'}{'' if process.exact else ' (resident set)'}"


def _labelled(label: str, lines: Iterable[str]) -> Rows:
    for number, line in enumerate(lines):
        yield "" if number else label, line


def pressure_cells(health: MemoryPressure) -> Cells:
    swap = show_size(health.swap_total - health.swap_free) if health.swap_total else "none"
    kills = f"{health.out_of_memory_kills}" if health.out_of_memory_kills is not None else ""
    return _size(health.available), _size(health.total), swap, _waited(health.some10), kills


def pressure_details(health: MemoryPressure) -> Rows:
    if health.swap_total:
        yield "swap", f"{show_size(health.swap_free)} of {show_size(health.swap_total)} are free"
    if health.some10 is not None and health.full10 is not None:
        some, every = _waited(health.some10), _waited(health.full10)
        yield "waiting", f"{some} of the last ten seconds some task waited for memory, {every} of them all did"
    if health.unreclaimable is not None:
        yield "kernel", f"{show_size(health.unreclaimable)} that no pressure frees"
    if health.out_of_memory_kills:
        yield "killed", f"{health.out_of_memory_kills} processes since boot, {health.recent_kills} of them lately"
    if health.guard:
        yield "guard", f"{health.guard} acts when memory runs out"


def _waited(percent: float | None) -> str:
    return f"{percent:.0f} %" if percent is not None else ""


PRESSURE = View(
    MemoryPressure, (">available", ">of", ">swap used", ">waiting", ">kills"), pressure_cells, pressure_details
)

TREND = View(MemoryTrend, (">held", ">limit", "trend", ">an hour", ">limit in"), cells, details, look, closely)
