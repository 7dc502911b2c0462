"""One file of a plan, found again: opened component by component, and the same one as then."""

import contextlib
import errno
import os
import stat as modes
from collections.abc import Iterator

from infra.adapters.files import descriptors
from infra.adapters.files.locks import lock
from schemas.facts.files import FileItem
from schemas.remediation import Outcome

_PASSED_BY = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV, errno.ESTALE, errno.EINVAL})


class NotDone(Exception):
    """Why nothing was done to an item."""

    def __init__(self, reason: str, outcome: Outcome = Outcome.SKIPPED) -> None:
        super().__init__(reason)
        self.outcome = outcome


class UseUnknown(Exception):
    """The kernel can't be asked who has this file open, and no list of open files was given."""


def trouble(error: OSError) -> NotDone:
    """What an operating system error means for one item: another file, or a failure."""
    if error.errno == errno.ENOENT:
        return NotDone("gone")
    if error.errno in _PASSED_BY:
        return NotDone(descriptors.describe(error))
    return NotDone(descriptors.describe(error), Outcome.FAILED)


@contextlib.contextmanager
def parent_of(root: int, path: str, *, locking: bool) -> Iterator[tuple[int, str]]:
    """The directory that holds *path* (relative to *root*), and the name in it. No link and no mount is passed.

    With *locking*, the BSD lock of every directory on the way is held, as systemd-tmpfiles does: who holds one
    wants what is below to stay. Raises NotDone, OSError.
    """
    *directories, name = path.split("/")
    if name in {"", ".", ".."}:
        raise NotDone("not the path of a file below the root", Outcome.FAILED)
    with contextlib.ExitStack() as opened:
        parent = os.open(".", descriptors.DIRECTORY, dir_fd=root)
        opened.callback(os.close, parent)
        for directory in (None, *directories):
            if directory is not None:
                parent = descriptors.open_below(parent, directory, descriptors.DIRECTORY)
                opened.callback(os.close, parent)
            if locking and not lock(parent):
                raise NotDone("locked")
        yield parent, name


@contextlib.contextmanager
def opened(parent: int, name: str) -> Iterator[int]:
    """A regular file, open for reading. Raises NotDone when it is none, OSError when it can't be opened."""
    if not modes.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        raise NotDone("changed: no regular file any more")  # seen before opening: opening a device may do something
    fd = descriptors.open_below(parent, name, descriptors.FILE)
    try:
        yield fd
    finally:
        os.close(fd)


def require_same(stat: os.stat_result, item: FileItem) -> None:
    """Raises NotDone when *stat* is not that of the planned file, or the file was changed since."""
    if not modes.S_ISREG(stat.st_mode):
        raise NotDone("changed: no regular file any more")
    if (stat.st_dev, stat.st_ino) != (item.device, item.inode):
        raise NotDone("changed: another file has its name now")
    if (stat.st_mtime_ns, stat.st_size) != (item.mtime_ns, item.size):
        raise NotDone("changed: it was written to")
    if stat.st_nlink != item.links:
        raise NotDone("changed: it has more or fewer hard links")


def require_name(parent: int, name: str, inode: tuple[int, int]) -> None:
    """Raises NotDone when *name* does not lead to (device, inode) any more, OSError when it is gone."""
    stat = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if (stat.st_dev, stat.st_ino) != inode:
        raise NotDone("changed: another file has its name now")
