"""Small files that are replaced as a whole, outlive a power cut, and are opened without following links."""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from schemas.envelope import new_id

LARGEST = 1 << 20
"""Bytes. A larger file was not written by us."""

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


def read(path: Path, *, private: bool = False) -> bytes:
    """The content. Raises OSError, and ValueError for a file that is too large.

    *private*: raises PermissionError unless the file is ours, and closed to everybody else.
    """
    with os.fdopen(os.open(path, _READ), "rb") as file:
        if private:
            _refuse_shared(path, os.fstat(file.fileno()))
        body = file.read(LARGEST + 1)
    if len(body) > LARGEST:
        raise ValueError(f"{path} is larger than {LARGEST >> 20} MiB")
    return body


def _refuse_shared(path: Path, seen: os.stat_result) -> None:
    if not stat.S_ISREG(seen.st_mode):
        raise PermissionError(f"{path} is no regular file")
    us = os.geteuid()
    if seen.st_uid != us:
        raise PermissionError(f"{path} belongs to user {seen.st_uid}, we run as {us}; give it to us: chown {us} {path}")
    if seen.st_mode & 0o077:
        raise PermissionError(
            f"{path} is open to others (mode {seen.st_mode & 0o7777:04o}); close it with: chmod 600 {path}"
        )


def replace(path: Path, body: bytes, mode: int = 0o600) -> None:
    """Write *path*: a reader sees the old or the new content, whole, also after a power cut. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{new_id()}")
    try:
        with os.fdopen(os.open(temporary, _CREATE, mode), "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            os.unlink(temporary)
        raise
    sync_directory(path.parent)


def make_directory(path: Path) -> None:
    """With all above it, for us alone. Raises OSError."""
    if path.is_dir():
        return
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    sync_directory(path.parent)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Among processes, one at a time. Blocks. Raises OSError."""
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def sync_directory(directory: Path) -> None:
    """Make the names in it survive a power failure. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
