"""Values of events as arguments of commands: whole arguments, capped, and nothing that could be an option.

Everything in an event is hostile. A value is never pasted into text, and one that a program might take for
something else is refused, not changed: what runs is what was meant, or nothing.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence

from schemas.settings.custom import Scalar

LONGEST = 1024
"""Characters of one value."""

MOST_INPUT = 64 * 1024
"""Bytes of an event on standard input; a plan with it must fit into one message."""

_WHOLE = re.compile(r"\{([a-z_][a-z0-9_]*)\}")


class BadValue(Exception):
    """A value of an event can't be an argument, so nothing is run; the text says which and why."""


def fields_in(argv: Sequence[str]) -> list[str]:
    """The fields that whole arguments name. Pure."""
    return [match[1] for argument in argv if (match := _WHOLE.fullmatch(argument))]


def pasted_in(argument: str) -> list[str]:
    """The fields that are named inside of a longer argument, where they are not replaced. Pure."""
    return [] if _WHOLE.fullmatch(argument) else _WHOLE.findall(argument)


def resolved(argv: Sequence[str], values: Mapping[str, Scalar | None]) -> tuple[str, ...]:
    """The arguments with each `{field}` replaced by its value. Pure. Raises BadValue."""
    return tuple(_value(match[1], values) if (match := _WHOLE.fullmatch(each)) else each for each in argv)


def _value(name: str, values: Mapping[str, Scalar | None]) -> str:
    value = values.get(name)
    if value is None:
        raise BadValue(f"{{{name}}} is needed, and only an event has it; the next one that matches brings it")
    text = ("false", "true")[value] if isinstance(value, bool) else str(value)
    if name in {"target", "target_name"}:
        _require_canonical(text)
    _require_harmless(name, text)
    return text


def _require_harmless(name: str, text: str) -> None:
    """Raises BadValue."""
    shown = ascii(text[:80])
    if not text:
        raise BadValue(f"{{{name}}} is empty; nothing is run")
    if len(text) > LONGEST:
        raise BadValue(f"{{{name}}} has {len(text)} characters, allowed are {LONGEST}; nothing is run: {shown}…")
    if text.startswith("-"):
        raise BadValue(f"{{{name}}} begins with a dash and could be taken for an option; nothing is run: {shown}")
    if any(unicodedata.category(char) in {"Cc", "Zl", "Zp"} for char in text):
        raise BadValue(f"{{{name}}} holds control characters; nothing is run: {shown}")


def _require_canonical(target: str) -> None:
    """A forged name must not climb out of what a glob permits: bytes:/srv/../etc is none. Raises BadValue."""
    parts = target.partition(":")[2].split("/") if ":" in target else target.split("/")
    if any(part in {".", ".."} for part in parts):
        raise BadValue(f"the target {target[:80]!a} has . or .. in its path; nothing is run")
