"""Reading /proc/PID/mountinfo."""

import re
from collections.abc import Iterator

from schemas.facts.files import Mount
from schemas.probes import ProbeError

REMOTE_TYPES = frozenset({
    "9p", "afs", "autofs", "beegfs", "ceph", "cifs", "coda", "davfs", "fuse", "fuseblk", "gfs2", "glusterfs",
    "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb3", "smbfs", "virtiofs",
})  # fmt: skip
"""Types whose answer comes from somewhere else, or from a process: asking may never return."""

_ESCAPE = re.compile(rb"\\([0-7]{3})")


def remote(fstype: str) -> bool:
    return fstype in REMOTE_TYPES or fstype.startswith("fuse.")


def read_mounts(proc: str) -> list[Mount]:
    """Every mount of this namespace, in the kernel's order.

    Raises ProbeError when mountinfo can't be read or a line is none.
    """
    return [parse_line(line) for line in _lines(proc)]


def mounts_at(proc: str, point: str) -> list[Mount]:
    """The mounts stacked on one point, the visible one last."""
    field = escape(point)
    return [parse_line(line) for line in _lines(proc) if line.split(b" ", 5)[4:5] == [field]]


def _lines(proc: str) -> Iterator[bytes]:
    path = f"{proc}/self/mountinfo"
    try:
        with open(path, "rb") as mountinfo:
            yield from mountinfo.read().splitlines()
    except OSError as error:
        raise ProbeError(f"read {path}: {error.strerror}; is /proc mounted?") from error


def parse_line(line: bytes) -> Mount:
    """Take one line apart; a read-only superblock makes its mount read-only.

    After an error ext4 makes only the superblock read-only; the mount's own options still say rw.
    """
    try:
        left, _, right = line.partition(b" - ")
        number, _, device, root, point, options, *_ = left.split(b" ")
        fstype, source, super_options = [*right.split(b" "), b"", b""][:3]
        told = tuple(unescape(options).split(","))
        if b"ro" in super_options.split(b",") and "ro" not in told:
            told = ("ro", *(option for option in told if option != "rw"))
        return Mount(
            mount_id=int(number), device=device.decode("ascii"), root=unescape(root), point=unescape(point),
            options=told, fstype=unescape(fstype), source=unescape(source),
        )  # fmt: skip
    except ValueError as error:
        raise ProbeError(f"read mountinfo: {line!r} is no line of it ({error})") from error


def unescape(field: bytes) -> str:
    r"""Undo the kernel's octal escapes: space, tab, newline, backslash and `#`."""
    if b"\\" in field:
        field = _ESCAPE.sub(lambda match: bytes((int(match[1], 8) & 0xFF,)), field)
    return field.decode("utf-8", "surrogateescape")


def escape(path: str) -> bytes:
    """Write *path* as the kernel does (`#` only begins a comment in fstab, so mount points keep it)."""
    raw = path.encode("utf-8", "surrogateescape")
    for char in (b"\\", b" ", b"\t", b"\n"):
        raw = raw.replace(char, b"\\%03o" % char[0])
    return raw


def holder(mounts: list[Mount], path: str) -> Mount | None:
    """Of *mounts* the one with the longest point that begins *path* (absolute, no links); stacked ones: the last."""
    best: Mount | None = None
    for mount in mounts:
        point = mount.point.rstrip("/")
        if (path == point or path.startswith(f"{point}/")) and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best
