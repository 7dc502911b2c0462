"""What the function sees of one filesystem, and what it finds when it looks for something to clean."""

from functions.core.shown import Shown
from schemas.facts.containers import Engine
from schemas.facts.files import DeletedOpen, Fact, FileItem, LargeFile, Resource, Root, Usage
from schemas.facts.journal import JournalUsage
from schemas.facts.logs import RotatedLog
from schemas.facts.packages import PackageCache
from schemas.health import Level
from schemas.remediation import Finding
from schemas.settings.disk import percent_of
from schemas.text import Text
from schemas.units import show_size

SHARING_TYPES = frozenset({"bcachefs", "btrfs", "ocfs2", "xfs", "zfs"})
"""Filesystems on which two files may share their blocks: removing one then frees less than it holds."""


class Seen(Fact):
    """One statvfs, judged."""

    usage: Usage
    resource: Resource
    level: Level
    reason: Text

    def shown(self) -> Shown:
        percent, idle = percent_of(self.usage, self.resource), "nothing here that may be cleaned"
        figures = self._figures() if percent is not None else "no limit"
        return Shown(self.level, percent, figures, idle=idle)

    def _figures(self) -> str:
        usage = self.usage
        if self.resource is Resource.INODES:
            return f"{usage.inodes_used:,} of {usage.inodes_used + usage.inodes_available:,} inodes"
        return f"{show_size(usage.used)} of {show_size(usage.used + usage.available)}"


class FilesBelow(Fact):
    """Candidates below one directory, oldest first."""

    root: Root
    files: tuple[FileItem, ...]


class Found(Fact):
    """All that could be cleaned on one filesystem. What lies on another filesystem is not in here."""

    fstype: str = ""
    caches: tuple[PackageCache, ...] = ()
    journal: JournalUsage | None = None
    due_logs: tuple[RotatedLog, ...] = ()
    """what logrotate owns and finds due"""
    rotated_logs: tuple[FilesBelow, ...] = ()
    """to compress: closed, nobody's, not compressed yet"""
    old_logs: tuple[FilesBelow, ...] = ()
    """to delete: older than delete_logs_older_than"""
    temp_files: tuple[FilesBelow, ...] = ()
    engine: Engine | None = None
    deleted_open: tuple[DeletedOpen, ...] = ()
    largest: tuple[LargeFile, ...] = ()
    findings: tuple[Finding, ...] = ()
    """what could not be looked at, and what was passed by"""

    @property
    def shares_blocks(self) -> bool:
        """Estimates are at most: files may share blocks, or the type of the filesystem is not known."""
        return not self.fstype or self.fstype in SHARING_TYPES
