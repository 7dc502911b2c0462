"""An initial RAM file system as the kernel unpacks it: cpio archives of the form "newc", one after the other.

Written here and not by cpio, so that neither root nor a copy of the tree on disk is needed. The form:
Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.
"""

import os
import stat
from pathlib import Path, PurePosixPath
from typing import IO

_ALIGNMENT = 4  # of names and contents
_BLOCK = 512  # of an archive, so that another may follow
_TRAILER = "TRAILER!!!"


class Archive:
    """Entries are written once: who comes first wins. Directories above an entry come by themselves."""

    def __init__(self, output: IO[bytes]) -> None:
        self._output = output
        self._names: set[str] = set()
        self._size = 0

    def directory(self, name: str, mode: int = 0o755, owner: tuple[int, int] = (0, 0)) -> None:
        self._entry(name, stat.S_IFDIR | mode, owner=owner)

    def link(self, name: str, target: str) -> None:
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def file(
        self, name: str, content: bytes, mode: int = 0o644, owner: tuple[int, int] = (0, 0), modified: int = 0
    ) -> None:
        self._entry(name, stat.S_IFREG | mode, content, owner, modified)

    def copy(self, path: Path, name: str) -> None:
        """A file, link or directory with its owner, mode and time; of a directory nothing that is in it."""
        seen = path.lstat()
        owner, mode = (seen.st_uid, seen.st_gid), stat.S_IMODE(seen.st_mode)
        if stat.S_ISDIR(seen.st_mode):
            self.directory(name, mode, owner)
        elif stat.S_ISLNK(seen.st_mode):
            self.link(name, os.readlink(path))
        elif stat.S_ISREG(seen.st_mode):
            self.file(name, path.read_bytes(), mode, owner, int(seen.st_mtime))

    def end(self) -> None:
        self._write(_TRAILER, 0, b"", (0, 0), 0)
        self._pad(_BLOCK)

    def _entry(
        self, name: str, mode: int, content: bytes = b"", owner: tuple[int, int] = (0, 0), modified: int = 0
    ) -> None:
        name = name.strip("/")
        if name in self._names:
            return
        for parent in reversed(PurePosixPath(name).parents[:-1]):
            self.directory(str(parent))
        self._names.add(name)
        self._write(name, mode, content, owner, modified)

    def _write(self, name: str, mode: int, content: bytes, owner: tuple[int, int], modified: int) -> None:
        path = name.encode(errors="surrogateescape") + b"\0"
        # inode, mode, owner, group, links, time, size, device and device number of two parts each, name, checksum
        fields = (len(self._names), mode, *owner, 1, modified, len(content), 0, 0, 0, 0, len(path), 0)
        self._put(b"070701" + b"".join(b"%08X" % field for field in fields) + path)
        self._pad(_ALIGNMENT)
        self._put(content)
        self._pad(_ALIGNMENT)

    def _put(self, data: bytes) -> None:
        self._output.write(data)
        self._size += len(data)

    def _pad(self, to: int) -> None:
        self._put(bytes(-self._size % to))
