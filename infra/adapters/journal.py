"""The systemd journal on disk: what is in it, and removing its oldest archived files through journalctl."""

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cmp_to_key

from functions.core.ports import ToolError
from infra.adapters.commands import Commands, Completed
from schemas.facts.journal import JournalFile, JournalUsage
from schemas.probes import ProbeError
from schemas.remediation import ItemResult, Outcome
from schemas.text import show_path
from schemas.units import show_size

DIRECTORIES = ("/var/log/journal", "/run/log/journal")
"""Persistent first: below /run is a journal only before the first flush, or where nothing else was configured."""

MACHINE_ID = "/etc/machine-id"

JOURNALD = "/run/systemd/journal/socket"
"""Where a running journald listens; without one nobody writes, and nothing is there to rotate."""

TIMEOUT = 120.0
"""Seconds for a rotation, and for a vacuum."""

_ARCHIVED = re.compile(r".+@([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{16})\.journal")
"""`system@<sequence>-<first number>-<time of the first entry>.journal`"""

_SET_ASIDE = re.compile(r".+@([0-9a-f]{16})-[0-9a-f]{16}\.journal~")
"""`system@<time>-<random>.journal~`: set aside after a crash; a vacuum removes it like an archived one."""


@dataclass(frozen=True)
class _Order:
    """By what journalctl sorts before it removes from the beginning."""

    name: str
    sequence: str
    number: int
    time: float


class Journal:
    """This machine's journal; reads only. *processes* is where /proc is."""

    def __init__(
        self,
        directories: Iterable[str] = DIRECTORIES,
        machine_id: str | None = None,
        processes: str = "/proc",
    ) -> None:
        """*machine_id* is read from /etc/machine-id when not given."""
        self._directories = tuple(directories)
        self._machine_id = machine_id
        self._processes = processes

    def usage(self) -> JournalUsage | None:
        """The first of the directories that holds a journal of this machine; None when none does.

        Raises ProbeError when it can't be read.
        """
        for directory in own_directories(self._directories, self._machine_id, ProbeError):
            files = tuple(file for file, _ in _files(directory, ProbeError))
            if files:
                device = _stat(directory, ProbeError).st_dev
                return JournalUsage(directory=directory, device=device, files=files, boot=self._boot())
        return None

    def _boot(self) -> datetime:
        path = f"{self._processes}/stat"
        try:
            with open(path, encoding="utf-8") as file:
                seconds = next((int(line.split()[1]) for line in file if line.startswith("btime ")), None)
        except (OSError, ValueError) as error:
            raise ProbeError(f"read the time of the boot from {path}: {error}") from error
        if seconds is None:
            raise ProbeError(f"read the time of the boot from {path}: there is no line btime")
        return datetime.fromtimestamp(seconds, UTC)


