"""What lies in a package cache, measured as it lies on the disk. Reads only."""

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass

from infra.adapters.commands import Commands
from schemas.text import show_path


@dataclass(frozen=True)
class Entry:
    """A file of a cache."""

    path: str
    allocated: int
    """bytes that removing it frees: none while it has a second name elsewhere"""
    device: int


def entry_of(path: str) -> Entry | None:
    """None for a directory, and for what vanished."""
    try:
        seen = os.lstat(path)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(seen.st_mode):
        return None
    return Entry(path, seen.st_blocks * 512 if seen.st_nlink == 1 else 0, seen.st_dev)


def entries_in(directory: str, keep: Collection[str], commands: Commands) -> list[Entry]:
    """Everything in *directory* but directories and the names to *keep*; nothing when it is missing.

    Raises the error of *commands* when it can't be listed.
    """
    try:
        with os.scandir(directory) as names:
            found = [entry_of(name.path) for name in names if name.name not in keep]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise commands.error(f"list {show_path(directory)}: {error.strerror}") from error
    return [entry for entry in found if entry is not None]


def entries_below(directory: str, parent: str, suffixes: tuple[str, ...], commands: Commands) -> list[Entry]:
    """Files with one of *suffixes* in every directory called *parent*, at any depth below *directory*."""

    def failed(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise commands.error(f"list {show_path(str(error.filename))}: {error.strerror}") from error

    found: list[Entry | None] = []
    for path, _, names in os.walk(directory, onerror=failed):
        if os.path.basename(path) == parent:
            found += [entry_of(os.path.join(path, name)) for name in names if name.endswith(suffixes)]
    return [entry for entry in found if entry is not None]


def is_directory(path: str, commands: Commands) -> bool:
    """Raises the error of *commands* when that can't be found out."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise commands.error(f"stat {show_path(path)}: {error.strerror}") from error


def device_of(path: str, commands: Commands) -> int:
    """Raises the error of *commands* when *path* is gone."""
    try:
        return os.stat(path).st_dev
    except OSError as error:
        raise commands.error(f"stat {show_path(path)}: {error.strerror}") from error
