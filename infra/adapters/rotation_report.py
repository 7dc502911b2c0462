"""What `logrotate -d` says, taken apart. Pure."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

LOCKED = "is already locked"
"""Said when another logrotate holds the state file's lock."""

_READING = re.compile(r"reading config file (.+)")
_INCLUDING = re.compile(r"including (.+)")
_SCHEDULE = re.compile(
    r"\s(?:forced from command line|hourly|daily|weekly|monthly|yearly|after -?\d+ days|-?\d+ bytes) "
    r"(?:\(-?\d+ rotations\)|\(no old logs will be kept\)|(?=olddir is |empty log files ))"  # `rotate -1` says nothing
)
_CONSIDERING = re.compile(r"considering log (.+)")
_OLD_DIRECTORY = re.compile(r"olddir is (.+?), ")
_ROTATING = re.compile(r"rotating log (.+), log->rotateCount is -?\d+")
_MOVING = re.compile(r"(?:renaming|copying) (.+) to .+")
_SKIPPED = re.compile(r"(?:found error in file (.+), skipping|Ignoring (.+) because it.*|cannot stat (.+): .*)")
_UNREAD = ("error opening ", "error reading ", "error accessing ", "Error mapping ", "cannot ")
_WORDS = re.compile(r'"([^"]*)"|\'([^\']*)\'|((?:\\.|\S)+)')


@dataclass
class Considered:
    """One log that logrotate looked at."""

    path: str
    due: bool = False
    compresses: bool = False
    """something of it is compressed now: what is rotated, or with delaycompress the generation before"""


@dataclass
class Block:
    """One block of patterns with its logs."""

    patterns: tuple[str, ...]
    old_directory: str = ""
    logs: dict[str, Considered] = field(default_factory=dict)


@dataclass
class Report:
    """One run's words, in the order in which they were said."""

    read: list[str] = field(default_factory=list)
    """configuration files, absolute where they were included by a directory"""
    skipped: list[str] = field(default_factory=list)
    """configuration files that logrotate does not use because of an error in them"""
    unread: list[str] = field(default_factory=list)
    """errors because of which it is not known what is configured"""
    blocks: list[Block] = field(default_factory=list)

    @property
    def logs(self) -> Iterator[Considered]:
        return (log for block in self.blocks for log in block.logs.values())

    @property
    def owned(self) -> list[str]:
        """Globs of everything that belongs to the patterns: the logs, and what rotation makes of them."""
        globs: list[str] = []
        for block in self.blocks:
            for pattern in block.patterns:
                globs += family(pattern, block.old_directory)
        return list(dict.fromkeys(globs))


def family(pattern: str, old_directory: str = "") -> list[str]:
    """The pattern itself, its rotated siblings, the same in `olddir`; with `extension` a number comes before it."""
    places = [pattern]
    if old_directory:
        places.append(os.path.join(os.path.dirname(pattern), old_directory, os.path.basename(pattern)))
    globs: list[str] = []
    for place in places:
        stem, extension = os.path.splitext(place)
        globs += [place, f"{place}[.-]*", *([f"{stem}[.-]*{extension}*"] if extension else [])]
    return globs


def words(text: str) -> list[str]:
    """Split patterns as logrotate does: by white space, unless quoted."""
    return [quoted or single or re.sub(r"\\(.)", r"\1", bare) for quoted, single, bare in _WORDS.findall(text)]


def parse(said: str) -> Report:
    """Take the output of `logrotate -d` apart; lines that mean nothing here are passed by."""
    reader = _Reader()
    lines = iter(said.splitlines())
    for line in lines:
        if line.startswith("rotating pattern: "):
            text = line.removeprefix("rotating pattern: ")
            while (schedule := _SCHEDULE.search(text)) is None:  # patterns may be spread over several lines
                following = next(lines, None)
                if following is None:
                    break
                text = f"{text}\n{following}"
            reader.begin(text[: schedule.start()] if schedule else text)
            reader.read(text[schedule.end() :] if schedule else "")
        else:
            reader.read(line)
    return reader.report


class _Reader:
    """Where in the output we are."""

    def __init__(self) -> None:
        self.report = Report()
        self._directory = ""
        self._block: Block | None = None
        self._log: Considered | None = None
        self._moved = False

    def begin(self, text: str) -> None:
        patterns = tuple(word for word in words(text) if word.startswith("/"))
        self._block, self._log, self._moved = Block(patterns), None, False
        self.report.blocks.append(self._block)

    def read(self, line: str) -> None:
        if self._block is None:
            self._read_configuration(line)
        else:
            self._read_log(self._block, line)

    def _read_configuration(self, line: str) -> None:
        if match := _INCLUDING.fullmatch(line):
            self._directory = match[1]
        elif match := _READING.fullmatch(line):
            self.report.read.append(os.path.join(self._directory, match[1]))
        elif line.startswith("error: "):
            error = line.removeprefix("error: ")
            if match := _SKIPPED.fullmatch(error):
                self.report.skipped.append(os.path.join(self._directory, match[1] or match[2] or match[3]))
            elif error.startswith(_UNREAD):
                self.report.unread.append(error)

    def _read_log(self, block: Block, line: str) -> None:
        if match := _CONSIDERING.fullmatch(line):
            self._log = block.logs.setdefault(match[1], Considered(match[1]))
        elif match := _ROTATING.fullmatch(line):
            self._log = block.logs.get(match[1])
        elif match := _OLD_DIRECTORY.match(line):
            block.old_directory = match[1]
        elif (match := _MOVING.fullmatch(line)) and match[1] in block.logs:
            self._moved = True
        elif line.startswith("  log needs rotating") and self._log is not None:
            self._log.due = True
        elif line.startswith("compressing log with: "):
            # Once the logs are moved, which of them is compressed is not said: with shared scripts all are.
            for log in block.logs.values():
                log.compresses |= log.due and (self._moved or log is self._log)
