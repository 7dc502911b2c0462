"""logrotate's configuration, read as far as needed to run one of its files with the settings that hold for it. Pure.

`logrotate FILE` alone would run with built-in settings: without the main file's `rotate 4` it keeps no old log at all.
"""

import re
from collections.abc import Iterator
from enum import Enum, auto

from infra.adapters.rotation_report import words

_SCRIPT = re.compile(r"\s*(?:prerotate|postrotate|firstaction|lastaction|preremove)\s*$")
_END_OF_SCRIPT = re.compile(r"\s*endscript\b")
_INCLUDE = re.compile(r"\s*include[\s=]+\S")


class Part(Enum):
    """What a line is."""

    SETTING = auto()
    """a comment, an empty line, or a setting for all that follows"""
    INCLUDE = auto()
    PATTERNS = auto()
    """names of logs, up to the brace that opens their block"""
    BLOCK = auto()


def settings_for_includes(text: str) -> str:
    """What a main file sets for what it includes: all settings above its first include."""
    kept: list[str] = []
    for line, part in _lines(text):
        if part is Part.INCLUDE:
            break
        if part is Part.SETTING:
            kept.append(line)
    return "\n".join(kept) + "\n"


def without_includes(text: str) -> str:
    """A main file with its settings and blocks, without what it includes."""
    return "\n".join(line for line, part in _lines(text) if part is not Part.INCLUDE) + "\n"


def patterns_in(text: str) -> list[str]:
    """The globs of a file that logrotate itself did not get through."""
    lines = (line.partition("{")[0] for line, part in _lines(text) if part is Part.PATTERNS)
    return [word for line in lines for word in words(line) if word.startswith("/")]


def _lines(text: str) -> Iterator[tuple[str, Part]]:
    inside = script = False
    for line in text.splitlines():
        bare = line.strip()
        if script:
            script = _END_OF_SCRIPT.match(line) is None
            yield line, Part.BLOCK
        elif inside:
            script = _SCRIPT.match(line) is not None
            inside = not bare.startswith("}")
            yield line, Part.BLOCK
        elif not bare or bare.startswith("#"):
            yield line, Part.SETTING
        elif _opens(line) or bare[0] in "/\"'~*{":
            inside = _opens(line) and "}" not in line.partition("{")[2]
            yield line, Part.PATTERNS
        else:
            yield line, Part.INCLUDE if _INCLUDE.match(line) else Part.SETTING


def _opens(line: str) -> bool:
    """Whether a brace that is not quoted opens a block."""
    return "{" in re.sub(r'"[^"]*"|\'[^\']*\'', "", line)
