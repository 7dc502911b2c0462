"""The `disk_monitoring` section: when a filesystem is too full, and what may be cleaned.

Read by `collectors.disk` and `functions.disk`; the only home of their thresholds.
"""

from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from schemas.facts.files import Resource, Usage
from schemas.health import Level
from schemas.settings.base import Settings
from schemas.units import Duration, Percent, Size, show_size


def df_percent(used: int, available: int) -> float | None:
    """Use in percent as df prints it, rounded up: used / (used + available); none for an empty filesystem.

    The naive used/total hides the blocks that are reserved for root: users get "no space left" before 100 %.
    """
    total = used + available
    return float(-(-100 * used // total)) if total > 0 else None


class Thresholds(Settings):
    """Levels in percent, as df counts."""

    warning: Percent = Field(80, description="Tell, and show the plan that would run.")
    critical: Percent = Field(90, description="Alert, wait the grace period, then clean.")
    emergency: Percent = Field(95, description="Clean at once, deletions before compression.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not 0 < self.warning < self.critical < self.emergency:
            raise ValueError(
                f"thresholds must rise: warning {self.warning:g} < critical {self.critical:g}"
                f" < emergency {self.emergency:g} does not hold"
            )
        return self


def _absolute(path: str) -> str:
    if not path.startswith("/") or path.rstrip("/") == "":
        raise ValueError(f"{path!r} is no absolute directory below /; an empty or relative root cleans nothing")
    return path.rstrip("/")


Directory = Annotated[str, AfterValidator(_absolute)]


class AutoCleanup(Settings):
    """What may be cleaned, each by itself switched off with `false`."""

    logs_older_than: Duration | Literal[False] = Field(
        timedelta(days=30), description="Compress rotated logs last written longer ago than this."
    )
    delete_logs_older_than: Duration | Literal[False] = Field(
        False, description="Delete rotated logs last written longer ago than this; off, because it can't be undone."
    )
    rotate_logs: bool = Field(True, description="Let logrotate rotate what it owns and finds due.")
    log_directories: tuple[Directory, ...] = Field(("/var/log",), description="Only below these are logs touched.")
    temp_files_older_than: Duration | Literal[False] = Field(
        timedelta(days=7), description="Delete temporary files that nobody used for this long."
    )
    temp_directories: dict[Directory, Duration | None] = Field(
        {"/tmp": None, "/var/tmp": timedelta(days=30)},  # noqa: S108 - the directories to clean
        description="Where temporary files are, each with an age of its own or null for temp_files_older_than."
        " The default for /var/tmp is that of systemd-tmpfiles.",
    )
    package_cache: bool | Literal["auto"] = Field(
        True, description="true removes every downloaded package, `auto` only those that can't be fetched any more."
    )
    offline_host: bool = Field(False, description="No route to a mirror: the cache may be the only copy, keep it.")
    docker_images: Literal["unused", "dangling", False] = Field(
        "unused", description="Remove images that no container, running or stopped, uses."
    )
    image_min_age: Duration = Field(timedelta(days=7), description="Younger images stay.")
    images_kept_per_repository: int = Field(2, ge=1, description="The newest tags of each repository stay.")
    image_keep_label: str = Field("ansai.keep", description="Images with this label stay.")
    journal_size: Size | Literal[False] = Field(
        100 * 2**20, description="Archived and active journal together, at most; 0 would mean no limit and is refused."
    )
    journal_keep: Duration = Field(timedelta(days=1), description="History kept above the size limit, and this boot's.")
    exclude: tuple[str, ...] = Field((), description="Globs of names never touched, besides those built in.")
    max_files: int = Field(10_000, ge=1, description="Files in one plan; the rest waits for the next.")
    max_percent: Percent = Field(20, gt=0, description="Of the filesystem removed by one plan.")

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.journal_size is not False and self.journal_size == 0:
            raise ValueError("journal_size 0 means no limit to journald; write a size like 100M, or false to leave it")
        if (
            self.delete_logs_older_than is not False
            and self.logs_older_than is not False
            and self.delete_logs_older_than < self.logs_older_than
        ):
            raise ValueError("delete_logs_older_than must not be shorter than logs_older_than")
        return self


class DiskMonitoring(Settings):
    """Filesystems that fill up, and how to free them."""

    thresholds: Thresholds = Thresholds()
    target: Percent = Field(75, gt=0, description="Cleaning stops here; below `warning`.")
    hysteresis: Percent = Field(3, description="A level is left this many points below where it was entered.")
    confirm: int = Field(2, ge=1, description="Samples in a row before a worse level is believed, emergency excepted.")
    every: Duration = Field(timedelta(seconds=30), description="Between two reads.")
    steady_every: Duration = Field(timedelta(minutes=5), description="Between two events of an unchanged target.")
    read_timeout: Duration = Field(timedelta(seconds=10), description="A read that takes longer is told as unknown.")
    minimum_available: Size = Field(
        200 * 2**20, description="Less than this is critical at any percent, on filesystems five times as large."
    )
    ample_available: Size = Field(
        50 * 2**30, description="More than this is fine below emergency, on filesystems over 1 TiB."
    )
    emergency_within: Duration = Field(timedelta(minutes=15), description="Full sooner than this is an emergency.")
    grace: Duration = Field(timedelta(minutes=5), description="Between the alert and the first action.")
    ignore_types: frozenset[str] = Field(
        frozenset({"squashfs", "iso9660", "udf", "erofs", "cramfs", "romfs"}), description="Filesystem types to skip."
    )
    ignore_mounts: tuple[str, ...] = Field((), description="Globs of mount points to skip.")
    only_mounts: tuple[str, ...] = Field((), description="If given, globs of the only mount points to look at.")
    auto_cleanup: AutoCleanup = AutoCleanup()

    @model_validator(mode="after")
    def _target_below_warning(self) -> Self:
        if self.target >= self.thresholds.warning:
            raise ValueError(
                f"target {self.target:g} must be below thresholds.warning {self.thresholds.warning:g},"
                " or cleaning would end inside the alarm"
            )
        return self

    def judge(self, usage: Usage, resource: Resource, seconds_to_full: float | None = None) -> tuple[Level, str]:
        """Level of one filesystem without memory, and why, as a sentence. Pure."""
        percent = percent_of(usage, resource)
        if percent is None:
            return Level.UNKNOWN, f"{usage.point} reports no {resource} limit"
        level, limit = Level.OK, 0.0
        for name in (Level.WARNING, Level.CRITICAL, Level.EMERGENCY):
            if percent >= getattr(self.thresholds, name):
                level, limit = name, getattr(self.thresholds, name)
        seen = f"{usage.point} is {percent:g} % full of {resource}"
        why = f"{seen}, at or above {level} {limit:g} %" if level is not Level.OK else f"{seen}, below warning"
        if resource is Resource.BYTES:
            if (
                level in {Level.WARNING, Level.CRITICAL}
                and usage.total > 2**40
                and usage.available > self.ample_available
            ):
                return Level.OK, f"{seen}, but {show_size(usage.available)} available is ample"
            if level.rank < Level.CRITICAL.rank and self.below_floor(usage):
                level, why = Level.CRITICAL, f"{seen}, with only {show_size(usage.available)} available"
        if seconds_to_full is not None and seconds_to_full < self.emergency_within.total_seconds():
            if level.rank >= Level.WARNING.rank:
                return Level.EMERGENCY, f"{seen} and will be full in {seconds_to_full / 60:.0f} min"
            return Level.WARNING, f"{seen} and will be full in {seconds_to_full / 60:.0f} min"
        return level, why

    def below_floor(self, usage: Usage) -> bool:
        """Less is available than the absolute floor; small filesystems have no floor but the percentages."""
        return usage.available < self.minimum_available and usage.total >= 5 * self.minimum_available

    def excess(self, usage: Usage, resource: Resource) -> float | None:
        """How many bytes or inodes lie above the target, in df's formula; none when there is no limit. Pure."""
        if resource is Resource.INODES:
            used, available = usage.inodes_used, usage.inodes_available
            return used - (used + available) * self.target / 100 if usage.inodes_total else None
        over = usage.used - (usage.used + usage.available) * self.target / 100
        if usage.total >= 5 * self.minimum_available:
            over = max(over, float(self.minimum_available - usage.available))
        return over


def percent_of(usage: Usage, resource: Resource) -> float | None:
    """Df's percentage of one resource; none where the filesystem has no such limit."""
    if resource is Resource.INODES:
        return df_percent(usage.inodes_used, usage.inodes_available) if usage.inodes_total else None
    return df_percent(usage.used, usage.available)
