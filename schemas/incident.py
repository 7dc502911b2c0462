"""The memory about one target: opened when, how far, what is being done."""

from datetime import datetime
from enum import StrEnum

from pydantic import AwareDatetime, Field

from schemas.envelope import new_id
from schemas.remediation import Gap, Outcome, Value
from schemas.text import Text


class IncidentState(StrEnum):
    OPEN = "open"
    """alerted, nothing begun"""
    ACTING = "acting"
    STUCK = "stuck"
    """gave up; leaves only when the gap closes by itself or a person lifts it"""
    CLOSED = "closed"


class Begun(Value):
    """An action that was begun; without an outcome beside it, nobody knows how far it got."""

    plan_hash: str
    rung: Text
    position: int
    """index of the action in its plan, counted over all rungs"""
    action: dict[str, object]
    """the action itself, so that it can be taken back after a crash"""
    at: AwareDatetime
    undo: bool = Field(False, description="It is itself a way back: after a crash it must not be taken back in turn.")


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
    untold: Text = Field("", description="Why it is stuck, until people were told.")
    last_outcome: Outcome | None = None
    last_plan: str = ""
    refusals: tuple[Text, ...] = Field((), description="Rules that stood in the way since the last attempt: told once.")
    ineffective: dict[str, datetime] = Field(default_factory=dict, description="Rung → not to be tried again before.")
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
    def acted(self) -> bool:
        """Something was changed already, or begun to be, since it was opened; a question nobody answered is nothing."""
        return self.begun is not None or self.interruptions > 0 or self.last_outcome is not None


class Lease(Value):
    """Who works on a target. The token is the revision at which the lease was acquired; renewals keep it."""

    holder: str
    token: int = 0
    acquired_at: AwareDatetime
