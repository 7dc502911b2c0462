"""Report local filesystems that are filling up, in bytes and in inodes, and how soon they will be full."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic

from pydantic import AwareDatetime, Field

from collectors.core.collector import Aside, Collector, Memory
from collectors.core.levels import Standing, stand
from collectors.core.trend import Window
from schemas.disk import DiskPressure
from schemas.facts.files import DeletedOpen, Fact, Mount, Resource, Usage
from schemas.facts.mounts import real_filesystems
from schemas.health import Health, Level
from schemas.probes import ProbeError, Probes
from schemas.settings.disk import DiskMonitoring, Thresholds, percent_of
from schemas.text import PathText, plain
from schemas.units import show_size

HOUR, HOUR_SPACING = timedelta(hours=1), timedelta(seconds=25)
"""Keeps every sample of the default interval, 30 s ± 10 %, so that a slope is told after five minutes."""
DAY, DAY_SPACING = timedelta(hours=24), timedelta(minutes=15)

READ_SHARE = 0.4
"""Of the read's deadline, after which no other filesystem is begun; the one that is, may take the rest."""

HELD_EVERY, HELD_EVERY_PRESSED = timedelta(minutes=5), timedelta(minutes=1)
"""Between two looks at every descriptor of every process: dear, and worth more while some filesystem is too full."""
HELD_TIMEOUT = timedelta(minutes=2)
HELD_VALID = timedelta(minutes=15)
"""An older answer is no answer."""
HELD_SHARE = 0.01
"""Of a filesystem: deleted files that hold less are no finding."""
RESERVED_SHARE = 0.01
"""Of a filesystem: a smaller reserve for root is no finding."""
HOLDERS = 3
"""Processes named in a finding."""

EASE = 1.1
"""The absolute floors are left this much above where they were entered; percentages have `hysteresis`."""
EASE_TIME = 1.5
"""Likewise for the time until full, which is the noisier figure."""

SHARED_SPACE = {
    "btrfs": "btrfs: free space is the kernel's estimate, and snapshots may hold what is deleted",
    "zfs": "zfs: the percentage is this dataset's; its pool's space is shared with other datasets and snapshots",
}
"""Filesystem type → what its figures leave open. They are judged all the same: what is available is told truly."""


class Filesystem(Fact):
    """One mount with its usage, or why that could not be read."""

    mount: Mount
    usage: Usage | None = None
    error: str = ""
    left_out: bool = False
    """not its own fault: others took the time"""
    thin_pool: str | None = None
    pool_error: str = ""


class Held(Fact):
    """What deleted files keep on one device."""

    allocated: int
    holders: str
    """the largest ones, in words"""


class TargetMemory(Fact):
    """What is remembered of one resource of one filesystem."""

    mount: PathText
    resource: Resource
    source: PathText
    fstype: str
    device: str
    failing: bool = False
    """it could not be read the last time"""
    standing: Standing | None = None
    hour: Window = Window()
    day: Window = Window()


class PressureMemory(Memory):
    targets: dict[str, TargetMemory] = Field(default_factory=dict)
    held: dict[int, Held] = Field(default_factory=dict, description="By st_dev.")
    held_at: AwareDatetime | None = Field(None, description="When deleted files were last looked for, even in vain.")
    held_error: str = ""


def read(settings: DiskMonitoring, probes: Probes, memory: PressureMemory) -> list[Filesystem]:
    """Each filesystem by itself: those that can't be read, or hang, do not hide the others.

    Disks come first, what could not be read the last time comes last, and when much time is gone the rest is left
    out: servers that do not answer must not make the others unknown. Raises ProbeError without a list of mounts.
    """
    mounts = real_filesystems(probes.files.mounts(), settings)
    failing = {known.mount for known in memory.targets.values() if known.failing}
    found, began, budget = [], monotonic(), READ_SHARE * settings.read_timeout.total_seconds()
    for mount in sorted(mounts, key=lambda mount: (mount.point in failing, not mount.source.startswith("/dev/"))):
        spent = monotonic() - began
        if spent < budget:
            found.append(_filesystem(mount, probes))
        else:
            found.append(Filesystem(mount=mount, error=f"no time was left, others took {spent:.1f} s", left_out=True))
    return found


def _filesystem(mount: Mount, probes: Probes) -> Filesystem:
    try:
        usage = probes.files.usage(mount.point)
    except ProbeError as error:
        return Filesystem(mount=mount, error=str(error))
    try:
        return Filesystem(mount=mount, usage=usage, thin_pool=probes.files.thin_pool(mount.device))
    except ProbeError as error:  # rare, in a container without /sys: no reason to be blind to what is known
        return Filesystem(mount=mount, usage=usage, pool_error=str(error))


