"""Who holds a package manager's lock, found out without taking it.

Taking a lock even for a moment can make a package manager fail that starts just then.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence

from infra.adapters.commands import Commands
from infra.adapters.files.locks import RECORD_LOCK
from schemas.text import plain, show_path

UPDATERS = (
    "unattended-upgrade", "unattended-upgrades", "apt.systemd.daily", "apt-daily", "apt-daily-upgrade", "dnf-automatic",
)  # fmt: skip
"""Programs that download now and install later, with moments between in which they hold no lock.

`unattended-upgrade-shutdown` is none of them: it waits for a shutdown as long as the machine runs.
"""


def holder(locks: Iterable[str], processes: str, commands: Commands) -> str:
    """Who holds one of the POSIX locks on these files, or will take one shortly; empty when nobody does.

    *processes* is where /proc is. Raises the error of *commands* when a lock can't be looked at.
    """
    for path in locks:
        held = _lock_holder(path, processes, commands)
        if held:
            return held
    return next(_running(UPDATERS, processes), "")


def writer(path: str, programs: Sequence[str], processes: str) -> str:
    """Which of *programs* wrote its process id into the file *path* and still lives; empty when none does."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            pid = int(file.read(32))
    except (OSError, ValueError):
        return ""  # there is none, or it is being written: then the lock itself tells
    return _named(str(pid), programs, processes)


def _running(programs: Sequence[str], processes: str) -> Iterator[str]:
    for pid in os.listdir(processes):
        if pid.isdigit() and (found := _named(pid, programs, processes)):
            yield found


def _named(pid: str, programs: Sequence[str], processes: str) -> str:
    """The process as people know it, if it runs one of *programs*, by itself or through an interpreter."""
    try:
        with open(f"{processes}/{pid}/cmdline", "rb") as file:
            words = file.read(4096).split(b"\0")[:3]
    except OSError:
        return ""  # it ended meanwhile
    names = {os.path.basename(os.fsdecode(word)) for word in words}
    return next((f"{program} (pid {pid})" for program in programs if program in names), "")


def _lock_holder(path: str, processes: str, commands: Commands) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return ""
    except PermissionError:
        return _listed_holder(path, processes, commands)
    except OSError as error:
        raise commands.error(f"look at the lock {show_path(path)}: {error.strerror}") from error
    try:
        asked = RECORD_LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = RECORD_LOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    except OSError as error:
        raise commands.error(f"look at the lock {show_path(path)}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    return "" if kind == fcntl.F_UNLCK else _shown(pid, path, processes)


def _listed_holder(path: str, processes: str, commands: Commands) -> str:
    """For users who may not open the lock: the kernel's list of locks tells them as well."""
    try:
        seen = os.stat(path, follow_symlinks=False)
        with open(f"{processes}/locks", encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise commands.error(f"look at the lock {show_path(path)}: {error.strerror}; run as root") from error
    which = f"{os.major(seen.st_dev):02x}:{os.minor(seen.st_dev):02x}:{seen.st_ino}"
    for line in lines:
        words = line.split()
        if "POSIX" in words and which in words:
            return _shown(int(words[words.index(which) - 1]), path, processes)
    return ""


def _shown(pid: int, path: str, processes: str) -> str:
    if pid <= 0:  # in another namespace, or a lock that belongs to no single process
        return f"a process not seen from here, by {show_path(path)},"
    try:
        with open(f"{processes}/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return plain(f"{file.read().strip()} (pid {pid})")
    except OSError:
        return f"pid {pid}"
