"""apt's download cache: where it is, what a clean removes, who holds its locks. Reads only."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from infra.adapters.cache_entries import Entry, device_of, entries_in, entry_of, is_directory
from infra.adapters.commands import Commands
from infra.adapters.package_locks import holder

ASK = 60.0
"""Seconds for a question; `apt-get -s autoclean` reads all package lists: a second, on a slow disk ten."""

KEPT = frozenset({"lock", "partial", "auxfiles", "lost+found"})
"""Names that apt leaves in a directory that it empties."""

SCRATCH = "/dev/shm"  # noqa: S108 - apt unlinks its file there before it uses it
"""Where apt may unpack lists that it reads: in memory, since the disk may be full."""

_DELETED = re.compile(r"^Del (\S+) (\S+) \[", re.MULTILINE)


@dataclass(frozen=True)
class _Paths:
    """Where apt says that its files are."""

    archives: str
    lists: str
    status: str
    indexes: tuple[str, ...]
    """pkgcache.bin and srcpkgcache.bin, where apt is not told to keep none"""

    @property
    def locks(self) -> tuple[str, ...]:
        admin = os.path.dirname(self.status)
        return (
            os.path.join(admin, "lock-frontend"), os.path.join(admin, "lock"),
            os.path.join(self.archives, "lock"), os.path.join(self.lists, "lock"),
        )  # fmt: skip


class Apt:
    name = "apt"

    def __init__(self, processes: str) -> None:
        self._processes = processes

    def directory(self, commands: Commands) -> str | None:
        if commands.find("apt-get") is None:
            return None
        archives = self._paths(commands).archives
        return archives if is_directory(archives, commands) else None

    def contents(self, directory: str, mode: str, commands: Commands) -> list[Entry]:
        """A `clean` also removes other files in there, half-fetched lists, and apt's own indexes beside it.

        What lies on another filesystem than *directory* is not counted.
        """
        if mode == "autoclean":
            return self._obsolete(directory, commands)
        paths = self._paths(commands)
        inside = [*entries_in(directory, KEPT, commands), *_partial(directory, commands)]
        beside = [*_partial(paths.lists, commands), *(entry_of(path) for path in paths.indexes)]
        device = device_of(directory, commands)
        return inside + [entry for entry in beside if entry is not None and entry.device == device]

    def held_by(self, directory: str, commands: Commands) -> str:
        return holder(self._paths(commands).locks, self._processes, commands)

    def argv(self, mode: str) -> Sequence[str]:
        return ("apt-get", mode)

    def _paths(self, commands: Commands) -> _Paths:
        wanted = {
            "ARCHIVES": "Dir::Cache::archives/f", "LISTS": "Dir::State::lists/f", "STATUS": "Dir::State::status/f",
            "PACKAGES": "Dir::Cache::pkgcache/f", "SOURCES": "Dir::Cache::srcpkgcache/f",
        }  # fmt: skip
        argv = ["apt-config", "shell", *(word for pair in wanted.items() for word in pair)]
        said = dict(re.findall(r"^(\w+)='(.*)'$", commands.run(argv, timeout=ASK).stdout, re.MULTILINE))
        archives, lists, status = (said.get(name, "").rstrip("/") for name in ("ARCHIVES", "LISTS", "STATUS"))
        if not (archives.startswith("/") and lists.startswith("/") and status.startswith("/")):
            raise commands.error("apt-config names no absolute archives, lists and status; check Dir in apt's settings")
        indexes = tuple(path for name in ("PACKAGES", "SOURCES") if (path := said.get(name, "")).startswith("/"))
        return _Paths(archives, lists, status, indexes)

    def _obsolete(self, directory: str, commands: Commands) -> list[Entry]:
        """What `autoclean` would remove, told by apt itself: it takes no lock and writes no index when so asked."""
        found = [*entries_in(directory, KEPT, commands), *_partial(directory, commands)]
        packages = [entry for entry in found if entry.path.endswith(".deb")]
        if not packages:
            return []
        options = ("Debug::NoLocking=1", "Dir::Cache::pkgcache=", "Dir::Cache::srcpkgcache=")
        argv = ["apt-get", "-s", *(word for option in options for word in ("-o", option)), "autoclean"]
        asking = commands.having(TMPDIR=SCRATCH) if os.access(SCRATCH, os.W_OK) else commands
        # After all else apt looks into partial/, and fails where only root may: what it said before holds.
        closed = not _open_to_us(os.path.join(directory, "partial"))
        completed = asking.run(argv, timeout=ASK, accept=(0, 100) if closed else (0,))
        if completed.status and "/partial/" not in completed.last_error:
            raise commands.error(f"ask apt what is obsolete: {completed.last_error}")
        gone = set(_DELETED.findall(completed.stdout))
        return [entry for entry in packages if _package(entry.path) in gone]


def _partial(directory: str, commands: Commands) -> list[Entry]:
    """What is half fetched. Only root can look there, and only root could clean it."""
    path = os.path.join(directory, "partial")
    return entries_in(path, KEPT, commands) if _open_to_us(path) else []


def _open_to_us(path: str) -> bool:
    return os.access(path, os.R_OK | os.X_OK)


def _package(path: str) -> tuple[str, str]:
    """Name and version from `name_1%3a2.0_amd64.deb`."""
    name, _, rest = os.path.basename(path).partition("_")
    return unquote(name), unquote(rest.partition("_")[0])
