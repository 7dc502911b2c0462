"""Report a host that runs out of memory: what is available, how long tasks wait for it, and whom the kernel killed."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from time import monotonic

from pydantic import AwareDatetime

from collectors.core.collector import Collector, Memory
from collectors.core.levels import Standing, stand
from collectors.memory import growth
from collectors.memory.growth import Figures
from collectors.memory.instances import KILLED
from collectors.memory.series import Series
from collectors.memory.trend import criteria_of
from schemas.facts.cgroups import HostMemory
from schemas.facts.files import Fact
from schemas.facts.memory import Growth, Trend
from schemas.health import Health, Level
from schemas.memory import MemoryPressure
from schemas.probes import ProbeError, Probes
from schemas.settings.memory import MemoryMonitoring
from schemas.text import Text, plain
from schemas.units import show_duration, show_size

TARGET = "host:memory"

CONFIRM = 2
"""Samples in a row before a worse level is believed: starting a large program is no emergency."""

EASE = 1.2
"""A level is left when this much more is available than where it was entered, and tasks wait this much less."""

KILLS_TOLD = timedelta(minutes=15)
"""Kills are told for so long: longer than `steady_every`, so that an event says it even if no level changes."""

SWAP_FULL = 0.9

GUARDS = ("systemd-oomd", "earlyoom", "nohang")
"""Programs that end processes before the kernel does; we do not compete with one."""

UNITS_NAMED = 5


class Seen(Fact):
    """The host, and who else looks after its memory."""

    host: HostMemory
    guard: str = ""
    guard_error: str = ""
    killed_units: tuple[str, ...] = ()
    """of which systemd says that they were killed for lack of memory; looked for only after a kill"""


class PressureMemory(Memory):
    standing: Standing | None = None
    kills: int | None = None
    """since boot, at the last sample"""
    told_kills: tuple[tuple[AwareDatetime, int], ...] = ()
    """when how many were seen, not older than `KILLS_TOLD`"""
    killed_units: tuple[Text, ...] = ()
    unreclaimable: Series = Series()
    growth: Growth | None = None


def read(_settings: MemoryMonitoring, probes: Probes, memory: PressureMemory) -> Seen:
    """Raises ProbeError when the host's memory can't be read."""
    host = probes.memory.host()
    guard, error = "", ""
    try:
        running = probes.processes.named(GUARDS)
        guard = ", ".join(name for name in GUARDS if name in running)
    except ProbeError as problem:
        error = str(problem)
    killed = _killed_units(probes) if _new_kills(host, memory) or memory.told_kills else ()
    return Seen(host=host, guard=guard, guard_error=error, killed_units=killed)


def _killed_units(probes: Probes) -> tuple[str, ...]:
    """Those that went down lately. None is known where systemd does not answer, and what runs again is not told."""
    try:
        units = probes.units.services(("*.service",))
    except ProbeError:
        return ()
    since = monotonic() - 2 * KILLS_TOLD.total_seconds()
    return tuple(
        plain(unit.name)
        for unit in units
        if unit.result == KILLED and (unit.inactive_since is None or unit.inactive_since >= since)
    )


def _new_kills(host: HostMemory, memory: PressureMemory) -> int:
    """Since the sample before; after a boot they are counted from 0."""
    count, before = host.out_of_memory_kills, memory.kills
    if count is None or before is None:
        return 0
    return count - before if count >= before else count


def judge(
    settings: MemoryMonitoring, reading: Seen, memory: PressureMemory, now: datetime
) -> tuple[list[Health], PressureMemory]:
    """One event, about the whole host."""
    host = reading.host
    raw, why = level_of(settings, host)
    eased, _ = level_of(_ease(settings), host)
    standing = stand(memory.standing, raw, eased, now, confirm=CONFIRM, recent=3 * settings.every)
    kills = _new_kills(host, memory)
    told = tuple((at, count) for at, count in memory.told_kills if abs(now - at) < KILLS_TOLD)
    series = memory.unreclaimable.add(now, host.unreclaimable, every=settings.every)
    memory = memory.model_copy(
        update={
            "standing": standing,
            "kills": host.out_of_memory_kills if host.out_of_memory_kills is not None else memory.kills,
            "told_kills": (*told, (now, kills)) if kills else told,
            "killed_units": reading.killed_units,
            "unreclaimable": series,
            "growth": growth.judge(
                series, Figures(host.unreclaimable, None), before=memory.growth, criteria=criteria_of(settings)
            ),
        }
    )
    return [_event(reading, memory, _with_standing(why, raw, standing), standing.level, now)], memory


def level_of(settings: MemoryMonitoring, host: HostMemory) -> tuple[Level, str]:
    """Of one sample by itself, and why, as a sentence. Pure."""
    percent = available_percent(host)
    waited = host.pressure.full10 if host.pressure is not None else 0.0
    seen = f"{show_size(host.available)} of {show_size(host.total)} are available, {percent:.1f} %"
    if host.pressure is not None:
        seen += f"; for {waited:.0f} % of ten seconds every task waited for memory"
    for level, least, most in (
        (Level.CRITICAL, settings.available_critical_percent, settings.pressure_critical_percent),
        (Level.WARNING, settings.available_percent, settings.pressure_percent),
    ):
        if percent < least:
            return level, f"{seen}; {level} is below {least:g} % available"
        if waited >= most > 0:
            return level, f"{seen}; {level} is from {most:g} % on"
    return Level.OK, seen


def available_percent(host: HostMemory) -> float:
    return 100 * host.available / host.total if host.total else 100.0


def _ease(settings: MemoryMonitoring) -> MemoryMonitoring:
    """The same limits, moved to the healthy side: what is worse even than these has not recovered."""
    return settings.model_copy(
        update={
            "available_percent": settings.available_percent * EASE,
            "available_critical_percent": settings.available_critical_percent * EASE,
            "pressure_percent": settings.pressure_percent / EASE,
            "pressure_critical_percent": settings.pressure_critical_percent / EASE,
        }
    )


def _with_standing(why: str, raw: Level, standing: Standing) -> str:
    if standing.level.rank > raw.rank:
        return f"{why}; it stays {standing.level} until it is clear of where that began"
    if standing.level.rank < raw.rank:
        return f"{why}; {raw} is believed after {CONFIRM} samples in a row, this is number {standing.seen}"
    return why


def _event(reading: Seen, memory: PressureMemory, reason: str, level: Level, now: datetime) -> MemoryPressure:
    host, pressure = reading.host, reading.host.pressure
    return MemoryPressure(
        target=TARGET, level=level, reason=reason, observed_at=now, total=host.total, available=host.available,
        swap_total=host.swap_total, swap_free=host.swap_free,
        some10=pressure.some10 if pressure is not None else None,
        full10=pressure.full10 if pressure is not None else None,
        full60=pressure.full60 if pressure is not None else None,
        unreclaimable=host.unreclaimable, out_of_memory_kills=host.out_of_memory_kills,
        recent_kills=sum(count for _, count in memory.told_kills), guard=reading.guard,
        findings=tuple(_findings(reading, memory)),
    )  # fmt: skip


def _findings(reading: Seen, memory: PressureMemory) -> Iterator[str]:
    host = reading.host
    if memory.told_kills:
        yield _kills_text(memory)
    if host.swap_total and host.swap_free < (1 - SWAP_FULL) * host.swap_total:
        used = host.swap_total - host.swap_free
        yield f"swap is nearly full: {show_size(used)} of {show_size(host.swap_total)} are used"
    if memory.growth is not None and memory.growth.trend is Trend.GROWING:
        yield (
            f"the kernel's own memory that no pressure frees (SUnreclaim) has grown by"
            f" {show_size(memory.growth.per_hour or 0)} an hour for {show_duration(memory.growth.window)}, to"
            f" {show_size(host.unreclaimable)}: no service is to blame; slabtop tells which cache it is"
        )
    if host.pressure is None:
        yield "this kernel has no pressure stall information: how long tasks wait is not known"
    if reading.guard:
        yield f"{reading.guard} ends processes here when memory runs out"
    if reading.guard_error:
        yield f"whether another program ends processes when memory runs out is not known: {reading.guard_error}"


def _kills_text(memory: PressureMemory) -> str:
    count, first = sum(count for _, count in memory.told_kills), memory.told_kills[0][0]
    killed = f"{count} process{'' if count == 1 else 'es'} killed for lack of memory since {first:%H:%M} UTC"
    if not memory.killed_units:
        return f"{killed}; no unit that is down says it was its own, journalctl -k tells which it was"
    names = [*memory.killed_units[:UNITS_NAMED]]
    if len(memory.killed_units) > UNITS_NAMED:
        names.append(f"{len(memory.killed_units) - UNITS_NAMED} more")
    return f"{killed}; units that were: {', '.join(names)}"


def unknown(_memory: PressureMemory, target: str, reason: str, now: datetime) -> MemoryPressure:
    """The event when the host's memory can't be read."""
    return MemoryPressure(target=target, level=Level.UNKNOWN, reason=reason, observed_at=now)


COLLECTOR = Collector(
    name="memory.pressure",
    title="A host that runs out of memory",
    section_name="memory_monitoring",
    section=MemoryMonitoring,
    health=MemoryPressure,
    memory=PressureMemory,
    read=read,
    judge=judge,
    unknown=unknown,
)
