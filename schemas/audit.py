"""One line of the story, written before and after every change; and the action events that tell it live."""

from enum import StrEnum

from pydantic import AwareDatetime, Field, JsonValue

from schemas.remediation import ActionResult, ActionSummary, Gap, Mode, Outcome, PlanSummary, Report, Value
from schemas.text import PathText, Text


class Step(StrEnum):
    """Where in the engine's path."""

    RECEIVED = "received"
    """a trigger came in; health events are not audited one by one"""
    STALE = "stale"
    """health events were dropped as too old; one line a burst"""
    OPENED = "opened"
    PLANNED = "planned"
    REFUSED = "refused"
    DEFERRED = "deferred"
    WOULD = "would"
    """a dry run: what would have been done"""
    ACTING = "acting"
    """written before the change"""
    ACTED = "acted"
    """written after it"""
    FAILED = "failed"
    UNDOING = "undoing"
    UNDONE = "undone"
    VERIFIED = "verified"
    """the gap was measured again"""
    RECOVERED = "recovered"
    """after a crash: what had begun, and what became of it"""
    HEALED = "healed"
    UNHEALED = "unhealed"
    """the ladder ended and the gap is still open"""
    STUCK = "stuck"


class AuditRecord(Value):
    """The seam for chain and signature: a writer numbers the records of one emitter without a hole."""

    emitter: str
    sequence: int = Field(ge=1)
    at: AwareDatetime
    host: str
    function: str
    target: Text = ""
    incident: str = ""
    step: Step
    mode: Mode
    outcome: Outcome | None = None
    rule: Text = Field("", description="The guard rule that decided, with its limit and what was seen.")
    limit: Text = ""
    seen: Text = ""
    who: Text = Field("", description="Who asked, for a trigger; as the subject's last token says.")
    plan: PlanSummary | None = None
    plan_hash: str = ""
    rung: Text = ""
    position: int | None = None
    action: ActionSummary | None = None
    items: tuple[PathText, ...] = Field((), description="Every item the action is about to change, up to a cap.")
    result: ActionResult | None = None
    gap: Gap | None = None
    text: Text = ""
    report: Report | None = None
    data: dict[str, JsonValue] = Field(default_factory=dict)


class ActionEvent(Value):
    """What a follower of a remedy sees; the last one of a walk carries the report."""

    host: str
    function: str
    target: Text
    incident: str = ""
    step: Step
    mode: Mode
    outcome: Outcome | None = None
    text: Text = Field(description="One sentence for a person.")
    final: bool = Field(False, description="Nothing more comes about this target from this cause, for now.")
    plan: PlanSummary | None = None
    plan_hash: str = ""
    rung: Text = ""
    action: ActionSummary | None = None
    result: ActionResult | None = None
    gap: Gap | None = None
    report: Report | None = None
    data: dict[str, JsonValue] = Field(default_factory=dict)
