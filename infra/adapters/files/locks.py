"""Who claims a file: locks, and leases as a question to the kernel."""

import contextlib
import errno
import fcntl
import os
import re
import signal
import struct
from collections.abc import Iterator

from schemas.probes import ProbeError

_LOCK = re.compile(rb"^\d+: (?:FLOCK|POSIX|OFDLCK) .* ([0-9a-f]+):([0-9a-f]+):(\d+) \S+ \S+$", re.MULTILINE)

RECORD_LOCK = struct.Struct("hhqqi0q")
"""`struct flock` on Linux, with 64-bit offsets."""

_WITHOUT_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})
"""A filesystem without locks: nobody can hold one."""


def locked_inodes(proc: str, device: str) -> frozenset[int]:
    """Inodes on the filesystem *device* (major:minor as in mountinfo) that somebody holds a lock on.

    Read, not tried: trying could make somebody's own attempt fail. Locks of processes outside our
    PID namespace are not listed; whoever deletes tries for real. Raises ProbeError.
    """
    major, _, minor = device.partition(":")
    try:
        with open(f"{proc}/locks", "rb") as locks:
            found = _LOCK.findall(locks.read())
    except OSError as error:
        raise ProbeError(f"read {proc}/locks: {error.strerror}") from error
    wanted = (int(major), int(minor))
    return frozenset(int(inode) for one, two, inode in found if (int(one, 16), int(two, 16)) == wanted)


def lock(fd: int) -> bool:
    """Take the exclusive BSD lock, as systemd-tmpfiles does; False when somebody holds any. Freed by closing *fd*."""
    for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH):
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno == errno.EWOULDBLOCK:
                return False
            if error.errno == errno.EBADF:
                continue  # NFS wants a descriptor open for writing for an exclusive lock
            if error.errno in _WITHOUT_LOCKS:
                return True
            raise
        return True
    return True


def record_locked(fd: int) -> bool:
    """Whether another process, or another open file, has a lock of fcntl(2) on any part of the file."""
    asked = RECORD_LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        kind, *_ = RECORD_LOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    except OSError as error:
        if error.errno in _WITHOUT_LOCKS:
            return False
        raise
    return bool(kind != fcntl.F_UNLCK)


@contextlib.contextmanager
def lease(fd: int, kind: int) -> Iterator[bool | None]:
    """Ask the kernel who else has the file open, and keep openers waiting for as long as the block lasts.

    With F_WRLCK nobody else has it open at all, with F_RDLCK nobody for writing. Gives True when that is so,
    False when it is not, None where it can't be asked (network filesystems; files of others without
    CAP_LEASE). Keep the block short.
    """
    try:
        # An opener who has to wait is told to us by a signal. The usual one, SIGIO, would end the process.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)
    except OSError as error:
        yield False if error.errno == errno.EAGAIN else None
        return
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):  # the kernel took it away: the opener waited too long
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def wanted_by_others(fd: int, kind: int) -> bool:
    """Inside a `lease`: whether somebody has begun to wait for the file."""
    return fcntl.fcntl(fd, fcntl.F_GETLEASE) != kind


def device_name(device: int) -> str:
    """st_dev as mountinfo writes it."""
    return f"{os.major(device)}:{os.minor(device)}"
