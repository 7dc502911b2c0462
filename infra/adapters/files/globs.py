"""Many globs as one cheap test: most names are told apart by their first or last character."""

import re
from collections.abc import Iterable
from fnmatch import translate

_SPECIAL = re.compile(r"[*?\[\]]")
_LITERAL = re.compile(r"[^*?\[\]]+")


class Globs:
    """Whether a base name matches any of some globs, case-sensitively, as fnmatch does.

    A regular expression with fifty alternatives costs more than the stat of a file. So plain names, `prefix*`
    and `*suffix` are looked up, and the others tried only when their longest plain part occurs.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._names: set[str] = set()
        self._prefixes: dict[str, tuple[str, ...]] = {}
        self._suffixes: dict[str, tuple[str, ...]] = {}
        self._others: list[tuple[str, re.Pattern[str]]] = []
        for pattern in dict.fromkeys(patterns):
            self._add(pattern)
        self._rest = tuple(self._others)

    def _add(self, pattern: str) -> None:
        body = pattern.strip("*")
        if not _SPECIAL.search(pattern):
            self._names.add(pattern)
        elif body and not _SPECIAL.search(body) and pattern == f"{body}*":
            self._prefixes[body[0]] = (*self._prefixes.get(body[0], ()), body)
        elif body and not _SPECIAL.search(body) and pattern == f"*{body}":
            self._suffixes[body[-1]] = (*self._suffixes.get(body[-1], ()), body)
        else:
            literals = () if "[" in pattern else _LITERAL.findall(pattern)
            if "[" in pattern:  # only what stands before the first bracket surely occurs as it is written
                literals = _LITERAL.findall(pattern.partition("[")[0])
            self._others.append((max(literals, key=len, default=""), re.compile(translate(pattern))))

    def match(self, name: str) -> bool:
        """*name* must not be empty."""
        if name in self._names:
            return True
        prefixes = self._prefixes.get(name[0])
        if prefixes is not None and name.startswith(prefixes):
            return True
        suffixes = self._suffixes.get(name[-1])
        if suffixes is not None and name.endswith(suffixes):
            return True
        for literal, pattern in self._rest:  # noqa: SIM110 - a generator for each name costs twice as much
            if literal in name and pattern.match(name):
                return True
        return False
