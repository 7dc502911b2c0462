"""The memory about one target: opened when, how far, what is being done."""

from datetime import datetime
from enum import StrEnum

from pydantic import AwareDatetime, Field

from schemas.envelope import new_id
from schemas.remediation import ActionResult, Gap, Outcome, Value
from schemas.text import Text


class IncidentState(StrEnum):
    OPEN = "open"
    """alerted, nothing begun"""
    ACTING = "acting"
    STUCK = "stuck"
    """gave up; leaves only when the gap closes by itself or a person lifts it"""
    CLOSED = "closed"


class Change(Value):
    """One action and its place in its plan."""

    plan_hash: str
    rung: Text
    position: int
    """index of the action in its plan, counted over all rungs"""
    action: dict[str, object]
    """the action itself, so that it can be taken back after a crash"""


class Begun(Change):
    """An action that was begun; without an outcome beside it, nobody knows how far it got."""

    at: AwareDatetime
    undo: bool = Field(False, description="It is itself a way back: after a crash it must not be taken back in turn.")


class Done(Change):
    """An action that may have to be taken back. When that begins it leaves the list, and its inverse is what began."""

    result: ActionResult | None = Field(
        None, description="None: it broke in the middle, and how far it got is unknown."
    )
    due: bool = Field(False, description="It failed, or a later one did: taking it back was decided.")

    @property
    def worked(self) -> bool:
        """It is in effect; one that failed or broke may be, in part."""
        return self.result is not None and self.result.outcome is not Outcome.FAILED


class Sample(Value):
    """One look at the target, by an event or by the function itself: what confirms that it is really unhealthy."""

    at: AwareDatetime
    source: Text
    """the signal that an event reported, `probe` for the function's own look, `person`"""
    unhealthy: bool


class Pending(Value):
    """A plan that waits for a person."""

    hash: str
    requested_at: AwareDatetime
    expires_at: AwareDatetime
    granted_by: Text = Field("", description="Who granted it, when it had to wait for something else since.")


class Incident(Value):
    """Kept in the bucket `incidents` under (host, function, target), replaced by compare-and-set."""

    id: str = Field(default_factory=new_id)
    correlation: str
    host: str
    function: str
    target: Text
    state: IncidentState
    opened_at: AwareDatetime
    changed_at: AwareDatetime
    gap: Gap
    alerted_at: AwareDatetime | None = None
    attempts: int = 0
    attempted_at: AwareDatetime | None = None
    foretold_at: AwareDatetime | None = Field(None, description="When a dry run was told last.")
    interruptions: int = Field(0, description="Crashes in the middle of an action.")
    begun: Begun | None = None
    done: tuple[Done, ...] = Field(
        (), exclude_if=lambda done: not done,
        description="What was done since it was opened, in any attempt, and may have to be taken back; oldest first.",
    )  # fmt: skip
    untold: Text = Field("", description="Why it is stuck, until people were told.")
    last_outcome: Outcome | None = None
    last_plan: str = ""
    refusals: tuple[Text, ...] = Field((), description="Rules that stood in the way since the last attempt: told once.")
    ineffective: dict[str, datetime] = Field(default_factory=dict, description="Rung → not to be tried again before.")
    watched: Text = Field(
        "", description="Rung after which it was healthy for now; it did not last when it opens again."
    )
    samples: tuple[Sample, ...] = Field((), description="The latest looks, oldest first.")
    changes: tuple[datetime, ...] = Field((), description="When it became unhealthy or healthy, the latest ones.")
    flapping: bool = False
    fixes: tuple[datetime, ...] = Field((), description="When it was healed by us, within the last day.")
    pending: Pending | None = Field(None, description="The plan that waits for approval.")
    denied: str = Field("", description="Hash of the plan that a person refused last, or that nobody answered.")
    healed_at: AwareDatetime | None = None
    heals: int = Field(0, description="How often this target was healed since it is remembered.")

    @property
    def open(self) -> bool:
        return self.state is not IncidentState.CLOSED

    @property
    def cut_off(self) -> bool:
        """Who worked on it ended in the middle: that is settled before anything else is done."""
        return self.state is IncidentState.ACTING or self.begun is not None or any(done.due for done in self.done)

    @property
    def acted(self) -> bool:
        """Something was changed already, or begun to be, since it was opened; a question nobody answered is nothing."""
        return self.begun is not None or self.interruptions > 0 or self.last_outcome is not None


class Lease(Value):
    """Who works on a target. The token is the revision at which the lease was acquired; renewals keep it."""

    holder: str
    token: int = 0
    acquired_at: AwareDatetime
