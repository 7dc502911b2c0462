"""What speaks against custom actions on this host. The settings stay valid: they may be meant for another host."""

import os
import stat
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import NamedTuple

from infra.adapters.custom_commands import Trouble, trouble_with
from schemas.facts.commands import Command
from schemas.settings.custom import CustomAction


class Doubt(NamedTuple):
    where: str
    what: str
    fix: str


def doubts(actions: Sequence[CustomAction]) -> Iterator[Doubt]:
    """Programs that are missing, users that can't be become, files that anybody may change."""
    for action in actions:
        told: set[str] = set()
        for key, argv in (("run", action.run), ("call", ()), ("verify", action.verify), ("undo", action.undo)):
            if argv is None or (key == "call" and action.call is None):
                continue
            command = Command(argv=argv, timeout=1, user=action.user, directory=action.directory)
            trouble = trouble_with(command) or _changeable(argv)
            if trouble is not None and trouble.seen not in told:
                told.add(trouble.seen)
                yield Doubt(f"custom_actions {action.name}, {key}", *trouble)
        if action.call is not None and not _is_installed(action.call):
            package = action.call.partition(":")[0].partition(".")[0]
            yield Doubt(
                f"custom_actions {action.name}, call", f"there is no package {package} here", f"pip install {package}"
            )


def _changeable(argv: Sequence[str]) -> Trouble | None:
    """Whoever may change the program decides what runs with our rights."""
    if argv and os.stat(argv[0]).st_mode & stat.S_IWOTH:
        return Trouble(f"{argv[0]} may be changed by anybody", f"chmod o-w {argv[0]}")
    return None


def _is_installed(place: str) -> bool:
    """Only the outermost package is looked for: to look further would import it."""
    return find_spec(place.partition(":")[0].partition(".")[0]) is not None
