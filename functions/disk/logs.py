"""What the name of a log file tells: rotated or not, compressed or not, nobody's or somebody else's. Pure."""

import re
from collections.abc import Callable, Iterable
from fnmatch import translate
from typing import NamedTuple

DATABASE_LOGS = (
    # Named "log", but they are the data: write-ahead logs, redo logs, binary logs, commit logs.
    "pg_wal", "pg_xlog", "ib_logfile*", "ibdata*", "#ib_redo*", "#innodb_redo", "undo_*", "*-bin.[0-9]*",
    "*-bin.index*", "binlog.[0-9]*", "binlog.index*", "mysql-bin.*", "*relay-bin*", "relay-log.*", "aria_log*",
    "tokulog*", "*.wal", "*.ldf", "*.aof", "*.rdb", "*.tlog", "*-wal", "*-shm", "*-journal", "CommitLog-*",
    "WiredTiger*", "journal.*", "log.[0-9]*", "LOG.old*", "MANIFEST-*", "[0-9][0-9][0-9][0-9][0-9][0-9].log*",
)  # fmt: skip

SYSTEM_LOGS = (
    # They have tools of their own, count logins, or are evidence.
    "journal", "wtmp*", "btmp*", "utmp*", "lastlog*", "faillog*", "tallylog*", "audit", "audit.log*", "sysstat", "sa",
)  # fmt: skip

CONTAINER_LOGS = ("*-json.log*", "containers", "pods")
"""The engine has its own rotation for them; compressing one breaks reading it."""

NEVER_LOGS = DATABASE_LOGS + SYSTEM_LOGS + CONTAINER_LOGS + ("lost+found",)
"""Globs of base names that are never touched as logs; a directory with all below it."""

ROTATED_NAMES = ("*.[0-9]*", "*-[0-9]*", "*.old", "*.old.*")
"""Globs that let every rotated name pass, and some others: `rotated` decides."""

_DATE = r"(?:19|20)\d\d-?(?:0[1-9]|1[0-2])-?(?:0[1-9]|[12]\d|3[01])(?:[-_T.]?\d{2,10})?"
_ROTATED = re.compile(
    rf"(?P<base>.+?)(?:[.-](?P<date>{_DATE})(?P<extension>\.log)?|\.(?P<number>\d{{1,3}})|\.old)"
    r"(?P<compressed>\.(?:gz|bz2|xz|zst|lz4|lzma|lzo|br|Z|zip|7z))?"
)


class Rotated(NamedTuple):
    """A rotated log's name taken apart."""

    base: str
    """the name of the log that was rotated"""
    compressed: bool


def rotated(name: str) -> Rotated | None:
    """Take a base name apart; None when it is not that of a rotated log."""
    match = _ROTATED.fullmatch(name)
    if match is None:
        return None
    return Rotated(match["base"] + (match["extension"] or ""), match["compressed"] is not None)


def any_of(globs: Iterable[str]) -> Callable[[str], bool]:
    """One test for many globs. An asterisk also stands for slashes, which excludes rather too much than too little."""
    pattern = re.compile("|".join(translate(glob) for glob in globs) or r"(?!)")
    return lambda name: pattern.match(name) is not None


def untouchable(path: str, never: Callable[[str], bool]) -> bool:
    """Whether any component of *path* is one that *never* names."""
    return any(never(part) for part in path.split("/") if part)


def owned(path: str, owns: Callable[[str], bool]) -> bool:
    """Whether logrotate owns *path* (absolute), or the log of which it is a rotated sibling."""
    directory, _, name = path.rpartition("/")
    taken = rotated(name)
    names = [name] if taken is None else [name, taken.base, f"{taken.base}.log"]
    return any(owns(f"{directory}/{candidate}") for candidate in names)
