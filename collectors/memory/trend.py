"""Report services whose memory grows without end, and how soon they reach their limit."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import AwareDatetime, Field

from collectors.core.collector import Collector, Memory
from collectors.core.levels import Standing, stand
from collectors.memory import growth, instances
from collectors.memory.growth import Criteria, Figures
from collectors.memory.instances import HOST, Holding, Instance, Known
from collectors.memory.series import LEAST_GAP, SETTLE, Series
from collectors.memory.shares import Shares
from schemas.facts.files import Fact
from schemas.facts.memory import Growth, Trend
from schemas.health import Health, Level
from schemas.memory import MemoryTrend
from schemas.probes import Probes
from schemas.settings.memory import MemoryMonitoring
from schemas.text import show_path
from schemas.units import LONGEST_DURATION, show_duration, show_size

CONFIRM = 2
"""Samples in a row before a worse level is believed; the detectors have looked for longer already."""

REMEMBERED = timedelta(days=1)
"""What has ended is forgotten after this time, with what would be its normal size."""

KILL_TOLD = timedelta(minutes=15)
"""A kill for lack of memory is a warning for so long: one that comes back every few minutes is one incident."""

EASE = 1.5
"""A level is left when growth would not be called so even with limits that are this factor less strict …"""
EASE_SHARE = 0.03
"""… and shares of a limit by this much."""

SHARED_SHARE = 0.5
"""Of the growth: with less of it in shared memory a restart frees the most part."""

SPARKS = 60

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class TargetMemory(Fact):
    """What is remembered of one service and its latest instance."""

    instance: str = ""
    series: Series = Series()
    growth: Growth | None = None
    """what was said of the last sample"""
    plateaus: tuple[int, ...] = ()
    """bytes at which the instances before stood"""
    standing: Standing | None = None
    shared_first: int = 0
    """bytes of shared memory when the series began"""
    out_of_memory_kills: int | None = None
    killed_at: AwareDatetime | None = None
    kills: int = 0
    """of them, seen at `killed_at`"""
    strangled: bool = False
    """by its high, at the last sample"""
    shares: Shares = Shares()
    sampled_at: AwareDatetime | None = None
    present: bool = True
    """a target at the last look"""
    failing: bool = False
    """it could not be read the last time"""


class TrendMemory(Memory):
    targets: dict[str, TargetMemory] = Field(default_factory=dict)


def read(settings: MemoryMonitoring, probes: Probes, memory: TrendMemory) -> list[Instance]:
    known = {
        target: Known(each.failing, at.timestamp(), closely=_closely(each, at + settings.every))
        for target, each in memory.targets.items()
        if each.present and (at := each.sampled_at or LONG_AGO)
    }
    return instances.read_all(settings, probes, known)


def _closely(known: TargetMemory, now: datetime) -> bool:
    """Whether its processes are to be looked at one by one."""
    grows = known.growth is not None and known.growth.trend.leaks
    return known.shares.due(known.series.age, now, grows=grows)


def judge(
    settings: MemoryMonitoring, reading: list[Instance], memory: TrendMemory, now: datetime
) -> tuple[list[Health], TrendMemory]:
    """An event for every instance; what has ended is no target any more, and is remembered for a day."""
    events: list[Health] = []
    targets = {
        target: known.model_copy(update={"present": False})
        for target, known in memory.targets.items()
        if known.sampled_at is not None and abs(now - known.sampled_at) <= REMEMBERED
    }
    for instance in reading:
        known = memory.targets.get(instance.target, TargetMemory())
        if instance.killed:
            if instance.target in targets:  # else it is forgotten, and what keeps it down is told elsewhere
                targets[instance.target] = _with_its_end(known, now)
                events.append(_killed(instance, known, now))
        elif instance.left_out and _is_fresh(known, now):
            targets[instance.target] = known
            events.append(_as_last_seen(instance, known, now))
        elif instance.holding is None:
            failing = known.failing or not instance.left_out
            targets[instance.target] = known.model_copy(update={"present": True, "failing": failing})
            events.append(_unknown(instance.target, known, f"{instance.target} can't be read: {instance.error}", now))
        else:
            case = _sample(settings, instance, instance.holding, known, now)
            targets[instance.target] = case.known
            events.append(_event(case))
    return events, memory.model_copy(update={"targets": targets})


@dataclass(frozen=True)
class _Case:
    """All that an event about one instance is made from; *known* has this sample already."""

    settings: MemoryMonitoring
    instance: Instance
    holding: Holding
    known: TargetMemory
    growth: Growth
    raw: Level
    """of this sample by itself"""
    standing: Standing
    now: datetime

    @property
    def kills(self) -> int:
        """Processes killed for lack of memory, as long as that is news."""
        at = self.known.killed_at
        return self.known.kills if at is not None and abs(self.now - at) < KILL_TOLD else 0

    @property
    def level(self) -> Level:
        return max(self.standing.level, Level.WARNING if self.kills else Level.OK, key=lambda level: level.rank)


def _sample(
    settings: MemoryMonitoring, instance: Instance, holding: Holding, known: TargetMemory, now: datetime
) -> _Case:
    kills = _new_kills(holding.out_of_memory_kills, known.out_of_memory_kills)
    known = known if known.instance == instance.name else _next_run(known, instance)
    series = known.series.add(now, holding.held, every=settings.every)
    figures = Figures(holding.working_set, holding.limit.size if holding.limit is not None else None)
    said = growth.judge(series, figures, before=known.growth, plateaus=known.plateaus, criteria=criteria_of(settings))
    strangled = holding.strangled or (known.strangled and holding.nearly_strangled)
    slowed = Level.WARNING if strangled else Level.OK
    raw = eased = max(level_of(settings, said, figures), slowed, key=lambda level: level.rank)
    if known.standing is not None and known.standing.level.rank > raw.rank:
        eased = _eased_level(settings, series, figures, known)
    standing = stand(known.standing, raw, eased, now, confirm=CONFIRM, recent=3 * settings.every)
    shares = known.shares
    if instance.processes and _closely(known, now):
        shares = shares.looked(instance.processes, now)
    known = known.model_copy(
        update={
            "shares": shares,
            "series": series, "growth": said, "standing": standing, "sampled_at": now, "present": True,
            "failing": False, "out_of_memory_kills": holding.out_of_memory_kills,
            "shared_first": known.shared_first if series.began == known.series.began else holding.shared,
            "killed_at": now if kills else known.killed_at, "kills": kills or known.kills, "strangled": strangled,
        }
    )  # fmt: skip
    return _Case(settings, instance, holding, known, said, raw, standing, now)


def _eased_level(settings: MemoryMonitoring, series: Series, figures: Figures, known: TargetMemory) -> Level:
    easier = _ease(settings)
    strict = criteria_of(easier)
    criteria = strict.model_copy(
        update={
            "in_a_row": 1, "z": strict.z / EASE, "late_share": strict.late_share / EASE,
            "day_share": strict.day_share / EASE,
        }
    )  # fmt: skip
    said = growth.judge(series, figures, before=known.growth, plateaus=known.plateaus, criteria=criteria)
    return level_of(easier, said, figures)


def _new_kills(count: int | None, before: int | None) -> int:
    """Since the sample before; the counter of a group that was made anew begins at 0."""
    if count is None or before is None:
        return 0
    return count - before if count >= before else count


def _next_run(known: TargetMemory, instance: Instance) -> TargetMemory:
    """Another run begins a new series; where the last one stood, if it did, is a normal size."""
    plateaus = growth.remember(known.plateaus, known.growth) if known.growth is not None else known.plateaus
    return TargetMemory(instance=instance.name, plateaus=plateaus, killed_at=known.killed_at, kills=known.kills)


def _with_its_end(known: TargetMemory, now: datetime) -> TargetMemory:
    """The kill counts once: the counter has gone with the control group."""
    first = known.out_of_memory_kills is not None
    update = {"killed_at": now, "kills": 1} if first else {}
    return known.model_copy(update={"present": True, "failing": False, "out_of_memory_kills": None, **update})


def criteria_of(settings: MemoryMonitoring) -> Criteria:
    return Criteria(
        growth_share=settings.minimum_growth_percent / 100, growth_bytes=settings.minimum_growth,
        lead=settings.alert_within, limit_share=settings.limit_percent / 100,
    )  # fmt: skip


def level_of(settings: MemoryMonitoring, said: Growth, figures: Figures) -> Level:
    """Of one sample by itself. Pure."""
    if not said.trend.leaks:
        return Level.OK
    return Level.CRITICAL if _why_critical(settings, said, figures) else Level.WARNING


def _why_critical(settings: MemoryMonitoring, said: Growth, figures: Figures) -> str:
    soon = said.seconds_to_limit
    if soon is not None and soon < settings.act_within.total_seconds():
        return f"that is within act_within {show_duration(settings.act_within)}"
    if figures.limit is not None and 100 * figures.working_set >= settings.act_percent * figures.limit:
        used = f"{show_size(figures.working_set)} are in use, {100 * figures.working_set / max(1, figures.limit):.0f} %"
        return f"{used} of it, at or above act_percent {settings.act_percent:g} %"
    return ""


def _ease(settings: MemoryMonitoring) -> MemoryMonitoring:
    """The same limits, moved to the healthy side: what is worse even than these has not recovered."""
    return settings.model_copy(
        update={
            "minimum_growth": int(settings.minimum_growth / EASE),
            "minimum_growth_percent": settings.minimum_growth_percent / EASE,
            "alert_within": min(settings.alert_within * EASE, LONGEST_DURATION),
            "act_within": settings.act_within * EASE,
            "limit_percent": settings.limit_percent * (1 - EASE_SHARE),
            "act_percent": settings.act_percent * (1 - EASE_SHARE),
        }
    )


def _event(case: _Case) -> MemoryTrend:
    holding, said, known = case.holding, case.growth, case.known
    return MemoryTrend(
        target=case.instance.target, level=case.level, reason=_reason(case), observed_at=case.now,
        instance=known.instance, trend=said.trend, detector=said.detector, held=holding.held,
        working_set=holding.working_set, limit=holding.limit.size if holding.limit is not None else None,
        limit_at=holding.limit.at if holding.limit is not None else "", per_hour=said.per_hour,
        per_hour_low=said.per_hour_low, per_hour_high=said.per_hour_high, floor_start=said.floor_start,
        floor_now=said.floor_now, seconds_to_limit=said.seconds_to_limit, window=said.window,
        series_since=datetime.fromtimestamp(known.series.began, UTC), sparkline=sparkline(known.series),
        processes=known.shares.growing,
        out_of_memory_kills=holding.out_of_memory_kills, strangled=known.strangled, findings=tuple(_findings(case)),
    )  # fmt: skip


def _reason(case: _Case) -> str:
    figures = Figures(case.holding.working_set, case.holding.limit.size if case.holding.limit is not None else None)
    raw, believed = case.raw, case.standing.level
    why = _seen(case)
    if raw is Level.CRITICAL:
        why += f"; {_why_critical(case.settings, case.growth, figures)}"
    if case.known.strangled:
        why += f"; {_strangled_text(case)}"
    if believed.rank > raw.rank:
        why += f"; it stays {believed} until it clearly grows less"
    elif believed.rank < raw.rank:
        why += f"; {raw} is believed after {CONFIRM} samples in a row, this is number {case.standing.seen}"
    if case.kills:
        why += f"; {_kill_text(case)}"
    return why


def _seen(case: _Case) -> str:
    said, name, held = case.growth, _name(case.instance.target), show_size(case.holding.held)
    if said.trend is Trend.LEARNING:
        return f"{name} holds {held}; {show_duration(case.known.series.age)} of samples are too few to tell a leak"
    if said.trend is Trend.STEADY:
        return f"{name} holds {held}, and no leak is seen in {show_duration(said.window)}"
    since = f" for {show_duration(said.window)}" if said.trend is Trend.GROWING else ""
    return f"{name} holds {held} and grows by {show_size(said.per_hour or 0)} an hour{since}{_towards(case)}"


def _towards(case: _Case) -> str:
    """Whose limit is reached, and when."""
    limit, soon = case.holding.limit, case.growth.seconds_to_limit
    if limit is None:
        return ""
    if limit.at == HOST:
        whose = f"the end of the host's memory, at {show_size(limit.size)}"
    elif limit.shared:
        whose = f"the limit that it shares in {show_path(limit.at)}, at {show_size(limit.size)}"
    else:
        whose = f"its limit of {show_size(limit.size)}"
    return f" towards {whose}{'' if soon is None else f', there in {show_duration(soon)}'}"


def _kill_text(case: _Case) -> str:
    at = case.known.killed_at
    when = f" at {at:%H:%M} UTC" if at is not None else ""
    return f"{case.kills} of its processes {'was' if case.kills == 1 else 'were'} killed for lack of memory{when}"


def _strangled_text(case: _Case) -> str:
    high, waited = show_size(case.holding.high or 0), case.holding.waited
    return f"its MemoryHigh of {high} strangles it: all of its tasks waited for memory in {waited:.0f} % of a minute"


def _findings(case: _Case) -> Iterator[str]:
    said, holding = case.growth, case.holding
    pressed = said.trend.leaks
    if case.kills:
        yield _kill_text(case)
    if case.known.strangled:
        yield f"{_strangled_text(case)}; it neither dies nor does its work: raise or lift that limit"
    if not case.instance.restarts_itself and (case.kills or said.trend is Trend.EXHAUSTING):
        yield f"nothing starts {_name(case.instance.target)} again when the kernel kills it; see its restart policy"
    shared = holding.shared - case.known.shared_first
    grown = holding.held - (said.floor_start or 0)
    if pressed and shared > 0 and shared >= SHARED_SHARE * grown:
        yield (
            f"{show_size(shared)} of the growth is shared memory or files in tmpfs (/dev/shm, /tmp): a restart does"
            " not free files, they must be deleted"
        )
    yield from holding.notes
    yield from said.notes


def sparkline(series: Series) -> tuple[int, ...]:
    """The lowest bytes in each of `SPARKS` equal stretches of what is remembered; fewer of a young series. Pure.

    Where a stretch has no sample, it is as the one before.
    """
    if not series.recent:
        return ()
    first = series.began + SETTLE.total_seconds()
    hours = [(first + 3600 * hour, lowest) for hour, lowest in series.hourly]
    points = [point for point in hours if point[0] < series.recent[0][0]] + list(series.recent)
    start, span = points[0][0], points[-1][0] - points[0][0]
    count = min(SPARKS, len(points)) if span else 1
    width, sparks = span / count or 1.0, [points[0][1]]
    for moment, value in points:
        stretch = min(int((moment - start) / width), count - 1)
        while stretch >= len(sparks):
            sparks.append(value if stretch == len(sparks) else sparks[-1])
        if value < sparks[-1]:
            sparks[-1] = value
    return tuple(sparks)


def _name(target: str) -> str:
    return target.partition(":")[2]


def _killed(instance: Instance, known: TargetMemory, now: datetime) -> MemoryTrend:
    """It was ended for lack of memory, and nobody has started it again."""
    name = _name(instance.target)
    reason = f"{name} was ended for lack of memory ({instances.KILLED}) and does not run"
    if known.series.recent:
        reason += f"; it held {show_size(known.series.recent[-1][1])} when it was last seen"
    down = f"nothing starts {name} again: its restart policy leaves it down"
    return MemoryTrend(
        target=instance.target, level=Level.WARNING, reason=reason, observed_at=now, instance=known.instance,
        series_since=datetime.fromtimestamp(known.series.began, UTC) if known.series.recent else None,
        sparkline=sparkline(known.series), findings=() if instance.restarts_itself else (down,),
    )  # fmt: skip


def _is_fresh(known: TargetMemory, now: datetime) -> bool:
    return known.sampled_at is not None and abs(now - known.sampled_at) <= LEAST_GAP


def _as_last_seen(instance: Instance, known: TargetMemory, now: datetime) -> MemoryTrend:
    """There was no time for it, which is not its fault: what was said of it holds until it is too old."""
    said, standing = known.growth, known.standing
    if said is None or standing is None or known.sampled_at is None:
        return _unknown(instance.target, known, f"{instance.target} was never read: {instance.error}", now)
    held = known.series.recent[-1][1]
    return MemoryTrend(
        target=instance.target, level=standing.level, observed_at=known.sampled_at,
        reason=f"{_name(instance.target)} held {show_size(held)} when it was read last; {instance.error}",
        instance=known.instance, trend=said.trend, detector=said.detector, held=held, per_hour=said.per_hour,
        per_hour_low=said.per_hour_low, per_hour_high=said.per_hour_high, floor_start=said.floor_start,
        floor_now=said.floor_now, seconds_to_limit=said.seconds_to_limit, window=said.window,
        series_since=datetime.fromtimestamp(known.series.began, UTC), sparkline=sparkline(known.series),
        out_of_memory_kills=known.out_of_memory_kills, strangled=known.strangled, findings=said.notes,
    )  # fmt: skip


def unknown(memory: TrendMemory, target: str, reason: str, now: datetime) -> MemoryTrend:
    """The event about a target of which no figure is known."""
    return _unknown(target, memory.targets.get(target, TargetMemory()), reason, now)


def _unknown(target: str, known: TargetMemory, reason: str, now: datetime) -> MemoryTrend:
    return MemoryTrend(target=target, level=Level.UNKNOWN, reason=reason, observed_at=now, instance=known.instance)


COLLECTOR = Collector(
    name="memory.trend",
    title="Services whose memory grows without end",
    section_name="memory_monitoring",
    section=MemoryMonitoring,
    health=MemoryTrend,
    memory=TrendMemory,
    read=read,
    judge=judge,
    unknown=unknown,
)