def judge(
    settings: DiskMonitoring, reading: list[Filesystem], memory: PressureMemory, now: datetime
) -> tuple[list[Health], PressureMemory]:
    """An event for the bytes of every filesystem, and one for its inodes where it counts them."""
    events: list[Health] = []
    targets: dict[str, TargetMemory] = {}
    for filesystem in reading:
        for resource in Resource:
            target = target_name(resource, filesystem.mount.point)
            known = _remembered(memory.targets.get(target), filesystem.mount, resource)
            if filesystem.usage is None:
                if resource is Resource.BYTES or target in memory.targets:  # else nobody knows whether it counts inodes
                    failing = known.failing or not filesystem.left_out
                    targets[target] = known.model_copy(update={"failing": failing})
                    events.append(_unknown(target, known, f"{known.mount} can't be read: {filesystem.error}", now))
            elif percent_of(filesystem.usage, resource) is not None:
                targets[target], standing = _sample(known, settings, filesystem.usage, now)
                case = _Case(settings, filesystem, filesystem.usage, targets[target], standing, memory, now)
                events.append(_event(target, case))
    return events, memory.model_copy(update={"targets": targets})


def target_name(resource: Resource, point: str) -> str:
    """`bytes:/var`"""
    return plain(f"{resource}:{point}")


def _remembered(known: TargetMemory | None, mount: Mount, resource: Resource) -> TargetMemory:
    """Memory of another device that was mounted at the same point says nothing about this one."""
    if known is not None and (known.device, known.fstype) == (mount.device, mount.fstype):
        return known
    return TargetMemory(
        mount=mount.point, resource=resource, source=mount.source, fstype=mount.fstype, device=mount.device
    )


def _sample(
    known: TargetMemory, settings: DiskMonitoring, usage: Usage, now: datetime
) -> tuple[TargetMemory, Standing]:
    """Memory with this sample in its windows, and how the target stands with it."""
    used, available = _figures(usage, known.resource)
    known = known.model_copy(
        update={
            "hour": known.hour.add(now, used, span=HOUR, spacing=HOUR_SPACING),
            "day": known.day.add(now, used, span=DAY, spacing=DAY_SPACING),
        }
    )
    left = seconds_to_full(available, known)
    raw, _ = settings.judge(usage, known.resource, left)
    eased, _ = _ease(settings).judge(usage, known.resource, None if left is None else left / EASE_TIME)
    standing = stand(known.standing, raw, eased, now, confirm=settings.confirm, recent=3 * settings.every)
    return known.model_copy(update={"standing": standing, "failing": False}), standing


def _figures(usage: Usage, resource: Resource) -> tuple[int, int]:
    """Used and available."""
    if resource is Resource.INODES:
        return usage.inodes_used, usage.inodes_available
    return usage.used, usage.available


def seconds_to_full(available: int, known: TargetMemory) -> float | None:
    """At the steeper of both slopes; none when neither grows."""
    steepest = max(known.hour.slope or 0.0, known.day.slope or 0.0)
    return available / steepest if steepest > 0 else None


def _ease(settings: DiskMonitoring) -> DiskMonitoring:
    """The same limits, moved to the healthy side: what is worse even than these has not recovered."""
    limits = settings.thresholds
    eased = Thresholds.model_construct(
        warning=limits.warning - settings.hysteresis,
        critical=limits.critical - settings.hysteresis,
        emergency=limits.emergency - settings.hysteresis,
    )
    return settings.model_copy(
        update={
            "thresholds": eased,
            "minimum_available": int(settings.minimum_available * EASE),
            "ample_available": int(settings.ample_available * EASE),
        }
    )


@dataclass(frozen=True)
class _Case:
    """All that an event about one readable target is made from."""

    settings: DiskMonitoring
    filesystem: Filesystem
    usage: Usage
    known: TargetMemory
    standing: Standing
    memory: PressureMemory
    now: datetime

    @property
    def held(self) -> Held | None:
        """What deleted files keep of this filesystem; none when that is not known, or no longer."""
        at = self.memory.held_at
        if at is None or self.memory.held_error or abs(self.now - at) > HELD_VALID:
            return None
        return self.memory.held.get(self.usage.device, Held(allocated=0, holders=""))


def _event(target: str, case: _Case) -> DiskPressure:
    usage, known = case.usage, case.known
    used, available = _figures(usage, known.resource)
    left = seconds_to_full(available, known)
    level, reason = case.standing.level, _reason(case, left)
    if case.filesystem.thin_pool is not None and level is Level.OK:
        level = Level.UNKNOWN
        reason = f"{reason}, but the thin pool {case.filesystem.thin_pool} below it can't be read and may be full"
    return DiskPressure(
        target=target, level=level, reason=reason, observed_at=case.now, mount=known.mount, resource=known.resource,
        source=known.source, fstype=known.fstype, used=used, available=available,
        total=usage.inodes_total if known.resource is Resource.INODES else usage.total,
        percent=percent_of(usage, known.resource), per_second=known.hour.slope, per_second_day=known.day.slope,
        seconds_to_full=left, deleted_open_bytes=case.held.allocated if case.held is not None else None,
        findings=tuple(_findings(case)),
    )  # fmt: skip


