"""Filesystems, files and who holds them open."""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from schemas.text import PathText


class Fact(BaseModel):
    """A frozen value that was read."""

    model_config = ConfigDict(frozen=True, defer_build=True)


class Resource(StrEnum):
    """What a filesystem can run out of; each is a target of its own, for freeing one may not free the other."""

    BYTES = "bytes"
    INODES = "inodes"


class Mount(Fact):
    """One line of /proc/self/mountinfo."""

    mount_id: int
    device: str
    """major:minor"""
    root: PathText
    point: PathText
    options: tuple[str, ...]
    fstype: str
    source: PathText

    @property
    def read_only(self) -> bool:
        return "ro" in self.options


class Usage(Fact):
    """How full a filesystem is, as statvfs tells; bytes, and inodes where the filesystem counts them."""

    point: PathText
    device: int
    """st_dev of the mount point"""
    total: int
    used: int
    """(f_blocks - f_bfree) * f_frsize"""
    available: int
    """for ordinary users: f_bavail * f_frsize"""
    root_available: int
    """f_bfree * f_frsize"""
    inodes_total: int
    """0 when the filesystem has no such limit (btrfs, some network filesystems)"""
    inodes_used: int
    inodes_available: int
    read_only: bool = False


class FileStat(NamedTuple):
    """A regular file met on a walk; cheap, because a walk meets millions."""

    path: str
    """relative to the walk's root, as os.fsdecode gives it"""
    device: int
    inode: int
    mtime_ns: int
    newest_ns: int
    """the newest of mtime, ctime and, where the filesystem keeps it, atime: the age counts from here"""
    size: int
    allocated: int
    """st_blocks * 512: what removing frees, sparse files told truly"""
    links: int
    uid: int


class Root(Fact):
    """A directory that configuration permits to clean, resolved once, bound to its inode."""

    path: PathText
    device: int
    inode: int


class FileItem(Fact):
    """One file of a plan, with what makes it that very file; the acting statement checks it again."""

    path: PathText
    """relative to the root of its action"""
    device: int
    inode: int
    mtime_ns: int
    size: int
    allocated: int
    links: int = 1
    uid: int = 0

    @classmethod
    def of(cls, stat: FileStat) -> "FileItem":
        return cls(
            path=stat.path, device=stat.device, inode=stat.inode, mtime_ns=stat.mtime_ns,
            size=stat.size, allocated=stat.allocated, links=stat.links, uid=stat.uid,
        )  # fmt: skip


class DeletedOpen(Fact):
    """A file without a name that a process keeps open: its space is free when the last one closes it."""

    pid: int
    process: str
    unit: str = ""
    path: PathText
    device: int
    inode: int
    allocated: int


class LargeFile(Fact):
    """One of the top consumers shown when nothing more can be cleaned."""

    path: PathText
    allocated: int
    modified: datetime
