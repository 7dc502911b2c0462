"""What can be wrong with an entry of `custom_actions` once it is known which event it listens to."""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, get_args

from functions.custom.arguments import fields_in, pasted_in
from functions.custom.events import OWN, field_names
from schemas.health import Health
from schemas.settings.custom import Bounds, CustomAction


def problems(settings: CustomAction, event: type[Health]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Each fault: the key below the entry, and what is wrong there. Pure."""
    known = field_names(event)
    for name, condition in settings.when.items():
        if name not in known:
            yield ("when", name), _no_field(name, event)
        elif isinstance(condition, Bounds) and not _is_number(event, name):
            yield ("when", name), f"{name} is no number, so it has no at_least or at_most"
    for key, argv in (("run", settings.run), ("verify", settings.verify), ("undo", settings.undo)):
        for index, argument in enumerate(argv or ()):
            for name in fields_in((argument,)):
                if name not in known:
                    yield (key, index), _no_field(name, event)
            for name in pasted_in(argument):
                if name in known:
                    yield (key, index), f"{{{name}}} must be a whole argument; values are never pasted into text"


def _no_field(name: str, event: type[Health]) -> str:
    known = field_names(event)
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"the nearest is {near[0]}" if near else f"there are {', '.join(known)}"
    return f"{event.type_name()} has no field {name}; {hint}"


def _is_number(event: type[Health], name: str) -> bool:
    return name != OWN and bool({int, float} & _types(event.model_fields[name].annotation))


def _types(annotation: Any) -> set[Any]:
    """The type and all that it is made of."""
    return {annotation}.union(*(_types(each) for each in get_args(annotation)))
