"""What pydantic complains about, as lines for the operator: where, which key, what is wrong, what was meant."""

from collections.abc import Mapping
from datetime import timedelta
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from infra.configuration.fields import every_key, section_at
from infra.configuration.file import Key
from schemas.settings.base import Settings
from schemas.units import show_duration


def problems_of(
    error: ValidationError, root: type[Settings], values: Any, origins: Mapping[Key, str], file: str | None
) -> list[str]:
    """One line per key that is wrong, in the order of the file."""
    by_key: dict[Key, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        by_key.setdefault(_key_of(detail, values), []).append(detail)
    lines = []
    for key, details in by_key.items():
        dotted = ".".join(map(str, key)) or "the file"
        unknown = any(detail["type"] == "extra_forbidden" for detail in details)
        what = _unknown(root, key) if unknown else _describe(details)
        lines.append((_where(key, origins, file), f"{dotted}: {what}"))
    return [": ".join(line) for line in sorted(lines, key=lambda line: _natural(line[0]))]


def _natural(where: str) -> tuple[str, int]:
    name, _, line = where.split(",")[0].rpartition(":")
    return (name, int(line)) if line.isdigit() else (where, 0)


def _key_of(detail: ErrorDetails, values: Any) -> Key:
    """The location without what pydantic adds for branches of unions and for keys of mappings."""
    key: list[str | int] = []
    for part in detail["loc"]:
        present = (isinstance(values, dict) and part in values) or (
            isinstance(values, list) and isinstance(part, int) and part < len(values)
        )
        if present:
            key.append(part)
            values = values[part]
        elif detail["type"] == "missing" and part == detail["loc"][-1]:
            key.append(part)
    return tuple(key)


def _where(key: Key, origins: Mapping[Key, str], file: str | None) -> str:
    """The origin of the value; for a section that does not fit together also the variables that are part of it."""
    nearest = next((origins[key[:n]] for n in range(len(key), 0, -1) if key[:n] in origins), None)
    below = [origin for other, origin in origins.items() if len(other) > len(key) and other[: len(key)] == key]
    variables = sorted({origin for origin in below if ":" not in origin and origin != nearest})
    if nearest is None:
        return ", ".join(variables) or file or "the built-in defaults"
    return ", ".join((nearest, *variables))


def _unknown(root: type[Settings], key: Key) -> str:
    name = str(key[-1])
    section = section_at(root, key[:-1])
    valid = list(section.model_fields) if section is not None else []
    if near := get_close_matches(name.lower(), valid, n=1, cutoff=0.5):
        return f"unknown key; the nearest valid key is {near[0]}"
    elsewhere = [".".join(map(str, other)) for other in every_key(root) if other[-1] == name]
    if elsewhere:
        return f"unknown key here; it belongs to {' or '.join(elsewhere)}"
    return f"unknown key; valid here: {', '.join(valid)}"


def _describe(details: list[ErrorDetails]) -> str:
    """One sentence out of the complaints of all branches of a union; the most telling one leads."""
    literals = [_expected(detail) for detail in details if detail["type"] in {"literal_error", "enum"}]
    others = [detail for detail in details if detail["type"] not in {"literal_error", "enum"}]
    if not others:
        return f"must be {' or '.join(literals)}; got {_show(details[0]['input'])}"
    lead = min(others, key=lambda detail: detail["type"] != "value_error")
    return _sentence(lead) + (f" (or {' or '.join(literals)})" if literals else "")


def _expected(detail: ErrorDetails) -> str:
    expected = str(detail.get("ctx", {}).get("expected", ""))
    return expected.replace("False", "false").replace("True", "true")


def _sentence(detail: ErrorDetails) -> str:
    context = detail.get("ctx", {})
    if detail["type"] == "value_error":
        return str(context["error"])
    if detail["type"] == "missing":
        return "is required"
    if detail["type"] == "greater_than" and str(context.get("gt")) in {"datetime.timedelta(0)", "0:00:00"}:
        return f"must be longer than 0; got {_show(detail['input'])}"
    message = detail["msg"].replace("Input should be", "must be")
    return f"{message[:1].lower()}{message[1:]}; got {_show(detail['input'])}"


def _show(value: object) -> str:
    if isinstance(value, timedelta):
        return show_duration(value) if value else "0"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "nothing"}[value]
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
