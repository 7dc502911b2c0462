"""Every function by its name. Nothing is imported before it is asked for."""

import difflib
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

from functions.core.remedy import AnyRemedy, Remedy

FUNCTIONS = {
    "disk.free_space": "functions.disk.free_space:REMEDY",
}

GROUP = "ansai.functions"
"""Installed packages bring functions of their own as entry points of this group: name = module:REMEDY."""


class UnknownFunction(LookupError):
    """There is no function of that name; the text names the nearest that exists."""


class BadFunction(Exception):
    """A function of an installed package that can't be used; the text says which and why."""


def names() -> list[str]:
    """Every name that `load` knows, sorted."""
    return sorted({*FUNCTIONS, *_installed()})


def load(name: str) -> AnyRemedy:
    """The function of that name. Raises UnknownFunction, BadFunction.

    A name of ours can't be taken over by an installed package.
    """
    if name in FUNCTIONS:
        module, _, attribute = FUNCTIONS[name].partition(":")
        found: AnyRemedy = getattr(import_module(module), attribute)
        return found
    installed = _installed().get(name)
    if installed is None:
        raise UnknownFunction(_nearest(name))
    try:
        loaded = installed.load()
    except (ImportError, AttributeError) as error:
        raise BadFunction(f"function {name} is installed as {installed.value} but can't be loaded: {error}") from error
    if not isinstance(loaded, Remedy) or loaded.name != name:
        raise BadFunction(f"function {name} is installed as {installed.value}, which is no Remedy of that name")
    return loaded


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, names(), n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names())}"
    return f"there is no function {name!r}; {hint}"
