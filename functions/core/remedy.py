"""The deployed unit: one `Remedy` value says what a function reads, how it measures and what it plans."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, Generic, TypeVar

from functions.core.plan import Action, Plan
from schemas.facts.files import Fact
from schemas.health import Health
from schemas.probes import Probes
from schemas.remediation import Gap
from schemas.settings.base import Settings

Section = TypeVar("Section", bound=Settings)
Seen = TypeVar("Seen", bound=Fact)
Found = TypeVar("Found", bound=Fact)


class Scope(StrEnum):
    HOST = "host"
    """runs where the target is, hears its own host only"""
    CENTRAL = "central"
    """reaches its targets over the network; replicas share one consumer, anywhere"""


@dataclass(frozen=True)
class Case(Generic[Section]):
    """What a function is asked about. The event only points; what it says is read again."""

    host: str
    target: str
    settings: Section
    now: datetime
    event: Health | None = None
    heard: Health | None = None
    """the event, or where there is none the latest one about the target that is stored: what no single read can tell,
    such as growth, is believed of it as long as it is not too old"""
    skip_rungs: frozenset[str] = frozenset()
    """rungs that freed nothing lately: leave them out"""
    attempts: int = 0
    """that were made in this incident, of the few there are before a person must look"""


@dataclass(frozen=True)
class Remedy(Generic[Section, Seen, Found]):
    """One function. `observe` is cheap and done before, between and after; `survey` only when a plan is wanted.

    `targets`, `observe` and `survey` read through probes, block, and raise ProbeError when the truth is
    unknown. `gap` and `plan` are pure.
    """

    name: str
    title: str
    section_name: str
    section: type[Section]
    listens: tuple[type[Health], ...]
    actions: tuple[type[Action], ...]
    targets: Callable[[Section, Probes], list[str]]
    observe: Callable[[Case[Section], Probes], Seen]
    gap: Callable[[Case[Section], Seen], Gap]
    survey: Callable[[Case[Section], Seen, Probes], Found]
    plan: Callable[[Case[Section], Seen, Found], Plan]
    resources: Callable[[Case[Section]], tuple[str, ...]] = lambda case: (case.target,)
    """what it may change, by names that functions share: two of them never change one thing at once"""
    scope: Scope = Scope.HOST
    extras: tuple[str, ...] = ()
    """optional dependency groups it needs"""
    privileges: tuple[str, ...] = field(default=())
    """what it needs beyond an ordinary user's rights, one sentence each"""
    target_globs: bool = False
    """`targets` gives globs of canonical names, because the names themselves come only with events"""
    plans_ahead: bool = True
    """a plan for a healthy target tells a person something, such as what could be freed; else none is shown"""

    @property
    def domain(self) -> str:
        return self.name.partition(".")[0]

    def permits(self, target: str, targets: list[str]) -> bool:
        """Whether *target*, a canonical name, is one of *targets*, which `targets` gave. Pure."""
        if self.target_globs:
            return any(fnmatchcase(target, glob) for glob in targets)
        return target in targets


AnyRemedy = Remedy[Any, Any, Any]


def match_target(wanted: str, targets: list[str], *, globs: bool = False) -> list[str]:
    """The targets that *wanted* names: exactly, or by the part after the colon (`/var` for `bytes:/var`). Pure.

    With *globs* the targets are globs: the answer is what *wanted* itself names among what they permit.
    """
    if wanted in targets:
        return [wanted]
    if not globs:
        return [target for target in targets if target.partition(":")[2] == wanted]
    if any(fnmatchcase(wanted, glob) for glob in targets):
        return [wanted]
    kinds = dict.fromkeys(glob.partition(":")[0] for glob in targets)
    names = [f"{kind}:{wanted}" for kind in kinds if kind and not is_glob(kind)]
    return [name for name in names if any(fnmatchcase(name, glob) for glob in targets)]


def is_glob(target: str) -> bool:
    """Whether it stands for many names. Pure."""
    return any(char in target for char in "*?[")
