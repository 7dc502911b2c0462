"""Every collector there is; each is imported on first use."""

import difflib
import importlib

from collectors.core.collector import AnyCollector

TABLE = {
    "disk.pressure": "collectors.disk.pressure:COLLECTOR",
    "memory.pressure": "collectors.memory.pressure:COLLECTOR",
    "memory.trend": "collectors.memory.trend:COLLECTOR",
    "services.state": "collectors.services.state:COLLECTOR",
}


class UnknownCollector(LookupError):
    """There is no collector of that name; the text names the nearest one."""


def names() -> list[str]:
    return sorted(TABLE)


def load(name: str) -> AnyCollector:
    """The collector *name*, like `disk.pressure`. Raises UnknownCollector."""
    if name not in TABLE:
        near = difflib.get_close_matches(name, TABLE, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names())}"
        raise UnknownCollector(f"there is no collector {name!r}; {hint}")
    module, _, attribute = TABLE[name].partition(":")
    collector: AnyCollector = getattr(importlib.import_module(module), attribute)
    return collector