def _reason(case: _Case, left: float | None) -> str:
    raw, why = case.settings.judge(case.usage, case.known.resource, left)
    believed = case.standing.level
    if believed.rank > raw.rank:
        return f"{why}; it stays {believed} until {case.settings.hysteresis:g} points below where that began"
    if believed.rank < raw.rank:
        seen, confirm = case.standing.seen, case.settings.confirm
        return f"{why}; {raw} is believed after {confirm} reads in a row, this is number {seen}"
    return why


def _findings(case: _Case) -> Iterator[str]:
    usage, memory = case.usage, case.memory
    if case.filesystem.thin_pool is not None:
        yield f"a thin volume: its pool {case.filesystem.thin_pool} can be full while this looks fine; see lvs"
    if case.filesystem.pool_error:
        yield f"whether a thin pool lies below is not known: {case.filesystem.pool_error}"
    if case.known.fstype in SHARED_SPACE:
        yield SHARED_SPACE[case.known.fstype]
    if case.known.resource is not Resource.BYTES:
        return
    if case.held is not None and case.held.allocated >= HELD_SHARE * usage.total:
        yield f"{show_size(case.held.allocated)} held by deleted files: {case.held.holders}"
    if case.standing.level is Level.OK:
        return
    if memory.held_error:
        yield f"what deleted files hold is not known: {memory.held_error}"
    reserved = usage.root_available - usage.available
    if reserved >= RESERVED_SHARE * usage.total:
        yield f"{show_size(reserved)} are kept for root; ordinary users have {show_size(usage.available)}"


def unknown(memory: PressureMemory, target: str, reason: str, now: datetime) -> DiskPressure:
    """The event about a target of which no figure is known."""
    known = memory.targets.get(target)
    if known is None:  # the collector itself, or a filesystem that is gone since a while
        kind, _, point = target.partition(":")
        resource = Resource(kind) if kind in set(Resource) else Resource.BYTES
        known = TargetMemory(
            mount=point if kind in set(Resource) else "", resource=resource, source="", fstype="", device=""
        )
    return _unknown(target, known, reason, now)


def _unknown(target: str, known: TargetMemory, reason: str, now: datetime) -> DiskPressure:
    return DiskPressure(
        target=target, level=Level.UNKNOWN, reason=reason, observed_at=now, mount=known.mount,
        resource=known.resource, source=known.source, fstype=known.fstype,
    )  # fmt: skip


def held_due(_settings: DiskMonitoring, memory: PressureMemory, now: datetime) -> bool:
    if memory.held_at is None:
        return True
    pressed = any(
        known.standing is not None and known.standing.level.rank >= Level.WARNING.rank
        for known in memory.targets.values()
    )
    return abs(now - memory.held_at) >= (HELD_EVERY_PRESSED if pressed else HELD_EVERY)


def read_held(_settings: DiskMonitoring, probes: Probes) -> list[DeletedOpen]:
    return probes.files.deleted_open()


def absorb_held(memory: PressureMemory, found: list[DeletedOpen] | ProbeError, now: datetime) -> PressureMemory:
    if isinstance(found, ProbeError):
        return memory.model_copy(update={"held": {}, "held_at": now, "held_error": str(found)})
    by_device: dict[int, list[DeletedOpen]] = defaultdict(list)
    for file in found:
        by_device[file.device].append(file)
    held = {device: _held(files) for device, files in by_device.items()}
    return memory.model_copy(update={"held": held, "held_at": now, "held_error": ""})


def _held(files: list[DeletedOpen]) -> Held:
    by_process: dict[tuple[int, str], int] = defaultdict(int)
    for file in files:
        by_process[file.pid, file.process] += file.allocated
    largest = sorted(by_process.items(), key=lambda item: item[1], reverse=True)
    names = [
        f"pid {pid} ({process})" if len(largest) == 1 else f"pid {pid} ({process}) {show_size(allocated)}"
        for (pid, process), allocated in largest[:HOLDERS]
    ]
    if len(largest) > HOLDERS:
        names.append(f"and {len(largest) - HOLDERS} more")
    return Held(allocated=sum(by_process.values()), holders=plain(", ".join(names)))


COLLECTOR = Collector(
    name="disk.pressure",
    title="Filesystems that fill up, in bytes and in inodes",
    section_name="disk_monitoring",
    section=DiskMonitoring,
    health=DiskPressure,
    memory=PressureMemory,
    read=read,
    judge=judge,
    unknown=unknown,
    aside=Aside(due=held_due, read=read_held, absorb=absorb_held, timeout=HELD_TIMEOUT),
)
