"""The configuration in force as YAML: a valid settings file again, with the origin of every value beside it."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from infra.configuration.file import Key
from infra.configuration.loading import Loaded
from schemas.settings.base import Settings
from schemas.units import parse_size

INDENT = "  "
WIDEST = 64
"""Column at which origins stand, where the value leaves room."""


def to_yaml(loaded: Loaded) -> str:
    """Every value in force, one a line, and in a comment where it comes from."""
    lines = list(_section(loaded.configuration, (), loaded))
    column = min(WIDEST, max((len(text) for text, origin in lines if origin), default=0) + 2)
    return "".join(f"{text:<{column}}# {origin}\n" if origin else f"{text}\n" for text, origin in lines)


def to_plain(loaded: Loaded) -> dict[str, Any]:
    """The same for programs: the values as a settings file holds them, and the origins by dotted key."""
    origins = {".".join(map(str, key)): loaded.origin(key) for key, _ in _leaves(loaded.configuration, ())}
    return {"file": loaded.file, "values": _plain_section(loaded.configuration), "origins": origins}


def _section(section: Settings, key: Key, loaded: Loaded) -> Iterator[tuple[str, str]]:
    indent = INDENT * len(key)
    for name, field in type(section).model_fields.items():
        value, here = getattr(section, name), (*key, name)
        if isinstance(value, Settings):
            yield f"{indent}{name}:", ""
            yield from _section(value, here, loaded)
        elif isinstance(value, dict) and value and all(isinstance(inner, Settings) for inner in value.values()):
            yield f"{indent}{name}:", ""
            for inner_name, inner in value.items():
                yield f"{indent}{INDENT}{_flow(inner_name)}:", ""
                yield from _section(inner, (*here, inner_name), loaded)
        else:
            yield f"{indent}{name}: {_flow(_plain(value, is_size=_is_size(field)))} ", loaded.origin(here)


def _leaves(section: Settings, key: Key) -> Iterator[tuple[Key, FieldInfo]]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Settings):
            yield from _leaves(value, (*key, name))
        elif isinstance(value, dict) and value and all(isinstance(inner, Settings) for inner in value.values()):
            for inner_name, inner in value.items():
                yield from _leaves(inner, (*key, name, inner_name))
        else:
            yield (*key, name), field


def _plain_section(section: Settings) -> dict[str, Any]:
    return {
        name: _plain(getattr(section, name), is_size=_is_size(field))
        for name, field in type(section).model_fields.items()
    }


def _plain(value: object, *, is_size: bool = False) -> Any:
    """As a person writes it in a settings file."""
    if isinstance(value, Settings):
        return _plain_section(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, frozenset):
        return sorted(_plain(inner) for inner in value)
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    if isinstance(value, timedelta):
        return duration_text(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if is_size and isinstance(value, int) and not isinstance(value, bool):
        return size_text(value)
    return value


def duration_text(duration: timedelta) -> str:
    """Exactly *duration*, readable by `schemas.units.parse_duration`: `30 days`, `1 h 30 min`."""
    rest = duration // timedelta(milliseconds=1)
    parts = []
    for unit, length in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)):
        if rest >= length:
            parts.append(f"{rest // length} {unit}")
            rest %= length
    if len(parts) == 1 and parts[0].endswith(" d"):
        return parts[0] + ("ay" if parts[0] == "1 d" else "ays")
    return " ".join(parts) or "0 s"


def size_text(size: int) -> str | int:
    """Exactly *size*, readable by `schemas.units.parse_size`: `100M`."""
    for letter, length in (("T", 2**40), ("G", 2**30), ("M", 2**20), ("K", 2**10)):
        if size and size % length == 0:
            return f"{size // length}{letter}"
    return size


def _is_size(field: FieldInfo) -> bool:
    def holds(metadata: object) -> bool:
        return isinstance(metadata, BeforeValidator) and metadata.func is parse_size

    return any(map(holds, field.metadata)) or any(
        holds(metadata) for choice in get_args(field.annotation) for metadata in getattr(choice, "__metadata__", ())
    )


def _flow(value: object) -> str:
    """One line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=2**20, allow_unicode=True, sort_keys=False)
    return text.removesuffix("...\n").strip()
