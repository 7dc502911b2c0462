"""What the settings models say about a key: its section, whether it wants text, what its keys are called."""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from infra.configuration.file import Key
from schemas.settings.base import Settings


def _bare(annotation: Any) -> Any:
    """The annotation without `Annotated` and without `| None`."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in {Union, UnionType}:
            rest = [choice for choice in get_args(annotation) if choice is not NoneType]
            if len(rest) != 1:
                return annotation
            annotation = rest[0]
        else:
            return annotation


def _entered(annotation: Any) -> Any:
    """Of several forms of a value, the one that has keys."""
    if get_origin(annotation) not in {Union, UnionType}:
        return annotation
    forms = [_bare(choice) for choice in get_args(annotation)]
    return next((form for form in forms if isinstance(form, type) and issubclass(form, Settings)), annotation)


def annotation_at(root: type[Settings], key: Key) -> Any:
    """The type wanted at *key*; None when there is no such key."""
    annotation: Any = root
    for name in key:
        annotation = _entered(_bare(annotation))
        if isinstance(annotation, type) and issubclass(annotation, Settings):
            field = annotation.model_fields.get(str(name))
            annotation = field.annotation if field is not None else None
        elif get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
        elif get_origin(annotation) in {tuple, frozenset, list}:
            annotation = get_args(annotation)[0]
        else:
            return None
    return _bare(annotation)


def section_at(root: type[Settings], key: Key) -> type[Settings] | None:
    """The settings model at *key*, if there is one."""
    annotation = _entered(annotation_at(root, key))
    return annotation if isinstance(annotation, type) and issubclass(annotation, Settings) else None


def is_text(root: type[Settings], key: Key) -> bool:
    """Only text, a path or a word is wanted at *key*: then `no` is a word and 123 has digits, not a value."""
    annotation = annotation_at(root, key)
    return isinstance(annotation, type) and issubclass(annotation, str | Path | StrEnum)


def settings_in(section: type[Settings]) -> Iterator[tuple[str, type[Settings]]]:
    """The sections directly below *section*."""
    for name, field in section.model_fields.items():
        annotation = _bare(field.annotation)
        if isinstance(annotation, type) and issubclass(annotation, Settings):
            yield name, annotation


def every_key(root: type[Settings], key: Key = ()) -> Iterator[Key]:
    """Every key that a settings file may hold, mappings with free keys not entered."""
    for name, field in root.model_fields.items():
        annotation = _bare(field.annotation)
        yield (*key, name)
        if isinstance(annotation, type) and issubclass(annotation, Settings):
            yield from every_key(annotation, (*key, name))
