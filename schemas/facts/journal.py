"""The systemd journal on disk."""

from datetime import datetime

from schemas.facts.files import Fact
from schemas.text import PathText


class JournalFile(Fact):
    path: PathText
    """absolute"""
    inode: int
    allocated: int
    head: datetime
    """time of its first entry, as the file name tells"""
    tail: datetime
    """when it was last written"""
    archived: bool
    """only archived files are ever removed by a vacuum"""


class JournalUsage(Fact):
    """This machine's journal: /var/log/journal/<machine-id>, or below /run."""

    directory: PathText
    device: int
    files: tuple[JournalFile, ...]
    boot: datetime
    """when the machine started: the current boot's history is kept"""
