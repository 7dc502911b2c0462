"""A plan that waits for a person, and the person's answer."""

from enum import StrEnum

from pydantic import AwareDatetime, Field, JsonValue

from schemas.remediation import PlanSummary, Value
from schemas.text import Text


class ApprovalState(StrEnum):
    REQUESTED = "requested"
    GRANTED = "granted"
    DENIED = "denied"


class PendingPlan(Value):
    """Kept whole in the bucket `plans` under (host, function, target, hash) until it is used, denied or expired."""

    host: str
    function: str
    target: Text
    incident: str
    correlation: str
    hash: str
    requested_at: AwareDatetime
    expires_at: AwareDatetime
    summary: PlanSummary
    plan: dict[str, JsonValue] = Field(description="The plan itself: its rungs with every action and item.")


class Approval(Value):
    """A request for an answer, or the answer. An answer names the hash: it holds for exactly that plan, once."""

    host: str
    function: str
    target: Text
    hash: str = Field(min_length=8, max_length=64, pattern="^[0-9a-f]+$")
    state: ApprovalState
    expires_at: AwareDatetime | None = None
    who: Text = ""
    reason: Text = ""
    summary: PlanSummary | None = None

    @classmethod
    def type_name(cls) -> str:
        return "ansai.approval.v1"
