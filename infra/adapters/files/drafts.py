"""A new file that gets its name only when it is complete."""

import contextlib
import errno
import os
from collections.abc import Iterator

from infra.adapters.files import descriptors
from infra.adapters.files.locks import lock

_NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})

BOUND_TO_CONTENT = frozenset({"security.ima", "security.evm"})
"""Attributes that sign the content or the inode; copied to another file they would be wrong."""


class Draft:
    """Open for reading and writing. Without a name where the filesystem can (then nothing is left by a crash)."""

    def __init__(self, parent: int, fd: int, temporary: str) -> None:
        self._parent = parent
        self._temporary = temporary
        self.fd = fd

    def publish(self, name: str) -> None:
        """Give it its name. Raises FileExistsError rather than replace anything."""
        if self._temporary:
            os.link(self._temporary, name, src_dir_fd=self._parent, dst_dir_fd=self._parent, follow_symlinks=False)
        else:
            os.link(f"/proc/self/fd/{self.fd}", name, dst_dir_fd=self._parent, follow_symlinks=True)

    def close(self) -> None:
        if self._temporary:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary, dir_fd=self._parent)
        os.close(self.fd)


@contextlib.contextmanager
def draft(parent: int, inode: int) -> Iterator[Draft]:
    """A draft in the directory *parent*, made from the file *inode*; what was not published is gone at the end."""
    try:
        made = Draft(parent, os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=parent), "")
    except OSError as error:
        if error.errno not in _NO_TMPFILE:
            raise
        made = _named(parent, f".ansai-{inode:x}.tmp")
    try:
        yield made
    finally:
        made.close()


def _named(parent: int, name: str) -> Draft:
    """With a name of its own, which tells a later run what a crash left: it is ours, and nobody has it locked."""
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, 0o600, dir_fd=parent)
    except FileExistsError:
        left = descriptors.open_below(parent, name, descriptors.FILE)
        try:
            if not lock(left):
                raise
            os.unlink(name, dir_fd=parent)
        finally:
            os.close(left)
        fd = os.open(name, flags, 0o600, dir_fd=parent)
    lock(fd)
    return Draft(parent, fd, name)


def copy_attributes(source: int, target: int, mtime_ns: int) -> None:
    """Owner, extended attributes (access lists among them), mode and times. Raises OSError when one can't be kept."""
    stat = os.fstat(source)
    made = os.fstat(target)
    if (stat.st_uid, stat.st_gid) != (made.st_uid, made.st_gid):
        os.fchown(target, stat.st_uid, stat.st_gid)
    for name in _attributes(source):
        if name not in BOUND_TO_CONTENT:
            os.setxattr(target, name, os.getxattr(source, name))
    os.fchmod(target, stat.st_mode & 0o7777)
    os.utime(target, ns=(stat.st_atime_ns, mtime_ns))


def _attributes(fd: int) -> list[str]:
    try:
        return os.listxattr(fd)
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.ENOSYS}:
            return []
        raise