class JournalVacuum:
    """Removes the oldest archived files of this machine's journal, through journalctl only."""

    def __init__(
        self,
        directories: Iterable[str] = DIRECTORIES,
        machine_id: str | None = None,
        journald: str = JOURNALD,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """*journald* is the socket of the one that writes into the directories."""
        self._directories = tuple(directories)
        self._machine_id = machine_id
        self._journald = journald
        self._commands = Commands(ToolError, dict(environment or {}))

    def vacuum(self, directory: str, size: int, keep_since: datetime) -> ItemResult:
        """Rotate, then remove archived files, oldest first, until all files together take at most *size* bytes.

        A file with entries after *keep_since* ends it, so the history from there on is whole. Skipped when there is
        nothing to remove. Raises ToolError for a *size* of 0, which journalctl takes as "no limit", and for a
        directory that is not this machine's.
        """
        if size <= 0:
            raise ToolError(
                f"vacuum the journal to {size} bytes: 0 means no limit to journalctl; give a size like 100M"
            )
        if directory not in own_directories(self._directories, self._machine_id, ToolError):
            raise ToolError(f"vacuum {show_path(directory)}: not a journal of this machine, so it is left alone")
        trouble = self._rotate()
        found = _files(directory, ToolError)
        going = victims(found, size, keep_since)
        if not going:
            reason = _why_nothing(found, size, keep_since) + trouble
            return ItemResult(name=directory, outcome=Outcome.SKIPPED, reason=reason)
        completed, gone = self._remove(directory, going, limits(found, going))
        if not gone:
            why = completed.last_error or f"status {completed.status}"
            raise ToolError(
                f"journalctl --vacuum-size in {show_path(directory)} removed none of {len(going)} files: {why}"
            )
        freed = {"bytes": sum(file.allocated for file in gone), "inodes": len(gone)}
        if len(gone) < len(going):
            reason = f"{len(going) - len(gone)} of {len(going)} files stayed: {completed.last_error}{trouble}"
            return ItemResult(name=directory, outcome=Outcome.PARTIAL, freed=freed, reason=reason)
        return ItemResult(name=directory, outcome=Outcome.DONE, freed=freed, reason=trouble.removeprefix("; "))

    def _remove(
        self, directory: str, going: list[JournalFile], sizes: Iterable[int]
    ) -> tuple[Completed, list[JournalFile]]:
        """Vacuum with one size after the other until what should go is gone; what went is read from the disk."""
        for size in sizes:
            argv = ["journalctl", "-D", directory, f"--vacuum-size={size}"]
            completed = self._commands.run(argv, timeout=TIMEOUT, accept=())
            left = {(file.path, file.inode) for file, _ in _files(directory, ToolError)}
            gone = [file for file in going if (file.path, file.inode) not in left]
            if len(gone) == len(going) or completed.status != 0 or "Failed" in completed.stderr:
                break
        return completed, gone

    def _rotate(self) -> str:
        """What went wrong, for the reason: what is archived already can be removed without."""
        if not os.path.exists(self._journald):
            return ""
        completed = self._commands.run(["journalctl", "--rotate"], timeout=TIMEOUT, accept=())
        return "" if completed.status == 0 else f"; journalctl --rotate failed: {completed.last_error}"


def _why_nothing(found: list[tuple[JournalFile, "_Order"]], size: int, keep_since: datetime) -> str:
    total = sum(file.allocated for file, _ in found)
    if total <= size:
        return f"it takes {show_size(total)}, at most {show_size(size)} is wanted"
    if not any(file.archived for file, _ in found):
        return f"it takes {show_size(total)}, all of it in active files"
    return f"its oldest archived file has entries after {keep_since:%Y-%m-%d %H:%M} UTC"


def victims(found: Iterable[tuple[JournalFile, _Order]], size: int, keep_since: datetime) -> list[JournalFile]:
    """Which archived files go, in journald's own order: from the beginning, up to the first that must stay. Pure."""
    files = list(found)
    left = sum(file.allocated for file, _ in files)
    going: list[JournalFile] = []
    for file, _ in sorted((pair for pair in files if pair[0].archived), key=cmp_to_key(_compare)):
        if left <= size or file.tail >= keep_since:
            break
        going.append(file)
        left -= file.allocated
    return going


def limits(found: Iterable[tuple[JournalFile, _Order]], going: list[JournalFile]) -> tuple[int, int]:
    """The sizes to give to journalctl, so that exactly the files *going*, at least one, are removed. Pure.

    Since systemd 254, and with its backports (systemd#26932), it counts all files; before, archived ones only. Asked
    for the first size, one of the old kind removes too little or nothing, and then the second is right for it.
    Of all sizes that let the same files go each is the largest: should journald archive one more file in between,
    none that is kept goes for it.
    """
    gone = {file.path for file in going}
    left = [file for file, _ in found if file.path not in gone]
    slack = going[-1].allocated - 1
    archived = sum(file.allocated for file in left if file.archived)
    return max(1, sum(file.allocated for file in left) + slack), max(1, archived + slack)


def _compare(one: tuple[JournalFile, _Order], other: tuple[JournalFile, _Order]) -> int:
    """As journald's vacuum does: by number within a sequence, by time otherwise, then by name."""
    first, second = one[1], other[1]
    if first.sequence and first.sequence == second.sequence:
        apart: float = first.number - second.number
    else:
        apart = first.time - second.time
    return int(math.copysign(1, apart)) if apart else (first.name > second.name) - (first.name < second.name)


def own_directories(
    directories: Iterable[str], machine_id: str | None, error: type[ProbeError] | type[ToolError]
) -> list[str]:
    """This machine's directory in each of *directories*, whether it exists or not. Others' journals are not ours."""
    if machine_id is None:
        try:
            with open(MACHINE_ID, encoding="utf-8") as file:
                machine_id = file.read().strip()
        except FileNotFoundError:
            return []
        except OSError as problem:
            raise error(f"read {MACHINE_ID}: {problem.strerror}") from problem
    if re.fullmatch(r"[0-9a-f]{32}", machine_id) is None:
        raise error(f"{MACHINE_ID} holds no machine id but {machine_id!r}; run systemd-machine-id-setup")
    return [os.path.join(directory, machine_id) for directory in directories]


def _files(directory: str, error: type[ProbeError] | type[ToolError]) -> list[tuple[JournalFile, _Order]]:
    """All journal files in *directory*; none when it is missing."""
    try:
        with os.scandir(directory) as names:
            entries = [name for name in names if name.name.endswith((".journal", ".journal~"))]
            found = [_file(entry) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as problem:
        raise error(f"list the journal {show_path(directory)}: {problem.strerror}; run as root") from problem
    return sorted((file for file in found if file is not None), key=lambda pair: (pair[0].head, pair[0].path))


def _file(entry: os.DirEntry[str]) -> tuple[JournalFile, _Order] | None:
    try:
        if not entry.is_file(follow_symlinks=False):
            return None
        seen = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    archived, aside = _ARCHIVED.fullmatch(entry.name), _SET_ASIDE.fullmatch(entry.name)
    tail = datetime.fromtimestamp(seen.st_mtime, UTC)
    named = archived[3] if archived else aside[1] if aside else ""
    head = datetime.fromtimestamp(int(named, 16) / 1e6, UTC) if named else min(tail, _begun(entry.path, seen))
    times = (head.timestamp(), _begun(entry.path, seen).timestamp(), seen.st_atime, seen.st_mtime, seen.st_ctime)
    file = JournalFile(
        path=entry.path, inode=seen.st_ino, allocated=seen.st_blocks * 512, head=head, tail=tail, archived=bool(named)
    )
    sequence, number = (archived[1], int(archived[2], 16)) if archived else ("", 0)
    return file, _Order(entry.name, sequence, number, min(times))


def _begun(path: str, seen: os.stat_result) -> datetime:
    """When the file was made, as journald notes it in an attribute."""
    try:
        noted = os.getxattr(path, "user.crtime_usec", follow_symlinks=False)
    except OSError:
        return datetime.fromtimestamp(seen.st_ctime, UTC)  # no attribute, or a filesystem without them
    return datetime.fromtimestamp(int.from_bytes(noted, "little") / 1e6, UTC)


def _stat(path: str, error: type[ProbeError] | type[ToolError]) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as problem:
        raise error(f"stat {show_path(path)}: {problem.strerror}") from problem
