"""What systemd-tmpfiles was told to leave alone: the `x` and `X` lines of tmpfiles.d(5)."""

import os
import re
import shlex
from collections.abc import Iterator, Sequence

from schemas.probes import ProbeError
from schemas.text import show_path

DIRECTORIES = ("/etc/tmpfiles.d", "/run/tmpfiles.d", "/usr/local/lib/tmpfiles.d", "/usr/lib/tmpfiles.d")
"""In the order in which a file hides others of its name."""

_SPECIFIER = re.compile(r"%(.)")


def kept(directories: Sequence[str] = DIRECTORIES) -> tuple[str, ...]:
    """Globs of absolute paths; `x` keeps a path and all below it, `X` the path alone. Raises ProbeError."""
    globs: list[str] = []
    for path in _files(directories):
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                globs += [each for line in file for each in _of_line(line)]
        except OSError as error:
            raise ProbeError(f"read what systemd-tmpfiles keeps in {show_path(path)}: {error.strerror}") from error
    return tuple(dict.fromkeys(globs))


def _files(directories: Sequence[str]) -> Iterator[str]:
    seen: set[str] = set()
    for directory in directories:
        try:
            names = sorted(os.listdir(directory))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ProbeError(f"read {show_path(directory)}: {error.strerror}") from error
        for name in names:
            path = os.path.join(directory, name)
            if name.endswith(".conf") and name not in seen:
                seen.add(name)
                # A link to /dev/null switches the file off; a dangling one is nothing.
                if os.path.isfile(path):
                    yield path


def _of_line(line: str) -> list[str]:
    if not line.lstrip().startswith(("x", "X")):
        return []
    try:
        kind, path, *_ = shlex.split(line, comments=True)
    except ValueError:
        return []  # an open quote, or no path: systemd-tmpfiles does not know this line either
    # What a specifier stands for (boot id, user, …) matters less than that nothing it may stand for is touched.
    glob = _SPECIFIER.sub(lambda found: "%" if found[1] == "%" else "*", path).rstrip("/")
    return [glob, f"{glob}/*"] if kind.startswith("x") else [glob]
