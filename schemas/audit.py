"""One line of the story, written before and after every change; and the action events that tell it live."""

from enum import StrEnum
from typing import ClassVar

from pydantic import AwareDatetime, Field, JsonValue

from schemas.remediation import ActionResult, ActionSummary, Gap, Mode, Outcome, PlanSummary, Report, Value
from schemas.text import PathText, Text


class Step(StrEnum):
    """Where in the engine's path; the second half is about the trail itself and about what people do."""

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

    REQUESTED = "requested"
    """a plan waits for a person's approval"""
    GRANTED = "granted"
    DENIED = "denied"
    FROZEN = "frozen"
    """the kill switch was turned on"""
    THAWED = "thawed"
    STORM = "storm"
    """so many members of a group are unhealthy that nobody acts"""
    RELOADED = "reloaded"
    """another policy is in force from here on"""
    BEGAN = "began"
    """the first record of a chain: which process writes it, with which key, after which earlier chain"""
    ENDED = "ended"
    """the last record of a chain whose process stopped in order"""
    KEY_CHANGED = "key_changed"
    """the next segments are signed by another key; cross-signed by both"""
    DISCONTINUITY = "discontinuity"
    """what the writer remembers is not in the stream: restored from a backup, or tampered with"""
    TOMBSTONE = "tombstone"
    """older records were archived and removed; where each chain goes on, and the archive's digest"""


class AuditRecord(Value):
    """One link of a chain. An emitter is one function in one process; it numbers its records without a hole.

    A record's hash is the SHA-256 of its canonical JSON, which holds the hash of the record before it.
    """

    emitter: str
    sequence: int = Field(ge=1)
    previous: str = Field("", description="Hash of the record before; empty in the first of a chain.")
    at: AwareDatetime
    correlation: str = Field("", description="The same in all that one event, order or approval caused.")
    policy: str = Field("", description="Version of the policy in force: the first digits of its digest.")
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


class AuditSegment(Value):
    """One message of the trail: consecutive records of one emitter under one signature.

    The signature is Ed25519 over the canonical JSON of all fields but `records` and `signature`.
    """

    emitter: str
    host: str
    function: str
    first: int = Field(ge=1)
    last: int = Field(ge=1)
    previous: str = Field(description="Hash of the record before the first.")
    head: str = Field(description="Hash of the last record.")
    at: AwareDatetime
    boot: str = Field(description="The machine's boot id.")
    key: str = Field(description="Fingerprint of the signing key: SHA-256 of its raw public half, in hexadecimal.")
    signature: str = Field(description="In hexadecimal.")
    records: tuple[AuditRecord, ...]


class Checkpoint(Value):
    """Where a chain stood at some moment: kept apart from the trail, since a chain alone does not show a cut tail.

    The signature is Ed25519 over the canonical JSON of all other fields.
    """

    TYPE_NAME: ClassVar[str] = "ansai.checkpoint.v1"

    emitter: str
    host: str
    function: str
    sequence: int = Field(ge=1)
    head: str
    at: AwareDatetime
    key: str
    signature: str


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
