"""A plan is plain data: a ladder of rungs with their actions. It can be shown, hashed, stored and replayed."""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

from pydantic import BaseModel, ConfigDict, SerializeAsAny

from functions.core.ports import Tools
from schemas.remediation import (
    ActionResult,
    ActionSummary,
    Estimate,
    Finding,
    Gap,
    ItemResult,
    Outcome,
    PlanSummary,
    Risk,
    RungSummary,
    UndoWhen,
)

SAMPLE = 5
"""Items of an action that are told by name in its summary."""

LISTED = 50
"""Items that were not done, told by name in an action's result."""


class Reckoned(BaseModel):
    """What it reckons once and keeps is its own: a changed copy reckons anew."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(copied).model_fields.keys():
            del copied.__dict__[name]
        return copied


class Action(Reckoned):
    """One change, with its way back beside it. A subclass has a field `action` with its own name as only value."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    risk: ClassVar[Risk]
    undo: ClassVar[str]
    """how it is taken back, in one sentence"""
    undo_when: ClassVar[UndoWhen] = UndoWhen.NEVER
    """when it is taken back although it worked; one that failed half-way always is, where it can be"""
    repeatable: ClassVar[bool] = False
    """The acting statement checks every item's identity, so that beginning again after a crash does nothing twice."""

    action: str

    @abstractmethod
    def title(self) -> str:
        """One line for a person, with the figures."""
        ...

    @abstractmethod
    def estimates(self) -> tuple[Estimate, ...]:
        """What it is expected to free or change, per unit."""
        ...

    @abstractmethod
    def items(self) -> Sequence[str]:
        """The names of what it changes."""
        ...

    @abstractmethod
    def apply(self, tools: Tools) -> ActionResult:
        """Do it. Blocks. Raises ToolError on expected trouble that leaves nothing done."""
        ...

    def inverse(self, result: ActionResult | None) -> "Action | None":
        """What takes it back, given what it did (None after a crash: not known); None when nothing can."""
        return None

    @cached_property
    def expected(self) -> tuple[Estimate, ...]:
        """`estimates`, summed up once: it may have thousands of items, and many ask."""
        return self.estimates()

    @cached_property
    def told(self) -> ActionSummary:
        """What is told of it: the same in the plan, before it is done, and afterwards."""
        items = self.items()
        return ActionSummary(
            action=self.action, title=self.title(), risk=self.risk, undo=self.undo,
            estimates=self.expected, items=len(items), sample=tuple(items[:SAMPLE]),
        )  # fmt: skip

    def exact(self, unit: str) -> float:
        """What it surely frees in *unit*: only exact estimates count."""
        return sum(estimate.amount for estimate in self.expected if estimate.exact and estimate.unit == unit)


class Rung(BaseModel):
    """One step of the ladder: candidates of one kind, tried before the next rung."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    name: str
    title: str
    actions: tuple[SerializeAsAny[Action], ...]
    unknown_effects: str = ""
    """what a dry run can't foretell"""
    due: datetime | None = None
    """when what it is to prevent comes: it does not wait for a maintenance window that opens later"""

    @property
    def risk(self) -> Risk | None:
        """The gravest of its actions; None without any."""
        return gravest(action.risk for action in self.actions)

    def exact(self, unit: str) -> float:
        return sum(action.exact(unit) for action in self.actions)

    def potential(self, unit: str) -> float:
        """All estimates together, exact or at most."""
        return sum(estimate.amount for action in self.actions for estimate in action.expected if estimate.unit == unit)


class Planned(NamedTuple):
    """One action in its place."""

    position: int
    rung: Rung
    action: Action


