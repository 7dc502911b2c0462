"""Trees of control groups: which of them carries memory, and the files of one group, by descriptors."""

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from infra.adapters.files.descriptors import DIRECTORY, FILE, open_directory
from infra.adapters.files.mountinfo import read_mounts
from schemas.probes import ProbeError
from schemas.text import show_path

ROOT = "/sys/fs/cgroup"

_TYPES = frozenset({"cgroup", "cgroup2"})
_USUAL = ("memory", "unified", "systemd")
"""Names below the root, where each hierarchy has its own directory (systemd's hybrid layout)."""

_WRITE = os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_UNLIMITED = 2**62
"""Version 1 writes no limit as the most bytes it can count: 2**63, less one page of whatever size."""

DEEPEST, MOST = 64, 10_000
"""Levels of groups below one, and groups in all, that are looked into: to whom a group is delegated may make any."""


class Group:
    """One control group, held by a descriptor. Methods raise OSError when it is gone."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd

    def text(self, name: str) -> str | None:
        """None when this group, or this kernel, has no such file, or has what it tells switched off."""
        try:
            return _read(self.fd, name)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return None

    def number(self, name: str) -> int | None:
        """None for no limit, too."""
        text = (self.text(name) or "").strip()
        return None if text in {"", "max"} or int(text) >= _UNLIMITED else int(text)

    def numbers(self, name: str) -> dict[str, int]:
        """The lines `name value` of a file; empty without it."""
        return numbers_in(self.text(name) or "")

    def write(self, name: str, text: str) -> None:
        fd = os.open(name, _WRITE, dir_fd=self.fd)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def processes(self) -> set[int]:
        """In it and below; without those that another PID namespace hides, which are told as 0."""
        return {int(pid) for text in self.texts_below("cgroup.procs") for pid in text.split()} - {0}

    def texts_below(self, name: str) -> Iterator[str]:
        """That file of this group and of each below; what vanishes meanwhile is passed by.

        Raises ProbeError for more groups than anybody needs.
        """
        for count, (fd, depth) in enumerate(_below(self.fd), 1):
            if count > MOST or depth > DEEPEST:
                raise ProbeError(
                    f"read the control group {show_path(self.path)}: more than {MOST} groups are in it, or more than"
                    f" {DEEPEST} in each other; look who makes them"
                )
            with contextlib.suppress(OSError):
                yield _read(fd, name)


def _below(fd: int, depth: int = 0) -> Iterator[tuple[int, int]]:
    """The group and each below, by a descriptor that lasts until the next is asked for, and how deep it lies."""
    yield fd, depth
    for name in _directories(fd):
        try:
            child = os.open(name, DIRECTORY, dir_fd=fd)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENODEV}:
                continue  # it is gone
            raise
        try:
            yield from _below(child, depth + 1)
        finally:
            os.close(child)


def _directories(fd: int) -> list[str]:
    try:
        with os.scandir(fd) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENODEV}:
            return []
        raise


def _read(directory: int, name: str) -> str:
    with open(os.open(name, FILE, dir_fd=directory), "rb") as file:
        return file.read().decode()


def numbers_in(text: str) -> dict[str, int]:
    """`anon 4096` or `AnonPages:  4 kB`, line by line; the unit is left to the reader. Pure."""
    lines = (line.split() for line in text.splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


@dataclass(frozen=True)
class Tree:
    """A mounted hierarchy."""

    version: int
    directory: str
    top: str = "/"
    """the group that is mounted there, as /proc/<pid>/cgroup writes paths"""
    pressure: "Tree | None" = None
    """beside the tree of version 1 that carries memory that of version 2, which alone tells of pressure"""

    @contextlib.contextmanager
    def opened(self, path: str) -> Iterator[list[Group]]:
        """The groups from the one that is mounted down to *path*.

        Raises OSError, FileNotFoundError when it is gone; ProbeError when it can't be seen from here.
        """
        below = self._below(path)
        with contextlib.ExitStack() as stack:
            fd = open_directory(self.directory)
            stack.callback(os.close, fd)
            groups = [Group(self.top, fd)]
            for name in below:
                fd = os.open(name, DIRECTORY, dir_fd=fd)
                stack.callback(os.close, fd)
                groups.append(Group(f"{groups[-1].path.rstrip('/')}/{name}", fd))
            yield groups

    def path_in(self, text: str) -> str | None:
        """The path in what /proc/<pid>/cgroup says; None when the process is in no group of this hierarchy."""
        for line in text.splitlines():
            number, controllers, path = [*line.split(":", 2), "", ""][:3]
            if "memory" in controllers.split(",") if self.version == 1 else number == "0":
                return path.removesuffix(" (deleted)")
        return None

    def _below(self, path: str) -> list[str]:
        names, top = _names(path), _names(self.top)
        if ".." in (*names, *top) or names[: len(top)] != top:
            raise ProbeError(
                f"read the control group {show_path(path)}: of the tree only {show_path(self.top)} is to be seen from"
                f" here, at {show_path(self.directory)}; run ansai on the host, outside of a container"
            )
        return names[len(top) :]


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name]


def memory_tree(root: str, proc: str) -> Tree:
    """The tree at or below *root* that carries memory. Raises ProbeError when there is none."""
    found = trees(root, proc)
    unified = next((tree for tree in found if tree.version == 2), None)
    for tree in found:
        if tree.version == 1 and _has(tree, "memory.limit_in_bytes", "memory.usage_in_bytes"):
            return replace(tree, pressure=unified)
    if unified is not None and "memory" in (_controllers(unified.directory) or ()):
        return unified
    raise ProbeError(
        f"read memory of control groups: nothing at {show_path(root)} carries memory; mount a control group tree with"
        " the memory controller, or set memory_monitoring.cgroup_root to where it is"
    )


def trees(root: str, proc: str) -> list[Tree]:
    """All at or below *root*, by what is mounted there (of mounts on one point the visible one), else by usual names.

    Raises ProbeError when mounts can't be read.
    """
    root = root.rstrip("/")
    mounted = {
        mount.point: mount.root
        for mount in read_mounts(proc)
        if mount.fstype in _TYPES and f"{mount.point}/".startswith(f"{root}/")
    }
    places = mounted or dict.fromkeys((root, *(f"{root}/{name}" for name in _USUAL)), "/")
    return [Tree(1 if _controllers(place) is None else 2, place, top) for place, top in places.items()]


def _has(tree: Tree, *names: str) -> bool:
    return any(os.path.exists(f"{tree.directory}/{name}") for name in names)


def _controllers(directory: str) -> list[str] | None:
    """None when no tree of version 2 is there."""
    try:
        with open(f"{directory}/cgroup.controllers", encoding="ascii") as file:
            return file.read().split()
    except OSError:
        return None
