"""Opening by descriptors: no link is followed, no mount crossed, no access time changed where that can be avoided."""

import ctypes
import errno
import functools
import os

SYS_OPENAT2 = 437
"""The same number on every architecture but alpha; Linux 5.6."""

NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH = 0x01, 0x02, 0x04, 0x08
"""RESOLVE_… flags of openat2. NO_XDEV sees bind mounts of the same filesystem, which st_dev does not show."""

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Not blocking: what was a file a moment ago may be a pipe now."""


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _openat2(parent: int, name: str, flags: int, resolve: int) -> int:
    how = _OpenHow(flags, 0, resolve)
    path = os.fsencode(name)
    while True:
        fd: int = _libc().syscall(SYS_OPENAT2, parent, path, ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return fd
        error = ctypes.get_errno()
        if error not in {errno.EINTR, errno.EAGAIN}:
            raise OSError(error, os.strerror(error), name)


@functools.cache
def has_openat2() -> bool:
    """Whether the kernel knows openat2 and lets us call it: containers of old engines forbid it."""
    try:
        os.close(_openat2(-100, "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0))
    except OSError:
        return False
    return True


def open_below(parent: int, name: str, flags: int) -> int:
    """Open one component below the directory *parent*, which must be on the same mount and no link.

    Raises OSError: EXDEV where another mount begins, ELOOP or ENOTDIR for a link.
    """
    try:
        return _open_below(parent, name, flags | os.O_NOATIME)
    except PermissionError as error:
        if error.errno != errno.EPERM:
            raise
    return _open_below(parent, name, flags)  # only owners may leave the access time alone


def _open_below(parent: int, name: str, flags: int) -> int:
    if name in {"", ".", ".."} or "/" in name:
        raise OSError(errno.EINVAL, "not the name of one entry", name)
    if has_openat2():
        return _openat2(parent, name, flags, NO_XDEV | NO_MAGICLINKS | NO_SYMLINKS | BENEATH)
    fd = os.open(name, flags, dir_fd=parent)
    try:
        if mount_id(fd) != mount_id(parent):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_directory(path: str) -> int:
    """Open an absolute path component by component from `/`; mounts may be crossed, links may not.

    Raises OSError; ELOOP or ENOTDIR when a component is a link.
    """
    fd = os.open("/", DIRECTORY | os.O_PATH)
    for part in (part for part in path.split("/") if part):
        try:
            below = os.open(part, DIRECTORY | os.O_PATH, dir_fd=fd)
        finally:
            os.close(fd)
        fd = below
    try:
        return _open_quietly(".", DIRECTORY, fd)
    finally:
        os.close(fd)


def _open_quietly(name: str, flags: int, parent: int) -> int:
    """Only owners may leave the access time alone."""
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=parent)
    except PermissionError as error:
        if error.errno != errno.EPERM:
            raise
    return os.open(name, flags, dir_fd=parent)


def mount_id(fd: int, proc: str = "/proc") -> int:
    """The id, as in mountinfo, of the mount that *fd* was opened on. Raises OSError without a /proc."""
    with open(f"{proc}/self/fdinfo/{fd}", "rb") as info:
        for line in info:
            if line.startswith(b"mnt_id:"):
                return int(line[7:])
    raise OSError(errno.ENODATA, "no mnt_id in fdinfo", str(fd))


def describe(error: OSError) -> str:
    """An error in the few words that reasons and counters are made of."""
    return _WORDS.get(error.errno or 0) or (error.strerror or str(error)).lower()


_WORDS = {
    errno.EACCES: "permission denied",
    errno.EPERM: "not permitted: immutable or append-only, or it belongs to somebody else",
    errno.EXDEV: "another mount",
    errno.EBUSY: "busy: a mount point or otherwise in use by the kernel",
    errno.ENOENT: "changed",
    errno.ENOTDIR: "changed",
    errno.ELOOP: "changed",
    errno.ESTALE: "changed",
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "quota exceeded",
    errno.EROFS: "the filesystem is read-only",
}
