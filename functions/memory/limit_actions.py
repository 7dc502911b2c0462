"""What holds a service to a limit: its unit, its container engine, or its control group itself."""

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from functions.core.plan import Action, result_of
from functions.core.ports import Tools
from functions.memory.limits import UNIT
from schemas.remediation import ActionResult, Estimate, ItemResult, Risk, UndoWhen
from schemas.text import PathText, Text, show_path
from schemas.units import show_size

OLD_VALUES = "the limits get the values again that they had"


class Limit(Action):
    """Set limits; bytes, none for no limit. Setting the old ones takes this back.

    What it is to set is absolute, so that doing it twice is doing it once; and tools lower a limit only for the run
    that was planned for, and not below what is in use. So it may be begun again, also as a way back that was cut off.
    """

    risk: ClassVar[Risk] = Risk.REVERSIBLE
    undo: ClassVar[str] = OLD_VALUES
    undo_when: ClassVar[UndoWhen] = UndoWhen.GAP_NOT_SMALLER
    repeatable: ClassVar[bool] = True

    maximum: int | None
    maximum_before: int | None
    closes: int
    """limits of the settings that are in force afterwards, and were not"""

    def estimates(self) -> tuple[Estimate, ...]:
        return (Estimate(amount=self.closes, unit=UNIT),)

    def inverse(self, result: ActionResult | None) -> Self:
        """Both values are in the plan, so it is known without a result."""
        return self.model_copy(
            update={"maximum": self.maximum_before, "maximum_before": self.maximum, "closes": -self.closes}
        )

    def _changes(self) -> str:
        return _change("MemoryMax", self.maximum_before, self.maximum)


class LimitWithHigh(Limit):
    """Where a service can be slowed before it is killed."""

    high: int | None
    high_before: int | None

    def inverse(self, result: ActionResult | None) -> Self:
        return super().inverse(result).model_copy(update={"high": self.high_before, "high_before": self.high})

    def _changes(self) -> str:
        changes = (_change("MemoryHigh", self.high_before, self.high), super()._changes())
        return ", ".join(change for change in changes if change)


class LimitUnit(LimitWithHigh):
    """Through systemd, until the next boot."""

    action: Literal["memory.limit_unit"] = "memory.limit_unit"
    unit: Text
    invocation: str

    def title(self) -> str:
        return f"Hold {self.unit} to {self._changes()}, until the next boot"

    def items(self) -> Sequence[str]:
        return [f"{self.unit} {self.invocation}"]

    def apply(self, tools: Tools) -> ActionResult:
        return _became(tools.units.limit_memory(self.unit, self.invocation, self.high, self.maximum))


class LimitContainer(Limit):
    """Through its engine, as long as there is this container."""

    action: Literal["memory.limit_container"] = "memory.limit_container"
    engine: str
    container: str
    """its id: the limit is the container's, whichever run of it"""
    name: Text
    swap: int | None
    """memory and swap together; the engine wants it at least as large as the maximum"""
    swap_before: int | None

    def title(self) -> str:
        swap = _change("memory with swap", self.swap_before, self.swap)
        changes = ", ".join(change for change in (self._changes(), swap) if change)
        return f"Hold {self.engine} container {self.name} to {changes}"

    def items(self) -> Sequence[str]:
        return [f"{self.name} {self.container[:12]}"]

    def inverse(self, result: ActionResult | None) -> Self:
        return super().inverse(result).model_copy(update={"swap": self.swap_before, "swap_before": self.swap})

    def apply(self, tools: Tools) -> ActionResult:
        return _became(tools.containers.limit_memory(self.engine, self.container, self.maximum, self.swap))


class LimitControlGroup(LimitWithHigh):
    """By the files of a control group that nobody manages, as long as there is the group."""

    action: Literal["memory.limit_control_group"] = "memory.limit_control_group"
    target: Text
    group: PathText
    instance: str
    """the run that was planned for; the group alone is what is looked for when it is done"""

    def title(self) -> str:
        return f"Hold {self.target}, in the control group {show_path(self.group)}, to {self._changes()}"

    def items(self) -> Sequence[str]:
        return [f"{self.target} {self.group}"]

    def apply(self, tools: Tools) -> ActionResult:
        return _became(tools.control_groups.limit_memory(self.group, self.high, self.maximum))


class ReleaseHigh(Action):
    """Lift the MemoryHigh of a unit, or of a control group; its maximum stays.

    Nothing takes this back, not even a failure: it would strangle again. To lift it twice is to lift it once.
    """

    risk: ClassVar[Risk] = Risk.REVERSIBLE
    undo: ClassVar[str] = "not taken back, for it strangled; a later plan sets it again when there is room below it"
    undo_when: ClassVar[UndoWhen] = UndoWhen.NEVER
    repeatable: ClassVar[bool] = True

    action: Literal["memory.release_high"] = "memory.release_high"
    unit: Text = ""
    invocation: str = ""
    group: PathText = ""
    """instead of a unit"""
    high_before: int
    maximum: int | None
    """stays as it is"""

    def title(self) -> str:
        return f"Lift MemoryHigh {show_size(self.high_before)} of {self._name()}, which strangles it"

    def _name(self) -> str:
        return self.unit or f"the control group {show_path(self.group)}"

    def estimates(self) -> tuple[Estimate, ...]:
        return (Estimate(amount=1, unit=UNIT),)

    def items(self) -> Sequence[str]:
        return [f"{self.unit} {self.invocation}" if self.unit else self.group]

    def apply(self, tools: Tools) -> ActionResult:
        if self.unit:
            item = tools.units.limit_memory(self.unit, self.invocation, None, self.maximum)
        else:
            item = tools.control_groups.limit_memory(self.group, None, self.maximum)
        return _became(item, closed=1)


def _became(item: ItemResult, closed: int = 0) -> ActionResult:
    """A setting frees nothing by itself: whether it helped, and is kept, is told by the gap alone.

    What lifts one says how many gaps it *closed*, for it is kept whatever else is missing.
    """
    result = result_of([item]).model_copy(update={"detail": item.reason})
    return result.model_copy(update={"freed": {UNIT: float(closed)}}) if closed and result.done else result


def _change(name: str, before: int | None, after: int | None) -> str:
    if before == after:
        return ""
    return f"{name} {_size(after)} (was {_size(before)})"


def _size(size: int | None) -> str:
    return "none" if size is None else show_size(size)
