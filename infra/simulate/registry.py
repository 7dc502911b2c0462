"""The scenarios: one table, loaded on first use."""

import difflib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import import_module

from rich.console import Console

SCENARIOS = {
    "disk-full": "infra.simulate.disk_full:SCENARIO",
    "memory-leak": "infra.simulate.memory_leak:SCENARIO",
    "service-crash": "infra.simulate.service_crash:SCENARIO",
}


class UnknownScenario(LookupError):
    """The text names the nearest one that there is."""


@dataclass(frozen=True)
class Scenario:
    """One fault and its cure."""

    title: str
    run: Callable[[Console], Awaitable[bool]]
    """Make the fault, let it be healed, show it, leave nothing behind; whether it was healed."""


def names() -> list[str]:
    return sorted(SCENARIOS)


def load(name: str) -> Scenario:
    """Raises UnknownScenario."""
    if name not in SCENARIOS:
        near = difflib.get_close_matches(name, SCENARIOS, 1, 0) or names()
        raise UnknownScenario(f"no scenario {name!r}; did you mean {near[0]}?")
    module, _, attribute = SCENARIOS[name].partition(":")
    found = getattr(import_module(module), attribute)
    assert isinstance(found, Scenario)
    return found
