"""Pid, lock and socket files that a dead program left, and that keep the next one from starting."""

import errno
import fcntl
import os
import re
import socket
import stat as modes
from collections.abc import Sequence

from functions.core.ports import ToolError
from infra.adapters.files import descriptors
from infra.adapters.files.items import NotDone, require_name, trouble
from infra.adapters.files.locks import lease, lock, record_locked, wanted_by_others
from infra.adapters.files.open_files import OpenFiles
from infra.adapters.process_files import PROC, process_files
from schemas.probes import ProbeError
from schemas.remediation import ItemResult, Outcome
from schemas.text import show_path

LARGEST = 4096
"""Bytes; a pid or lock file has a few dozen, PostgreSQL's, with its paths, a few hundred."""

_LARGEST_PID = 2**22
"""PID_MAX_LIMIT of the kernel."""


def remove_stale(path: str, held_by: Sequence[str]) -> ItemResult:
    """Unlink it when nobody has it open or locked, listens on it, or runs by a number in it.

    A number counts when that process is in one of the control groups *held_by*, or below; of no groups, when it runs
    at all. Raises ToolError when it can't be told whether somebody has it.
    """
    directory, _, name = path.rpartition("/")
    try:
        if not path.startswith("/") or name in {"", ".", ".."}:
            raise NotDone("not the absolute path of a file", Outcome.REFUSED)
        parent = descriptors.open_directory(directory)
        try:
            reason = _remove(parent, name, path, held_by)
        finally:
            os.close(parent)
    except NotDone as why:
        return ItemResult(name=path, outcome=why.outcome, reason=str(why))
    except ProbeError as error:
        raise ToolError(f"remove {show_path(path)}: whether it is in use is unknown: {error}") from error
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            reason = "a part of its path is a link, or no directory; give the path without links"
            return ItemResult(name=path, outcome=Outcome.REFUSED, reason=reason)
        not_done = trouble(error)
        return ItemResult(name=path, outcome=not_done.outcome, reason=str(not_done))
    return ItemResult(name=path, outcome=Outcome.DONE, reason=reason)


def _remove(parent: int, name: str, path: str, held_by: Sequence[str]) -> str:
    """Raises NotDone, ProbeError, OSError."""
    stat = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if modes.S_ISSOCK(stat.st_mode):
        return _remove_socket(parent, name, path)
    if not modes.S_ISREG(stat.st_mode):
        raise NotDone("it is neither a regular file nor a socket", Outcome.REFUSED)
    if stat.st_size > LARGEST:
        raise NotDone(f"{stat.st_size} bytes are too many for a pid or lock file", Outcome.REFUSED)
    if stat.st_nlink != 1:
        raise NotDone("it has other names, as no pid or lock file has", Outcome.REFUSED)
    return _remove_file(parent, name, held_by)


# ── pid and lock files ────────────────────────────────────────────────────────────────────────────────────────────────


def _remove_file(parent: int, name: str, held_by: Sequence[str]) -> str:
    """The last checks happen under its lock and a lease: who opens it meanwhile waits, and then it stays."""
    fd = descriptors.open_below(parent, name, descriptors.FILE)
    try:
        if record_locked(fd) or not lock(fd):
            raise NotDone("locked")
        with lease(fd, fcntl.F_WRLCK) as alone:
            stat = os.fstat(fd)
            if alone is False or (alone is None and (stat.st_dev, stat.st_ino) in OpenFiles(PROC, "/sys").in_use()):
                raise NotDone("somebody has it open")
            numbers = numbers_in(os.pread(fd, LARGEST, 0))
            for pid in numbers:
                if _runs(pid, held_by):
                    raise NotDone(f"process {pid} in it runs")
            require_name(parent, name, (stat.st_dev, stat.st_ino))
            if alone and wanted_by_others(fd, fcntl.F_WRLCK):
                raise NotDone("somebody has it open")
            os.unlink(name, dir_fd=parent)
    finally:
        os.close(fd)
    return f"process {numbers[0]} in it does not run there any more" if numbers else "nobody has it open or locked"


def numbers_in(content: bytes) -> list[int]:
    """What could be process ids in a pid or lock file: of several numbers (PostgreSQL's port, a time) all. Pure."""
    words = re.findall(rb"(?<![\w.])\d{1,7}(?![\w.])", content)
    return list(dict.fromkeys(number for number in map(int, words) if 0 < number <= _LARGEST_PID))


def _runs(pid: int, held_by: Sequence[str]) -> bool:
    try:
        with process_files(pid) as files:
            groups = [] if files.stat().ended else files.control_groups()
    except (FileNotFoundError, ProcessLookupError):
        return False
    inside = [group.rstrip("/") for group in held_by]
    return any(not inside or any(f"{path}/".startswith(f"{group}/") for group in inside) for path in groups)


# ── sockets ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _remove_socket(parent: int, name: str, path: str) -> str:
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        stat = os.fstat(fd)
        if not modes.S_ISSOCK(stat.st_mode):
            raise NotDone("changed: another file has its name now")
        if _bound(path) or _answers(fd):
            raise NotDone("a process holds the socket")
        require_name(parent, name, (stat.st_dev, stat.st_ino))
        os.unlink(name, dir_fd=parent)
    finally:
        os.close(fd)
    return "no process holds the socket"


def _bound(path: str) -> bool:
    """Whether a process of our network namespace is bound to that path, listening or not yet."""
    try:
        with open(f"{PROC}/net/unix", "rb") as table:
            return any(line.rstrip(b"\n").split(None, 7)[7:] == [os.fsencode(path)] for line in table)
    except OSError as error:
        raise ProbeError(f"read {PROC}/net/unix: {error.strerror}") from error


def _answers(fd: int) -> bool:
    """Whether somebody is behind the socket, in whatever namespace: only a dead one refuses."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        return client.connect_ex(f"{PROC}/self/fd/{fd}") != errno.ECONNREFUSED
