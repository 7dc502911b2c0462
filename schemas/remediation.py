"""What is told about a remedy at work: gap, estimate, outcome, the plan as it travels, the report."""

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from schemas.text import PathText, Text


class Value(BaseModel):
    """A frozen part of a message; unknown fields are ignored, so that an old reader meets a new writer."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class Gap(Value):
    """How far the target is from healthy. At or below 0 is healthy; no amount means unknown."""

    amount: float | None = None
    unit: Text
    reason: Text = ""
    provisional: bool = Field(False, description="Healthy as far as can be seen; only time will show whether it lasts.")

    @property
    def known(self) -> bool:
        return self.amount is not None

    @property
    def healthy(self) -> bool:
        """As far as can be seen; for good when it is `closed`, and else `verifying`."""
        return self.amount is not None and self.amount <= 0

    @property
    def closed(self) -> bool:
        """Healthy. An unknown gap is neither closed nor open, nor is one that is closed for now only."""
        return self.healthy and not self.provisional

    @property
    def verifying(self) -> bool:
        """Closed for now: nothing more is done, and the incident stays open until time has shown."""
        return self.healthy and self.provisional

    @property
    def open(self) -> bool:
        return self.amount is not None and self.amount > 0

    @classmethod
    def unknown(cls, unit: str, reason: str) -> "Gap":
        return cls(amount=None, unit=unit, reason=reason)


class Estimate(Value):
    """What an action is expected to change, in one dimension. `exact` or at most."""

    amount: float
    unit: Text
    exact: bool = True


class Risk(StrEnum):
    """Severity classes of an action, after the escalation ladder of the guard."""

    REVERSIBLE = "reversible"
    """exact inverse, or the previous version is kept"""
    REPRODUCIBLE = "reproducible"
    """what goes can be fetched or made again: package caches, pullable images"""
    AVAILABILITY = "availability"
    """something restarts or is shortly away"""
    IRREVERSIBLE = "irreversible"
    """no way back; evidence is kept"""

    @property
    def rank(self) -> int:
        return _RISKS[self]


_RISKS = {risk: rank for rank, risk in enumerate(Risk)}


class UndoWhen(StrEnum):
    """When actions are taken back, besides the failed one itself."""

    NEVER = "never"
    """it freed something: taking it back would make things worse"""
    FAILED = "failed"
    """a later action of the incident failed"""
    GAP_NOT_SMALLER = "gap_not_smaller"
    """its rung did not help, or a later action failed: for settings"""


class Outcome(StrEnum):
    DONE = "done"
    SKIPPED = "skipped"
    INEFFECTIVE = "ineffective"
    PARTIAL = "partial"
    DEFERRED = "deferred"
    REFUSED = "refused"
    INCONCLUSIVE = "inconclusive"
    IN_PROGRESS = "in_progress"
    ROLLED_BACK = "rolled_back"
    STUCK = "stuck"
    FAILED = "failed"
    WOULD = "would"
    """a dry run's outcome: would have been done"""


class Mode(StrEnum):
    """How far a function may go; see the guard."""

    OBSERVE = "observe"
    """no plan is made"""
    DRY_RUN = "dry_run"
    """a plan is made and told"""
    APPROVE = "approve"
    """a plan waits until a person grants exactly that plan"""
    AUTO = "auto"

    @property
    def rank(self) -> int:
        return _MODES[self]


_MODES = {mode: rank for rank, mode in enumerate(Mode)}


class ItemResult(Value):
    """What became of one item of an action."""

    name: PathText
    outcome: Outcome
    freed: dict[str, float] = Field(default_factory=dict, description="unit → amount")
    reason: Text = ""


class ActionResult(Value):
    """What an action did. Items that were done are counted; those that were not are listed, up to a cap."""

    outcome: Outcome
    done: int = 0
    freed: dict[str, float] = Field(default_factory=dict, description="unit → amount, summed over the items")
    not_done: tuple[ItemResult, ...] = ()
    not_done_more: int = Field(0, description="Items not done beyond those listed.")
    kept: dict[str, str] = Field(
        default_factory=dict, description="What a person needs to take it back: old name → new name."
    )
    detail: Text = ""


class Finding(Value):
    """Something a person should know or could do; nothing is done about it by itself."""

    title: Text
    detail: Text = ""
    command: tuple[Text, ...] = Field((), description="What a person could run, as an argument list.")
    amount: float | None = None
    unit: Text = ""


class ActionSummary(Value):
    """One action of a plan as it is told."""

    action: Text
    title: Text
    risk: Risk
    undo: Text = Field(description="How it is taken back.")
    estimates: tuple[Estimate, ...] = ()
    items: int = 1
    sample: tuple[PathText, ...] = Field((), description="Its first few items.")


class RungSummary(Value):
    rung: Text
    title: Text
    actions: tuple[ActionSummary, ...]
    unknown_effects: Text = Field("", description="What a dry run can't foretell about it.")


class PlanSummary(Value):
    """A plan as it travels: every action, but only the first items of each; the hash covers all of them."""

    hash: str
    function: str
    target: Text
    advice: Text = Field("", description="Why the plan is advice only; empty when it may be acted on.")
    grace: float = Field(0, description="Seconds between the alert and the first action.")
    gap: Gap
    rungs: tuple[RungSummary, ...]
    findings: tuple[Finding, ...] = ()


class RungReport(Value):
    """One rung's row of the report."""

    rung: Text
    title: Text
    candidates: int = 0
    planned: dict[str, float] = Field(default_factory=dict)
    exact: bool = True
    done: int = 0
    freed: dict[str, float] = Field(default_factory=dict)
    measured: dict[str, float] = Field(
        default_factory=dict, description="By how much the gap shrank, in the gap's unit."
    )
    not_done: tuple[ItemResult, ...] = ()
    outcome: Outcome
    seconds: float = 0


class Report(Value):
    """What was cleaned: planned, freed item by item, and measured; the last is the truth."""

    function: str
    host: str
    target: Text
    mode: Mode
    incident: str
    outcome: Outcome
    began: datetime
    ended: datetime
    gap_before: Gap
    gap_after: Gap
    before: dict[str, JsonValue] = Field(default_factory=dict)
    after: dict[str, JsonValue] = Field(default_factory=dict)
    rungs: tuple[RungReport, ...] = ()
    findings: tuple[Finding, ...] = ()
    unexplained: Text = Field("", description="Why freed and measured differ, where they do.")
    next: Text = Field("", description="What happens now.")
