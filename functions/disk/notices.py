"""What a person is told beside the plan: what could not be looked at, what stays and why, what they may do. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

from functions.disk.file_actions import count
from functions.disk.images import Removable
from schemas.facts.containers import Engine, Volume
from schemas.facts.files import DeletedOpen, LargeFile
from schemas.facts.logs import RotatedLog
from schemas.facts.packages import PackageCache
from schemas.probes import Walk
from schemas.remediation import Finding
from schemas.text import show_path
from schemas.units import show_duration, show_size

WORTH_TELLING = 2**20
"""Bytes: a process that holds less in deleted files is not told."""

TOLD = 10
"""Processes or volumes told one by one."""


def unreadable(what: str, why: str) -> Finding:
    return Finding(title=f"could not look at {what}: {why}")


def use_unknown(why: str) -> Finding:
    return Finding(
        title="no temporary file and no log is cleaned: which files are in use is not known",
        detail=why,
    )


def passed_by(walk: Walk) -> Finding:
    reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(walk.skipped.items()))
    return Finding(title=f"passed by below {show_path(walk.root.path)}: {reasons}")


def clock_wrong(walk: Walk) -> Finding:
    return Finding(
        title=f"no file below {show_path(walk.root.path)} is cleaned: the times of some lie in the future",
        detail="either the clock is wrong or the times are; while that is so no age can be believed",
        command=("timedatectl", "status"),
    )


def left_out(what: str, number: int, size: int, limit: str) -> Finding:
    return Finding(
        title=f"{number} more {what} ({show_size(size)}) wait for the next plan: auto_cleanup.{limit} is reached",
        amount=size, unit="bytes",
    )  # fmt: skip


def owned_logs(number: int, size: int) -> Finding:
    return Finding(
        title=f"{number} old rotated logs ({show_size(size)}) belong to logrotate and are left to it",
        detail="set maxage, or a smaller rotate count, or compress where they are configured",
        command=("grep", "-rE", "rotate|maxage|compress", "/etc/logrotate.conf", "/etc/logrotate.d"),
        amount=size, unit="bytes",
    )  # fmt: skip


def logrotate_runs(due: Sequence[RotatedLog]) -> Finding:
    return Finding(title=f"{count(due, 'log')} due for rotation: left alone while another logrotate runs")


def cache_held(cache: PackageCache) -> Finding:
    return Finding(
        title=f"the {cache.manager} cache ({show_size(cache.allocated)}) is left alone: {cache.held_by} holds its lock",
        amount=cache.allocated, unit="bytes",
    )  # fmt: skip


def cache_offline(cache: PackageCache) -> Finding:
    return Finding(
        title=f"the {cache.manager} cache ({show_size(cache.allocated)}) stays: on an offline_host it is the only copy",
        amount=cache.allocated, unit="bytes",
    )  # fmt: skip


def young_journal(size: int, limit: int, keep_since: datetime) -> Finding:
    return Finding(
        title=f"the journal takes {show_size(size)}, more than {show_size(limit)}, but all of it is newer than"
        f" {keep_since:%Y-%m-%d %H:%M} UTC, which journal_keep protects",
        command=("journalctl", "--disk-usage"), amount=size, unit="bytes",
    )  # fmt: skip


def rung_left_out(title: str) -> Finding:
    return Finding(title=f"left out: {title[:1].lower()}{title[1:]}, because it freed next to nothing lately")


def no_room(number: int, size: int) -> Finding:
    return Finding(
        title=f"{number} rotated logs ({show_size(size)}) are not compressed: there is no room for the copies",
        amount=size, unit="bytes",
    )  # fmt: skip


def read_only(point: str) -> Finding:
    return Finding(
        title=f"{show_path(point)} is mounted read-only, so nothing can be cleaned",
        detail="a filesystem that turned read-only by itself has met an error; look at the kernel's log",
        command=("dmesg", "--level", "err,warn"),
    )


def deleted_open(files: Iterable[DeletedOpen]) -> list[Finding]:
    """One finding for each process that holds much, largest first."""
    holders: dict[tuple[int, str, str], list[DeletedOpen]] = defaultdict(list)
    for file in files:
        holders[file.pid, file.process, file.unit].append(file)
    sizes = {holder: sum(file.allocated for file in held) for holder, held in holders.items()}
    told = sorted((holder for holder in sizes if sizes[holder] >= WORTH_TELLING), key=lambda one: (-sizes[one], one))
    findings = []
    for holder in told[:TOLD]:
        pid, process, unit = holder
        service = unit.endswith(".service")
        who = f"{process} (pid {pid}{', ' + unit if unit else ''})"
        held = count(holders[holder], "deleted file")
        finding = Finding(
            title=f"{who} holds {held} open: {show_size(sizes[holder])} come free when it closes them",
            detail=show_path(holders[holder][0].path),
            command=("systemctl", "reload", unit) if service else ("ls", "-l", f"/proc/{pid}/fd"),
            amount=sizes[holder],
            unit="bytes",
        )
        findings.append(finding)
    if len(told) > TOLD:
        findings.append(Finding(title=f"{len(told) - TOLD} more processes hold deleted files open"))
    return findings


def volumes(engine: Engine) -> list[Finding]:
    """Volumes that nothing uses: only told, for a merely stopped service may want its data back."""
    unused = [volume for volume in engine.volumes if not volume.used_by]
    unused.sort(key=lambda volume: (-(volume.size or 0), volume.name))
    findings = [_volume(engine, volume) for volume in unused[:TOLD]]
    if len(unused) > TOLD:
        rest = sum(volume.size or 0 for volume in unused[TOLD:])
        findings.append(Finding(title=f"{len(unused) - TOLD} more unused volumes ({show_size(rest)})"))
    return findings


def _volume(engine: Engine, volume: Volume) -> Finding:
    size = f"{show_size(volume.size)}" if volume.size is not None else "of unknown size"
    kind = "anonymous volume" if volume.anonymous else "volume"
    return Finding(
        title=f"{engine.name} {kind} {volume.name} ({size}) is used by no container",
        detail="volumes are never removed by themselves: a service that is merely stopped may want its data back",
        command=(engine.name, "volume", "inspect", volume.name), amount=volume.size, unit="bytes",
    )  # fmt: skip


def kept_images(engine: Engine, images: Removable) -> list[Finding]:
    reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(images.kept.items()))
    return [Finding(title=f"unused {engine.name} images that stay: {reasons}")] if reasons else []


def only_at_emergency(engine: Engine, images: Removable) -> list[Finding]:
    size = sum(image.unique for image in images.unused)
    if not images.unused:
        return []
    title = f"{count(images.unused, f'unused {engine.name} image')} (at most {show_size(size)}) would go at emergency"
    return [Finding(title=title, command=(engine.name, "image", "ls"), amount=size, unit="bytes")]


def largest(files: Iterable[LargeFile], now: datetime) -> list[Finding]:
    return [
        Finding(
            title=f"large: {show_path(file.path)} ({show_size(file.allocated)},"
            f" written {show_duration(max(0.0, (now - file.modified).total_seconds()))} ago)",
            amount=file.allocated,
            unit="bytes",
        )
        for file in files
    ]


def container_logs(engine: Engine | None, files: Iterable[LargeFile]) -> list[Finding]:
    """A container's log grows without end unless the engine is told to rotate it."""
    if engine is None or not any(file.path.endswith("-json.log") for file in files):
        return []
    return [
        Finding(
            title="container logs grow without limit: set max-size and max-file for the json-file log driver",
            detail='in /etc/docker/daemon.json: {"log-opts": {"max-size": "10m", "max-file": "3"}};'
            " it holds for containers created afterwards. Truncating these files from outside breaks docker logs.",
            command=(engine.name, "info", "--format", "{{.LoggingDriver}}"),
        )
    ]
