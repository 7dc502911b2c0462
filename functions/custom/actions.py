"""What a custom action does: run one command, and, where one is declared, another that takes it back.

Each entry of `custom_actions` gets action types of its own, so that risk and way back can be told before a plan is.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import create_model

from functions.core.plan import Action
from functions.core.ports import Tools
from schemas.facts.commands import Command
from schemas.remediation import ActionResult, Estimate, ItemResult, Outcome
from schemas.settings.custom import CustomAction
from schemas.text import PathText, show_path

UNHEALTHY = "unhealthy"
"""The unit of the gap: 1 is unhealthy, 0 healthy."""

NO_WAY_BACK = "no command was declared that takes it back"


class RunCommand(Action):
    """Run a command of the operator's own."""

    way_back: "ClassVar[type[RunCommand] | None]" = None

    function: str
    target: PathText
    command: Command
    undo_command: Command | None = None

    def title(self) -> str:
        return f"Run {show_path(self.command.shown())} for {show_path(self.target)}"

    def estimates(self) -> tuple[Estimate, ...]:
        """At most: only a look afterwards tells whether it helped."""
        return (Estimate(amount=1, unit=UNHEALTHY, exact=False),)

    def items(self) -> Sequence[str]:
        return [self.target]

    def apply(self, tools: Tools) -> ActionResult:
        item = tools.commands.run(self.function, self.target, self.command)
        if item.outcome is Outcome.DONE:
            return ActionResult(outcome=Outcome.DONE, done=1, detail=item.reason)
        return ActionResult(outcome=Outcome.FAILED, not_done=(item,), detail=item.reason)

    def inverse(self, result: ActionResult | None) -> Action | None:
        """The declared undo, unless the command is known never to have begun."""
        if self.way_back is None or self.undo_command is None or (result is not None and _never_begun(result)):
            return None
        return self.way_back(
            action=self.way_back.model_fields["action"].default, function=self.function, target=self.target,
            command=self.undo_command,
        )  # fmt: skip


def _never_begun(result: ActionResult) -> bool:
    return any(_refused(item) for item in result.not_done)


def _refused(item: ItemResult) -> bool:
    return item.outcome is Outcome.REFUSED


def kinds_of(settings: CustomAction) -> tuple[type[RunCommand], ...]:
    """The action types of one entry: the command, and the one that takes it back if there is any."""
    shown = settings.call or " ".join(settings.run or ())
    kind = _kind(settings.function, f"Runs {shown}", settings)
    kind.repeatable = settings.repeatable
    if settings.undo is None:
        return (kind,)
    undo = " ".join(settings.undo)
    kind.undo = f"runs {undo}"
    kind.way_back = _kind(f"{settings.function}.undo", f"Runs {undo}; never planned by itself", settings)
    return (kind, kind.way_back)


def _kind(name: str, summary: str, settings: CustomAction) -> type[RunCommand]:
    only: Any = Literal[name]
    kind = create_model("RunCommand", __base__=RunCommand, __module__=__name__, __doc__=summary, action=(only, name))
    kind.risk, kind.undo = settings.risk, NO_WAY_BACK
    return kind
