"""Command lines as they may be shown."""

import re
from collections.abc import Sequence

from schemas.text import plain

LONGEST = 200
"""Characters kept of a command line; the rest is cut and the cut is shown."""

_NAME = (
    r"(?:[\w.\-]*(?:pass|pwd|secret|token|credential|api[-_]?key|access[-_]?key|private[-_]?key|authorization|bearer)"
    r"[\w.\-]*|(?:[\w.\-]*[-_.])?(?:key|auth)\d*)"
)
"""What names a secret. That it takes in a few harmless ones costs a shown value."""

_VALUE = re.compile(rf"({_NAME}[\"']?\s*[:=]\s*|(?:^|\s)-{{1,2}}{_NAME}\s+).+", re.IGNORECASE | re.DOTALL)
"""`--token=…`, `-Ddb.password=…`, `Authorization: …`, `?key=…`, and `--token …` within one argument"""

_OPTION = re.compile(rf"-{{1,2}}{_NAME}", re.IGNORECASE)
_USER_IN_URL = re.compile(r"(\w://)[^/\s]*@")


def shown(arguments: Sequence[str]) -> str:
    """Join them by spaces, with `***` for what looks like a secret's value, cut to `LONGEST` characters. Pure."""
    words = []
    for before, argument in zip(("", *arguments), arguments, strict=False):
        is_value = _OPTION.fullmatch(before) is not None and _OPTION.fullmatch(argument) is None
        words.append("***" if is_value else _USER_IN_URL.sub(r"\1***@", _VALUE.sub(r"\1***", argument)))
    text = plain(" ".join(words))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
