"""What is known and told about one target while its lease is held: the incident, the audit, the events, the alerts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from functions.core import evidence
from functions.core.plan import Action, Planned
from functions.core.ports import Ledger, Story
from functions.core.situation import Authority
from schemas.alert import Alert, AlertState, Severity
from schemas.approval import Approval
from schemas.audit import ActionEvent, Step
from schemas.incident import Begun, Incident, IncidentState
from schemas.remediation import ActionResult, Gap, Outcome, Report
from schemas.settings.policy import EffectivePolicy

NAMED = 200_000
"""Characters of item names in one audit record; nats-server takes 1 MiB a message unless told otherwise."""


LONG_AGO = datetime.min.replace(tzinfo=UTC)

SKEW = timedelta(seconds=30)
"""Two replicas' clocks may differ by this much."""


@dataclass(frozen=True)
class Cause:
    """Why the engine looks at a target."""

    correlation: str
    authority: Authority = Authority.EVENT
    who: str = ""
    """set when a person asked"""
    answer: Approval | None = None
    """set when a person answered"""


class CaseFile:
    """The incident and its story. Every change of the incident goes through `remember`."""

    def __init__(
        self, ledger: Ledger, story: Story, now: Callable[[], datetime], host: str, function: str, target: str,
        cause: Cause, policy: EffectivePolicy,
    ) -> None:  # fmt: skip
        self._ledger = ledger
        self._story = story
        self._now = now
        self._policy = policy
        self._identity = {"host": host, "function": function, "target": target}
        self._revision: int | None = 0
        self._before: Incident | None = None
        self._stored: Incident | None = None
        self._open_end: Begun | None = None
        """an action that broke in the middle, while another is taken back"""
        self.incident: Incident | None = None
        self.cause = cause
        self.mode = policy.mode

    async def open(self) -> None:
        """Read what is remembered. Raises NotStored."""
        remembered = await self._ledger.load(self._identity["target"])
        self._revision, before = remembered.revision, remembered.incident
        if before is None:
            return
        self._before = evidence.not_from_the_future(before, self._now(), self._policy.clock_tolerance)
        if self._before.open:
            self.incident = self._stored = self._before

    @property
    def quiet_since(self) -> datetime:
        """Nobody worked on the target since: what was observed later holds. Clocks of replicas may differ a little."""
        return self._before.changed_at + SKEW if self._before is not None else LONG_AGO

    def begin(self, gap: Gap, *, remembered: bool) -> Incident:
        """A new incident; not remembered at all for a dry run that a person asked for."""
        now, before = self._now(), self._before
        if not remembered:
            self._revision = None
        self.incident = Incident(
            correlation=self.cause.correlation, state=IncidentState.OPEN, opened_at=now, changed_at=now, gap=gap,
            **(self._carried(before, now) if before is not None else {"changes": (now,)}), **self._identity,
        )  # fmt: skip
        return self.incident

    def _carried(self, before: Incident, now: datetime) -> dict[str, Any]:
        """What the next incident about a target keeps of the one before."""
        changes, flapping = evidence.changed(before, self._policy, now)
        return {
            "attempted_at": before.attempted_at, "ineffective": before.ineffective, "heals": before.heals,
            "samples": evidence.carried_samples(before, self._policy, now), "changes": changes, "flapping": flapping,
            "fixes": before.fixes, "refusals": _still_told(before, flapping=flapping),
        }  # fmt: skip

    def note(self, **changes: Any) -> Incident:
        """Change the incident; what is not stored by itself goes with the next `remember`."""
        assert self.incident is not None
        if any(getattr(self.incident, name) != value for name, value in changes.items()):
            self.incident = self.incident.model_copy(update={**changes, "changed_at": self._now()})
        return self.incident

    async def remember(self, **changes: Any) -> Incident:
        """Change the incident and store it, unless it is stored like that. Raises LedgerConflict, NotStored."""
        self.incident = self.note(**changes)
        if self._revision is not None and self.incident is not self._stored:
            self._revision = await self._ledger.save(self.incident, self._revision)
            self._stored = self.incident
        return self.incident

    async def keep(self) -> None:
        """Store what was noted, if anything was. Raises LedgerConflict, NotStored."""
        if self.incident is not None:
            await self.remember()

    async def close(self) -> None:
        """The target is healthy again."""
        assert self.incident is not None
        now = self._now()
        changes, flapping = evidence.changed(self.incident, self._policy, now)
        await self.remember(
            state=IncidentState.CLOSED, begun=None, pending=None, healed_at=now,
            refusals=_still_told(self.incident, flapping=flapping),
            heals=self.incident.heals + 1, changes=changes, flapping=flapping,
            fixes=evidence.fixed(self.incident, now),
            samples=evidence.looked(self.incident, self._policy, now, unhealthy=False),
        )  # fmt: skip

    async def stuck(self, why: str) -> None:
        """Give up on the target until a person lifts it."""
        await self.remember(state=IncidentState.STUCK, begun=None, pending=None, untold=why)
        await self.tell_stuck()

    async def tell_stuck(self) -> None:
        """Call a person, and write down that it was done: who dies in between leaves it to the next one."""
        assert self.incident is not None
        why = self.incident.untold
        function, target = self._identity["function"], self._identity["target"]
        await self.alert(
            Severity.CRITICAL, AlertState.UNHEALED, f"{target} needs a person: {why}",
            "Nothing more is done by itself. Look at the target; then lift it with:"
            f" ansai trigger {function} --target {target} --live",
        )  # fmt: skip
        await self.audit(Step.STUCK, outcome=Outcome.STUCK, text=why)
        await self.remember(untold="")

    async def no_such_target(self, text: str, seen: str, targets: Sequence[str]) -> None:
        """Refuse a name that the configuration does not know, and name those that it does. Raises NotStored."""
        known = ", ".join(targets[:20]) or "none"
        refused = Outcome.REFUSED
        await self.audit(Step.REFUSED, rule="target", limit=known, seen=seen, outcome=refused, text=text)
        await self.tell(Step.REFUSED, f"{text}; known are {known}", outcome=refused, final=True)

    # The actuator's journal: a change is written down twice before it is made, in the audit and in the incident.

    async def acting(self, planned: Planned) -> None:
        """Raises NotStored, LedgerConflict: then nothing may be touched."""
        fields = _of(planned)
        await self.audit(Step.ACTING, **_named(planned.action), **fields)
        await self.remember(begun=self._begun(planned.action, planned.rung.name, planned.position))
        await self.tell(Step.ACTING, planned.action.title(), **fields)

    async def acted(self, planned: Planned, result: ActionResult) -> None:
        fields: dict[str, Any] = {**_of(planned), "result": result, "outcome": result.outcome}
        step = Step.FAILED if result.outcome is Outcome.FAILED else Step.ACTED
        await self.audit(step, text=result.detail, **fields)
        self.note(begun=None, last_outcome=result.outcome)
        if not planned.action.repeatable:  # a repeatable one may as well be taken for interrupted
            await self.remember()
        text = (
            result.detail
            or f"{planned.action.title()}: {result.outcome}, {result.done} of {len(planned.action.items())}"
        )
        await self.tell(step, text, **fields)

    async def undoing(self, inverse: Action, rung: str, position: int) -> None:
        """*position* is that of the action which is taken back. Raises NotStored, LedgerConflict."""
        assert self.incident is not None
        await self.audit(Step.UNDOING, rung=rung, action=inverse.summary(), **_named(inverse))
        before = self.incident.begun
        self._open_end = before if before is not None and before.position != position else None
        await self.remember(begun=self._begun(inverse, rung, position, undo=True))

    async def undone(self, inverse: Action, rung: str, result: ActionResult) -> str:
        """What became of it, as a sentence. Raises NotStored, LedgerConflict."""
        text = f"{inverse.title()}: {result.outcome}{': ' + result.detail if result.detail else ''}"
        await self.audit(
            Step.UNDONE, rung=rung, action=inverse.summary(), result=result, outcome=result.outcome, text=text
        )
        await self.remember(begun=self._open_end)
        await self.tell(Step.UNDONE, text, rung=rung, result=result, outcome=result.outcome)
        return text

    def _begun(self, action: Action, rung: str, position: int, *, undo: bool = False) -> Begun:
        assert self.incident is not None
        return Begun(
            plan_hash=self.incident.last_plan, rung=rung, position=position, action=action.model_dump(mode="json"),
            at=self._now(), undo=undo,
        )  # fmt: skip

    # Telling.

    async def audit(self, step: Step, **fields: Any) -> None:
        """Raises NotStored."""
        await self._story.audit(
            self.cause.correlation, step=step, mode=self.mode, who=self.cause.who, incident=self._incident_id(),
            policy=self._policy.version, **self._identity, **fields,
        )  # fmt: skip

    async def refused(self, rule: str, limit: str, seen: str, text: str, **fields: Any) -> None:
        """Audit a refusal, and end what followers wait for. Raises NotStored."""
        outcome = Outcome.REFUSED
        await self.audit(Step.REFUSED, rule=rule, limit=limit, seen=seen, outcome=outcome, text=text, **fields)
        await self.tell(Step.REFUSED, text, outcome=outcome, final=True, **fields)

    async def ask(self, approval: Approval) -> None:
        """Raises NotStored."""
        await self._story.approval(self.cause.correlation, approval)

    async def tell(self, step: Step, text: str, **fields: Any) -> None:
        event = ActionEvent(
            step=step, mode=self.mode, text=text, incident=self._incident_id(), **self._identity, **fields
        )
        await self._story.action(self.cause.correlation, event)

    async def alert(
        self, severity: Severity, state: AlertState, title: str, next_step: str, report: Report | None = None
    ) -> datetime | None:
        """When it was stored; None when it could not be."""
        now = self._now()
        alert = Alert(
            severity=severity, state=state, title=title, next=next_step, incident=self._incident_id(), report=report,
            stop=f'ansai freeze on stops everything; policy.functions."{self._identity["function"]}".enabled: false'
            " only this function.",
            at=now, **self._identity,
        )  # fmt: skip
        return now if await self._story.alert(self.cause.correlation, alert) else None

    def _incident_id(self) -> str:
        return self.incident.id if self.incident is not None and self._revision is not None else ""


def _still_told(incident: Incident, *, flapping: bool) -> tuple[str, ...]:
    """That a target flaps is told once, however many incidents that makes."""
    return tuple(rule for rule in incident.refusals if flapping and rule == "flapping")


def _of(planned: Planned) -> dict[str, Any]:
    return {"rung": planned.rung.name, "position": planned.position, "action": planned.action.summary()}


def _named(action: Action) -> dict[str, Any]:
    """As many item names as one message holds, and how many were left out."""
    items: Sequence[str] = action.items()
    room, named = NAMED, 0
    for item in items:
        room -= 4 * len(item)  # the longest escape of a character
        if room < 0:
            break
        named += 1
    left = len(items) - named
    return {"items": tuple(items[:named]), "data": {"items_not_named": left} if left else {}}
