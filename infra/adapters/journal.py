"""The systemd journal on disk: what is in it, and removing its oldest archived files through journalctl."""

import glob
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cmp_to_key

from functions.core.ports import ToolError
from infra.adapters.commands import Commands
from schemas.facts.journal import JournalFile, JournalUsage
from schemas.probes import ProbeError
from schemas.remediation import ItemResult, Outcome
from schemas.text import show_path
from schemas.units import show_size

DIRECTORIES = ("/var/log/journal", "/run/log/journal")
"""Persistent first: below /run is a journal only before the first flush, or where nothing else was configured."""

MACHINE_ID = "/etc/machine-id"

JOURNALD = "/run/systemd/journal/io.systemd.journal"
"""The socket over which a running journald is asked to rotate."""

TIMEOUT = 120.0
"""Seconds for a rotation, and for a vacuum."""

_ARCHIVED = re.compile(r".+@([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{16})\.journal")
"""`system@<sequence>-<first number>-<time of the first entry>.journal`"""

_SET_ASIDE = re.compile(r".+@([0-9a-f]{16})-[0-9a-f]{16}\.journal~")
"""`system@<time>-<random>.journal~`: journald did not trust it after a crash; a vacuum removes it like an archived one."""


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
                seconds = next(int(line.split()[1]) for line in file if line.startswith("btime "))
        except (OSError, StopIteration, ValueError) as error:
            raise ProbeError(f"read the time of the boot from {path}: {error or 'there is no line btime'}") from error
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
        """*journald* is the socket of the one that writes into the directories; where there is none, nothing rotates."""
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
            raise ToolError(f"vacuum the journal to {size} bytes: 0 means no limit to journalctl; give a size like 100M")
        if directory not in own_directories(self._directories, self._machine_id, ToolError):
            raise ToolError(f"vacuum {show_path(directory)}: not a journal of this machine, so it is left alone")
        if os.path.exists(self._journald):
            self._commands.run(["journalctl", "--rotate"], timeout=TIMEOUT)
        found = _files(directory, ToolError)
        going, limit = victims(found, size, keep_since)
        if not going:
            total = sum(file.allocated for file, _ in found)
            if total <= size:
                reason = f"it takes {show_size(total)}, at most {show_size(size)} is wanted"
            else:
                reason = f"no archived file is older than {keep_since:%Y-%m-%d %H:%M} UTC"
            return ItemResult(name=directory, outcome=Outcome.SKIPPED, reason=reason)
        argv = ["journalctl", "-D", directory, f"--vacuum-size={limit}"]
        completed = self._commands.run(argv, timeout=TIMEOUT, accept=())
        left = {(file.path, file.inode) for file, _ in _files(directory, ToolError)}
        gone = [file for file in going if (file.path, file.inode) not in left]
        if not gone:
            why = completed.last_error or f"status {completed.status}"
            raise ToolError(f"{' '.join(argv)} removed none of {len(going)} files: {why}")
        freed = {"bytes": sum(file.allocated for file in gone), "inodes": len(gone)}
        if len(gone) < len(going):
            reason = f"{len(going) - len(gone)} of {len(going)} files stayed: {completed.last_error}"
            return ItemResult(name=directory, outcome=Outcome.PARTIAL, freed=freed, reason=reason)
        return ItemResult(name=directory, outcome=Outcome.DONE, freed=freed)


def victims(
    found: Iterable[tuple[JournalFile, _Order]], size: int, keep_since: datetime
) -> tuple[list[JournalFile], int]:
    """Which archived files go, and the size to give to journalctl so that exactly these go. Pure.

    journalctl counts archived files only and removes from the beginning until they fit. Of all sizes that let the
    same files go the largest is given: should journald archive another file in between, none that is kept goes for it.
    """
    files = list(found)
    active = sum(file.allocated for file, _ in files if not file.archived)
    archived = [pair[0] for pair in sorted((pair for pair in files if pair[0].archived), key=cmp_to_key(_compare))]
    left = sum(file.allocated for file in archived)
    going: list[JournalFile] = []
    for file in archived:
        if left + active <= size or file.tail >= keep_since:
            break
        going.append(file)
        left -= file.allocated
    return going, max(1, left + going[-1].allocated - 1) if going else 0


def _compare(one: tuple[JournalFile, _Order], other: tuple[JournalFile, _Order]) -> int:
    """As journald's vacuum does: by number within a sequence, by time otherwise, then by name."""
    first, second = one[1], other[1]
    if first.sequence and first.sequence == second.sequence:
        keys = [(first.number, second.number)]
    else:
        keys = [(first.time, second.time)]
    if keys[0][0] == keys[0][1]:
        return -1 if first.name < second.name else 1
    return -1 if keys[0][0] < keys[0][1] else 1


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
