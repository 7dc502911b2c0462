"""What logrotate owns."""

from schemas.facts.files import Fact
from schemas.text import PathText


class RotatedLog(Fact):
    """One file that logrotate manages, and what rotating its configuration now would do."""

    path: PathText
    """absolute"""
    configuration: PathText
    due: bool
    """`logrotate -d` on a copy of the real state says that it needs rotating"""
    device: int
    inode: int
    allocated: int
    compresses: bool


class LogRotation(Fact):
    """Everything logrotate is configured for; `problem` when that could not be read."""

    patterns: tuple[str, ...] = ()
    """globs of owned paths, absolute"""
    logs: tuple[RotatedLog, ...] = ()
    locked: bool = False
    """another logrotate holds the state file's lock"""
    problem: str = ""
