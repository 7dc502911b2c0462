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
from schemas.incident import Begun, Change, Done, Incident, IncidentState
from schemas.remediation import ActionResult, Gap, Outcome, Report, UndoWhen
from schemas.settings.policy import EffectivePolicy

NAMED = 200_000
"""Characters of item names in one audit record; nats-server takes 1 MiB a message unless told otherwise."""

REMEMBERED = 250_000
"""Characters of an incident with what may have to be taken back: a quarter of a message, results come on top."""

NOTHING_DONE = {Outcome.SKIPPED, Outcome.DEFERRED, Outcome.REFUSED}

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
            state=IncidentState.CLOSED, begun=None, done=(), pending=None, healed_at=now,
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
        assert self.incident is not None
        place = {"plan_hash": self.incident.last_plan, "rung": planned.rung.name, "position": planned.position}
        await self.remember(begun=Begun(action=planned.action.model_dump(mode="json"), at=self._now(), **place))
        await self.tell(Step.ACTING, planned.action.title(), **fields)

    async def acted(self, planned: Planned, result: ActionResult) -> None:
        fields: dict[str, Any] = {**_of(planned), "result": result, "outcome": result.outcome}
        step = Step.FAILED if result.outcome is Outcome.FAILED else Step.ACTED
        await self.audit(step, text=result.detail, **fields)
        assert self.incident is not None
        before = self.incident.done
        self.note(begun=None, last_outcome=result.outcome, done=self._done_after(planned.action, result))
        # A repeatable one may as well be taken for interrupted, unless there is something to be taken back.
        if not planned.action.repeatable or self.incident.done != before:
            await self.remember()
        text = (
            result.detail
            or f"{planned.action.title()}: {result.outcome}, {result.done} of {len(planned.action.items())}"
        )
        await self.tell(step, text, **fields)

    async def undoing(self, inverse: Action, change: Change) -> None:
        """*change* is what is taken back. Raises NotStored, LedgerConflict."""
        assert self.incident is not None
        await self.audit(Step.UNDOING, rung=change.rung, action=inverse.told, **_named(inverse))
        begun = Begun(
            plan_hash=change.plan_hash, rung=change.rung, position=change.position,
            action=inverse.model_dump(mode="json"), at=self._now(), undo=True,
        )  # fmt: skip
        await self.remember(begun=begun, done=tuple(done for done in self.incident.done if done is not change))

    async def undone(self, inverse: Action, change: Change, result: ActionResult) -> bool:
        """Whether it is taken back. One that failed leaves the target to a person. Raises NotStored, LedgerConflict."""
        text = f"{inverse.title()}: {result.outcome}{': ' + result.detail if result.detail else ''}"
        await self.audit(
            Step.UNDONE, rung=change.rung, action=inverse.told, result=result, outcome=result.outcome, text=text
        )
        worked = result.outcome in {Outcome.DONE, Outcome.SKIPPED}
        if worked:
            await self.remember(begun=None)
        await self.tell(Step.UNDONE, text, rung=change.rung, result=result, outcome=result.outcome)
        if not worked:  # stored at once with its end: who dies in between leaves a way back that was cut off
            await self.stuck(f"could not take back: {text}")
        return worked

    # What may have to be taken back.

    def holds(self, action: Action) -> bool:
        """Whether there is room to remember that it was done: else it must not be."""
        if action.undo_when is UndoWhen.NEVER:
            return True
        assert self.incident is not None
        twice = 2 * len(action.model_dump_json())  # as what has begun, and as what is done
        return len(self.incident.model_dump_json()) + twice <= REMEMBERED

    def _done_after(self, action: Action, result: ActionResult) -> tuple[Done, ...]:
        """One that worked is kept where it says so; one that failed where there is a way back, and then all are due."""
        assert self.incident is not None
        done, failed = self.incident.done, result.outcome is Outcome.FAILED
        if action.inverse(result) is not None if failed else _bound(action, result):
            done = (*done, self._begun_became(result))
        return _due(done) if failed else done

    def _begun_became(self, result: ActionResult | None) -> Done:
        assert self.incident is not None
        begun = self.incident.begun
        assert begun is not None
        return Done(
            plan_hash=begun.plan_hash, rung=begun.rung, position=begun.position, action=begun.action, result=result
        )

    def all_due(self) -> None:
        """An action failed, or broke in the middle: what is kept goes back, and what broke with it."""
        assert self.incident is not None
        done = self.incident.done
        if self.incident.begun is not None:
            done = (*done, self._begun_became(None))
        self.note(begun=None, done=_due(done))

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


def _bound(action: Action, result: ActionResult) -> bool:
    """It worked, and is taken back nevertheless when it did not help or a later one fails."""
    return action.undo_when is not UndoWhen.NEVER and result.outcome not in NOTHING_DONE


def _due(done: tuple[Done, ...]) -> tuple[Done, ...]:
    return tuple(each if each.due else each.model_copy(update={"due": True}) for each in done)


def _of(planned: Planned) -> dict[str, Any]:
    return {"rung": planned.rung.name, "position": planned.position, "action": planned.action.told}


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
