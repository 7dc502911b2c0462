"""Who holds which file: descriptors, mappings, working directories, and what the kernel itself keeps open."""

import contextlib
import errno
import os
import re
import stat as modes
from collections.abc import Iterator

from infra.adapters.files.mountinfo import unescape
from schemas.facts.files import DeletedOpen
from schemas.probes import ProbeError

_MAPPING = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ ([0-9a-f]+):([0-9a-f]+) ([1-9]\d*) +(\S.*)$", re.MULTILINE)

TRANSLATED_TYPES = frozenset({b"bcachefs", b"btrfs", b"overlay"})
"""Filesystems whose files tell another device number than the kernel writes into /proc/PID/maps."""

NO_FILES = ("/memfd:", "/SYSV", "/dev/zero", "/[aio]", "/drm mm object", "/i915")
"""How the targets of descriptors begin that are memory and no file on any disk."""

_GONE = frozenset({errno.ENOENT, errno.ESRCH})
_DENIED = frozenset({errno.EACCES, errno.EPERM})


class OpenFiles:
    """Looks through /proc. Raises ProbeError where processes of others can't be looked into."""

    def __init__(self, proc: str, sys: str) -> None:
        self._proc = proc
        self._sys = sys

    def in_use(self) -> frozenset[tuple[int, int]]:
        self._refuse_hidden()
        used: set[tuple[int, int]] = set(self._held_by_kernel())
        mapped: set[tuple[int, int]] = set()
        translated = self._translated()
        for pid, fd in self._processes():
            for name in (*self._descriptors(pid, fd), "cwd", "root", "exe"):
                stat = self._stat(pid, fd, name)
                if stat is not None:
                    used.add((stat.st_dev, stat.st_ino))
            for first, last, device, inode, _ in self._mappings(pid, fd):
                if (device, inode) in mapped:
                    continue
                mapped.add((device, inode))
                used.add((device, inode))
                if device in translated:
                    stat = self._mapped_file(fd, first, last)
                    if stat is not None:
                        used.add((stat.st_dev, stat.st_ino))
        return frozenset(used)

    def deleted_open(self) -> list[DeletedOpen]:
        """Each (device, inode) once, told with the first process met that holds it; largest first."""
        self._refuse_hidden()
        found: dict[tuple[int, int], DeletedOpen] = {}
        for pid, fd in self._processes():
            for name in (*self._descriptors(pid, fd), "exe"):
                self._note(found, pid, fd, name)
            for first, last, device, inode, path in self._mappings(pid, fd):
                if path.endswith(b" (deleted)") and (device, inode) not in found:
                    self._note(found, pid, fd, _map_file(first, last))
        return sorted(found.values(), key=lambda file: (-file.allocated, file.device, file.inode))

    def _note(self, found: dict[tuple[int, int], DeletedOpen], pid: str, fd: int, name: str) -> None:
        """Keep what *name* leads to if it is a deleted file."""
        try:
            stat = os.stat(name, dir_fd=fd)
            identity = (stat.st_dev, stat.st_ino)
            if stat.st_nlink or not modes.S_ISREG(stat.st_mode) or identity in found:
                return
            target = os.readlink(name, dir_fd=fd)
        except OSError as error:
            if name.startswith("map_files") and error.errno in _DENIED:
                return  # asks for more rights than descriptors do, and only tells of mappings without one
            self._judge(error, pid, name)
            return
        if target.startswith(NO_FILES):
            return
        found[identity] = DeletedOpen(
            pid=int(pid), process=self._process(fd), unit=self._unit(fd), path=target.removesuffix(" (deleted)"),
            device=stat.st_dev, inode=stat.st_ino, allocated=stat.st_blocks * 512,
        )  # fmt: skip

    # ── processes ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _processes(self) -> Iterator[tuple[str, int]]:
        """Each process with a descriptor of its directory, which can't become another process's."""
        try:
            names = [name for name in os.listdir(self._proc) if name.isdigit()]
        except OSError as error:
            raise ProbeError(f"read {self._proc}: {error.strerror}; is /proc mounted?") from error
        if not names:
            raise ProbeError(f"read {self._proc}: it shows no process; is /proc mounted?")
        for pid in names:
            try:
                fd = os.open(f"{self._proc}/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                self._judge(error, pid, "")
                continue
            try:
                yield pid, fd
            finally:
                os.close(fd)

    def _descriptors(self, pid: str, fd: int) -> list[str]:
        try:
            directory = os.open("fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            try:
                return [f"fd/{name}" for name in os.listdir(directory)]
            finally:
                os.close(directory)
        except OSError as error:
            self._judge(error, pid, "fd")
            return []

    def _stat(self, pid: str, fd: int, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=fd)
        except OSError as error:
            self._judge(error, pid, name)
            return None

    def _mappings(self, pid: str, fd: int) -> Iterator[tuple[bytes, bytes, int, int, bytes]]:
        text = self._read(pid, fd, "maps")
        for first, last, major, minor, inode, path in _MAPPING.findall(text):
            yield first, last, os.makedev(int(major, 16), int(minor, 16)), int(inode), path

    @staticmethod
    def _mapped_file(fd: int, first: bytes, last: bytes) -> os.stat_result | None:
        with contextlib.suppress(OSError):  # then the numbers of the maps file have to do
            return os.stat(_map_file(first, last), dir_fd=fd)
        return None

    def _read(self, pid: str, fd: int, name: str) -> bytes:
        try:
            with open(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=fd), "rb") as file:
                return file.read()
        except OSError as error:
            self._judge(error, pid, name)
            return b""

    def _judge(self, error: OSError, pid: str, name: str) -> None:
        """A process that ended holds nothing. One that can't be looked into makes the whole answer unknown."""
        if error.errno in _GONE:
            return
        what = f"{self._proc}/{pid}/{name}".rstrip("/")
        if error.errno in _DENIED:
            raise ProbeError(
                f"read {what}: permission denied, so what others have open is not known; "
                "run as root or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
            ) from error
        if error.errno in {errno.ENOTCONN, errno.ESTALE, errno.EIO, errno.EHOSTDOWN}:
            return  # a descriptor on a filesystem whose server is gone: no file on a disk of ours
        raise ProbeError(f"read {what}: {error.strerror}") from error

    def _process(self, fd: int) -> str:
        return self._read("", fd, "comm").decode("utf-8", "replace").rstrip("\n")

    def _unit(self, fd: int) -> str:
        return unit_of(self._read("", fd, "cgroup").decode("utf-8", "surrogateescape"))

    # ── what no process shows ─────────────────────────────────────────────────────────────────────────────────────

    def _refuse_hidden(self) -> None:
        """With hidepid the processes of others are just not there."""
        if os.geteuid() == 0:
            return
        for line in self._mount_lines():
            left, _, right = line.partition(b" - ")
            if unescape(left.split(b" ")[4]) == self._proc and re.search(rb"hidepid=(?!0\b|off\b)", right):
                raise ProbeError(
                    f"read {self._proc}: it hides the processes of others (hidepid), so what they have open is not "
                    "known; run as root or in the group of its gid option"
                )

    def _translated(self) -> set[int]:
        devices = set()
        for line in self._mount_lines():
            left, _, right = line.partition(b" - ")
            if right.split(b" ")[0] in TRANSLATED_TYPES:
                major, _, minor = left.split(b" ")[2].partition(b":")
                devices.add(os.makedev(int(major), int(minor)))
        return devices

    def _mount_lines(self) -> list[bytes]:
        try:
            with open(f"{self._proc}/self/mountinfo", "rb") as mountinfo:
                return mountinfo.read().splitlines()
        except OSError as error:
            raise ProbeError(f"read {self._proc}/self/mountinfo: {error.strerror}; is /proc mounted?") from error

    def _held_by_kernel(self) -> Iterator[tuple[int, int]]:
        """Swap files, and files behind loop devices: in use without any process."""
        for path in (*self._swap_files(), *self._loop_files()):
            with contextlib.suppress(OSError):
                stat = os.stat(path)
                yield stat.st_dev, stat.st_ino

    def _swap_files(self) -> list[bytes]:
        try:
            with open(f"{self._proc}/swaps", "rb") as swaps:
                return [os.fsencode(unescape(line.split()[0])) for line in swaps.read().splitlines()[1:] if line]
        except FileNotFoundError:
            return []  # a kernel without swap
        except OSError as error:
            raise ProbeError(f"read {self._proc}/swaps: {error.strerror}") from error

    def _loop_files(self) -> Iterator[bytes]:
        with contextlib.suppress(FileNotFoundError), os.scandir(f"{self._sys}/block") as devices:
            for device in devices:
                if device.name.startswith("loop"):
                    with contextlib.suppress(OSError), open(f"{device.path}/loop/backing_file", "rb") as backing:
                        yield backing.read().rstrip(b"\n")


def unit_of(cgroups: str) -> str:
    """The systemd unit in the text of /proc/PID/cgroup: the innermost service or scope; empty when there is none."""
    for line in cgroups.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers in {"", "name=systemd"}:
            for part in reversed(path.split("/")):
                if part.endswith((".service", ".scope")):
                    return part
    return ""


def _map_file(first: bytes, last: bytes) -> str:
    return f"map_files/{int(first, 16):x}-{int(last, 16):x}"
