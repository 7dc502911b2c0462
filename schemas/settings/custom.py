"""The `custom_actions` section: commands and callables of the operator's own, run by the same engine as ours."""

import os.path
import re
from collections import Counter
from datetime import timedelta
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from schemas.remediation import Risk
from schemas.settings.base import Settings
from schemas.units import Duration

LONGEST_RUN = timedelta(hours=1)
LONGEST_VERIFY = timedelta(seconds=25)
"""The engine waits 30 s for an observation before it calls the truth unknown."""

Value = TypeVar("Value")

_CALL = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def _some(values: tuple[Value, ...]) -> tuple[Value, ...]:
    """After the values themselves, so that a bad one is told and not that none is left."""
    if not values:
        raise ValueError("give at least one")
    return values


def _arguments(argv: tuple[str, ...]) -> tuple[str, ...]:
    if not os.path.isabs(argv[0]):
        raise ValueError(f"the program must be an absolute path, like /usr/local/bin/{argv[0]}: no PATH is searched")
    if any("\0" in argument for argument in argv):
        raise ValueError("an argument can't hold a zero byte")
    return argv


Arguments = Annotated[tuple[str, ...], AfterValidator(_some), AfterValidator(_arguments)]
"""A program by its absolute path, and its arguments. An argument `{field}` is replaced by that value of the event."""


def _target_glob(glob: str) -> str:
    kind, colon, name = glob.partition(":")
    if not colon or not kind or not name or any(char in kind for char in "*?["):
        raise ValueError(f"{glob!r} is no target; write the kind and a name or glob, like bytes:/srv/*")
    return glob


def _call(text: str) -> str:
    if not _CALL.fullmatch(text):
        raise ValueError(f"{text!r} names no callable; write package.module:function")
    return text


def _directory(path: str) -> str:
    if not os.path.isabs(path):
        raise ValueError(f"{path!r} is no absolute path")
    return path


class Bounds(Settings):
    """A number that lies between two others, both included."""

    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise ValueError("give at_least, at_most, or both")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"no number is at least {self.at_least:g} and at most {self.at_most:g}")
        return self


Scalar = bool | int | float | str


def _form(condition: object) -> str:
    if isinstance(condition, dict | Bounds):
        return "bounds"
    return "values" if isinstance(condition, list | tuple) else "value"


Condition = Annotated[
    Annotated[Bounds, Tag("bounds")]
    | Annotated[tuple[Scalar, ...], AfterValidator(_some), Tag("values")]
    | Annotated[Scalar, Tag("value")],
    Discriminator(_form),
]
"""What a value of the event must be: bounds, one of several values, or one value; text may be a glob."""


class CustomAction(Settings):
    """One entry: which events it answers, on which targets, and what it runs."""

    name: str = Field(pattern="^[a-z][a-z0-9_]{0,62}$", description="The function is called custom.<name>.")
    on: str = Field(description="Type of the health event it listens to, like ansai.health.disk.pressure.v1.")
    targets: Annotated[tuple[Annotated[str, AfterValidator(_target_glob)], ...], AfterValidator(_some)] = Field(
        description="Globs of canonical target names. On no other target is anything run."
    )
    when: dict[str, Condition] = Field(
        {}, description="Field of the event → value, list of values, glob, or {at_least, at_most}. All must hold."
    )
    run: Arguments | None = Field(None, description="Program and arguments. {field} as a whole argument is replaced.")
    call: Annotated[str, AfterValidator(_call)] | None = Field(
        None, description="Instead of run: package.module:function, called with the target and the event."
    )
    input: Literal["event"] | None = Field(None, description="event: its JSON on standard input.")
    timeout: Duration = Field(
        timedelta(seconds=60), le=LONGEST_RUN, description="Of run, call and undo; then all its processes are ended."
    )
    user: str | None = Field(None, min_length=1, description="Whose rights it has; to change them needs root.")
    directory: Annotated[str, AfterValidator(_directory)] = Field("/", description="Where it is run.")
    risk: Risk = Field(description="reversible, reproducible, availability or irreversible: you declare it.")
    repeatable: bool = Field(
        False, description="To run it twice does no more than to run it once, so it may begin again after a crash."
    )
    verify: Arguments | None = Field(
        None, description="A check that changes nothing: status 0 is healthy, 1 unhealthy, any other unknown."
    )
    verify_timeout: Duration = Field(
        timedelta(seconds=10), le=LONGEST_VERIFY, description="A check that takes longer leaves the truth unknown."
    )
    undo: Arguments | None = Field(None, description="What takes it back when it fails or is cut off.")

    @property
    def function(self) -> str:
        """Its name among the functions."""
        return f"custom.{self.name}"

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        if (self.run is None) == (self.call is None):
            raise ValueError(f"custom action {self.name}: give either run or call")
        if self.call is not None and self.input is not None:
            raise ValueError(f"custom action {self.name}: call gets the event anyway; leave input out")
        return self


def _names_differ(actions: tuple[CustomAction, ...]) -> tuple[CustomAction, ...]:
    twice = [name for name, count in Counter(action.name for action in actions).items() if count > 1]
    if twice:
        raise ValueError(f"each custom action needs a name of its own; more than one is called {', '.join(twice)}")
    return actions


CustomActions = Annotated[tuple[CustomAction, ...], AfterValidator(_names_differ)]
