"""Every function by its name: ours, those of installed packages, and those that the configuration declares.

Nothing is imported before it is asked for.
"""

import difflib
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import Any

from functions.core.entries import installed_entries
from functions.core.remedy import AnyRemedy, Remedy
from schemas import registry as messages
from schemas.health import Health
from schemas.settings.custom import CustomAction

FUNCTIONS = {
    "disk.free_space": "functions.disk.free_space:REMEDY",
    "memory.contain_leak": "functions.memory.contain_leak:REMEDY",
    "memory.enforce_limit": "functions.memory.enforce_limit:REMEDY",
    "services.restart_failed": "functions.services.restart_failed:REMEDY",
}

CUSTOM = "functions.custom.remedy:remedy_of"
"""What makes a function of an entry of `custom_actions`."""

CUSTOM_DOMAIN = "custom"
"""Of these names only the configuration makes functions; no package may bring one."""


class UnknownFunction(LookupError):
    """There is no function of that name; the text names the nearest that exists."""


class UnknownEvent(LookupError):
    """No function and no collector has a health event of that type; the text names the nearest that exists."""


class BadFunction(Exception):
    """A function of an installed package that can't be used; the text says which and why."""


def names(custom: Sequence[CustomAction] = ()) -> list[str]:
    """Every name that `load` knows, sorted."""
    return sorted({*FUNCTIONS, *_installed(), *(action.function for action in custom)})


def load(name: str, custom: Sequence[CustomAction] = ()) -> AnyRemedy:
    """The function of that name. Raises UnknownFunction, UnknownEvent, BadFunction.

    A name of ours can't be taken over by an installed package. *custom* are the entries of `custom_actions`.
    """
    if name in FUNCTIONS:
        found: AnyRemedy = _attribute(FUNCTIONS[name])
        return found
    declared = next((action for action in custom if action.function == name), None)
    if declared is not None:
        made: AnyRemedy = _attribute(CUSTOM)(declared, health_model(declared.on))
        return made
    entry = _installed().get(name)
    if entry is None:
        raise UnknownFunction(_nearest(name, custom))
    return _load(entry)


def installed() -> list[AnyRemedy]:
    """The functions that installed packages bring. Raises BadFunction for the first that can't be used."""
    return [_load(entry) for _, entry in sorted(_installed().items())]


def health_models() -> Mapping[str, type[Health]]:
    """Every health event that can be read, by its type: ours, and what installed functions listen to.

    Raises BadFunction. An installed package can't take over a type of ours.
    """
    found = {model.type_name(): model for remedy in installed() for model in remedy.listens}
    for name in messages.names():
        if name.startswith(messages.HEALTH_PREFIX):
            model = messages.model(name)
            assert issubclass(model, Health)
            found[name] = model
    return found


def health_model(name: str) -> type[Health]:
    """The health event of that type. Raises UnknownEvent, BadFunction."""
    known = health_models()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"the nearest is {near[0]}" if near else f"there are {', '.join(sorted(known))}"
    raise UnknownEvent(f"there is no health event {name!r}; {hint}")


def _installed() -> dict[str, EntryPoint]:
    """Without those that want a name of ours, which is not theirs to take."""
    return {name: entry for name, entry in installed_entries().items() if name not in FUNCTIONS}


def _load(entry: EntryPoint) -> AnyRemedy:
    if entry.name.partition(".")[0] == CUSTOM_DOMAIN:
        raise BadFunction(
            f"function {entry.name} is installed as {entry.value}, but names that begin with custom. are for"
            f" custom_actions; uninstall the package, or let its author choose another name"
        )
    try:
        loaded = entry.load()
    except (ImportError, AttributeError) as error:
        raise BadFunction(
            f"function {entry.name} is installed as {entry.value} but can't be loaded: {error}"
        ) from error
    if not isinstance(loaded, Remedy) or loaded.name != entry.name:
        raise BadFunction(f"function {entry.name} is installed as {entry.value}, which is no Remedy of that name")
    return loaded


def _attribute(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


def _nearest(name: str, custom: Sequence[CustomAction]) -> str:
    near = difflib.get_close_matches(name, names(custom), n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names(custom))}"
    return f"there is no function {name!r}; {hint}"