class Plan(Reckoned):
    """Every rung in order. Live takes actions in order and stops when the measured gap is closed."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    rungs: tuple[Rung, ...] = ()
    findings: tuple[Finding, ...] = ()
    advice: str = ""
    """why it may only be shown; empty when it may be acted on"""
    grace: timedelta = timedelta(0)
    """between the alert and the first action"""

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the rungs: equal plans have equal hashes, whatever their advice, grace, findings and hour."""
        digest = hashlib.sha256()
        for rung in self.rungs:
            digest.update(rung.model_dump_json(exclude={"due"}).encode())
            digest.update(b"\n")
        return digest.hexdigest()

    @property
    def empty(self) -> bool:
        return not any(rung.actions for rung in self.rungs)

    @property
    def size(self) -> int:
        return sum(len(rung.actions) for rung in self.rungs)

    @property
    def risk(self) -> Risk | None:
        """The gravest of its actions; None without any."""
        return gravest(action.risk for rung in self.rungs for action in rung.actions)

    def only(self, rungs: Sequence[Rung]) -> "Plan":
        """The same plan with these of its rungs only: the same object when that is all of them."""
        if len(rungs) == len(self.rungs):
            return self
        return Plan(rungs=tuple(rungs), findings=self.findings, advice=self.advice, grace=self.grace)

    def steps(self) -> Iterator[Planned]:
        position = 0
        for rung in self.rungs:
            for action in rung.actions:
                yield Planned(position, rung, action)
                position += 1

    def needed(self, gap: Gap) -> set[int]:
        """Positions of the actions that live would do if every exact estimate holds and every other frees nothing."""
        left, positions = gap.amount or 0.0, set()
        for position, _, action in self.steps():
            if left <= 0:
                break
            positions.add(position)
            left -= action.exact(gap.unit)
        return positions

    def summary(self, function: str, target: str, gap: Gap) -> PlanSummary:
        return PlanSummary(
            hash=self.hash, function=function, target=target, advice=self.advice, grace=self.grace.total_seconds(),
            gap=gap, findings=self.findings,
            rungs=tuple(
                RungSummary(
                    rung=rung.name, title=rung.title, unknown_effects=rung.unknown_effects,
                    actions=tuple(action.told for action in rung.actions),
                )
                for rung in self.rungs
            ),
        )  # fmt: skip


def gravest(risks: Iterable[Risk]) -> Risk | None:
    return max(risks, key=lambda risk: risk.rank, default=None)


Item = TypeVar("Item")


def batches(items: Iterable[Item], amount: Callable[[Item], float], need: float, most: int) -> list[list[Item]]:
    """Cut *items* into runs of at most *most*, with a cut just where their sum first reaches *need*. Pure.

    So live stops exactly where it must when the estimates are exact.
    """
    cut: list[list[Item]] = []
    current: list[Item] = []
    left = need
    for item in items:
        current.append(item)
        before, left = left, left - amount(item)
        if len(current) >= most or before > 0 >= left:
            cut.append(current)
            current = []
    if current:
        cut.append(current)
    return cut


def result_of(items: Sequence[ItemResult]) -> ActionResult:
    """Sum up what became of an action's items. Pure."""
    freed: dict[str, float] = {}
    done = 0
    not_done: list[ItemResult] = []
    for item in items:
        for unit, amount in item.freed.items():
            freed[unit] = freed.get(unit, 0) + amount
        if item.outcome is Outcome.DONE:
            done += 1
        else:
            not_done.append(item)
    return ActionResult(
        outcome=_outcome_of(done, not_done), done=done, freed=freed,
        not_done=tuple(not_done[:LISTED]), not_done_more=max(0, len(not_done) - LISTED),
    )  # fmt: skip


def _outcome_of(done: int, not_done: Sequence[ItemResult]) -> Outcome:
    if not not_done:
        return Outcome.DONE
    outcomes = {item.outcome for item in not_done}
    if done:
        return Outcome.DONE if outcomes == {Outcome.SKIPPED} else Outcome.PARTIAL
    for outcome in (Outcome.FAILED, Outcome.INCONCLUSIVE, Outcome.IN_PROGRESS, Outcome.REFUSED, Outcome.DEFERRED):
        if outcome in outcomes:
            return outcome
    return Outcome.SKIPPED
