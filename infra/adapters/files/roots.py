"""Which directories may be cleaned at all, and opening one for good."""

import contextlib
import os
from collections.abc import Iterable, Iterator

from infra.adapters.files import descriptors
from schemas.facts.files import Root
from schemas.probes import ProbeError
from schemas.text import show_path

NEVER = (
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/libx32", "/media", "/mnt", "/nix",
    "/opt", "/proc", "/root", "/run", "/sbin", "/snap", "/srv", "/sys", "/usr", "/usr/local", "/var", "/var/lib",
    "/var/spool",
)  # fmt: skip
"""Directories that are never cleaned as a whole, by whatever name they are reached."""

KERNEL = ("/proc", "/sys", "/dev")
"""Nothing below them is a file that takes space, but for /dev/shm."""


class Roots:
    """Opens roots. *own* are the pack's own directories: neither they nor what holds them is cleaned."""

    def __init__(self, own: Iterable[str] = ()) -> None:
        self._own = tuple(os.path.normpath(directory) for directory in own)

    def find(self, path: str) -> Root:
        """Raises ProbeError when *path* is missing, no directory, reached by a link, or never cleaned as a whole."""
        name = _name(path)
        with self._opened(name) as fd:
            stat = os.fstat(fd)
            return Root(path=name, device=stat.st_dev, inode=stat.st_ino)

    @contextlib.contextmanager
    def open(self, root: Root) -> Iterator[int]:
        """A descriptor of the very directory that was planned. Raises ProbeError when it is another one now."""
        with self._opened(_name(root.path)) as fd:
            stat = os.fstat(fd)
            if (stat.st_dev, stat.st_ino) != (root.device, root.inode):
                raise ProbeError(
                    f"open {show_path(root.path)}: it is another directory than the one planned; plan again"
                )
            yield fd

    def own_inodes(self) -> frozenset[tuple[int, int]]:
        """(device, inode) of the pack's own directories that exist."""
        return frozenset(_inodes(self._own))

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        self._refuse(name)
        try:
            fd = descriptors.open_directory(name)
        except OSError as error:
            reason = "is a link, or goes through one" if _through_link(name) else error.strerror
            raise ProbeError(f"open {show_path(name)}: {reason}") from error
        try:
            self._refuse_inode(name, fd)
            yield fd
        finally:
            os.close(fd)

    def _refuse(self, name: str) -> None:
        below_kernel = any(name.startswith(f"{top}/") for top in KERNEL) and not f"{name}/".startswith("/dev/shm/")  # noqa: S108
        if name in NEVER or below_kernel:
            raise ProbeError(f"open {show_path(name)}: it is never cleaned as a whole; name a directory below it")
        for own in self._own:
            if own == name or own.startswith(f"{name}/") or name.startswith(f"{own}/"):
                raise ProbeError(f"open {show_path(name)}: it holds the pack's own state in {show_path(own)}")

    def _refuse_inode(self, name: str, fd: int) -> None:
        """A bind mount gives another name to the same directory."""
        stat = os.fstat(fd)
        holders = (ancestor for own in self._own for ancestor in _ancestors(own))
        if (stat.st_dev, stat.st_ino) in set(_inodes((*NEVER, *holders))):
            raise ProbeError(f"open {show_path(name)}: another name of a directory that is never cleaned as a whole")


def _name(path: str) -> str:
    """An empty or relative path is never taken for another one, least of all for `/`."""
    if not path.startswith("/") or ".." in path.split("/"):
        raise ProbeError(f"open '{show_path(path)}': a directory to clean must be an absolute path without `..`")
    return "/" + os.path.normpath(path).lstrip("/")


def _ancestors(path: str) -> Iterator[str]:
    while path not in {"", "/"}:
        yield path
        path = os.path.dirname(path)


def _inodes(paths: Iterable[str]) -> Iterator[tuple[int, int]]:
    for path in paths:
        with contextlib.suppress(OSError):  # what does not exist can't be cleaned by mistake
            stat = os.stat(path)
            yield stat.st_dev, stat.st_ino


def _through_link(path: str) -> bool:
    return any(os.path.islink(part) for part in _ancestors(path))
