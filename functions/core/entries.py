"""Which functions installed packages say they bring. Asking loads none of them, and imports nothing of ours."""

from importlib.metadata import EntryPoint, entry_points

GROUP = "ansai.functions"
"""The group of their entry points: name = module:REMEDY."""


def installed_entries() -> dict[str, EntryPoint]:
    """By the function's name."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}
