"""Asking a person, and hearing the answer: exactly the plan that was shown runs, once, while it still makes sense."""

import json
from typing import Any

from functions.core.case_file import CaseFile
from functions.core.observation import Observation
from functions.core.plan import Action, Plan, Rung
from functions.core.ports import PlanTooLarge
from functions.core.practice import Practice, Verdict
from functions.core.remedy import AnyRemedy
from functions.core.situation import Refuse
from schemas.alert import AlertState, Severity
from schemas.approval import Approval, ApprovalState, PendingPlan
from schemas.audit import Step
from schemas.incident import Incident, IncidentState, Pending
from schemas.remediation import Outcome
from schemas.units import show_duration


class Approvals:
    """Of one treatment."""

    def __init__(self, practice: Practice, file: CaseFile) -> None:
        self._practice = practice
        self._file = file
        self._stored: PendingPlan | None = None
        self.granted: Plan | None = None
        """the plan that a person granted, read back and found unchanged"""

    async def ask(self, plan: Plan, observation: Observation) -> Verdict | Refuse:
        """Store the plan, ask, and alert. Raises NotStored, LedgerConflict."""
        practice, file, now = self._practice, self._file, self._practice.now()
        incident = file.incident
        assert incident is not None
        summary = plan.summary(practice.remedy.name, incident.target, observation.gap)
        expires = now + practice.policy.approval_expiry
        pending = PendingPlan(
            host=incident.host, function=incident.function, target=incident.target, incident=incident.id,
            correlation=file.cause.correlation, hash=plan.hash, requested_at=now, expires_at=expires, summary=summary,
            plan=plan.model_dump(mode="json"),
        )  # fmt: skip
        try:
            await practice.ports.plans.put(pending)
        except PlanTooLarge as error:
            return Refuse("plan_size", "one message of the bus", str(error), "narrow what the plan may select")
        text = f"{plan.size} actions for {incident.target} wait for approval until {expires:%Y-%m-%d %H:%M} UTC"
        await file.audit(Step.REQUESTED, plan=summary, plan_hash=plan.hash, gap=observation.gap, text=text)
        await file.ask(
            Approval(
                host=incident.host, function=incident.function, target=incident.target, hash=plan.hash,
                state=ApprovalState.REQUESTED, expires_at=expires, summary=summary,
            )
        )  # fmt: skip
        short = plan.hash[:12]
        await file.alert(
            Severity.WARNING, AlertState.REQUESTED, f"{incident.target}: a plan waits for your approval",
            f"Look at it: ansai approvals show {short}; then: ansai approvals grant {short}, or deny {short}."
            " No answer is a refusal.",
        )  # fmt: skip
        await file.remember(
            state=IncidentState.OPEN, begun=None, refusals=(),
            pending=Pending(hash=plan.hash, requested_at=now, expires_at=expires),
        )  # fmt: skip
        await file.tell(Step.REQUESTED, text, plan=summary, plan_hash=plan.hash, final=True)
        return Verdict(look_again=expires)

    async def heard(self, answer: Approval) -> None:
        """A person's answer. What it can't be about is refused. Raises NotStored, LedgerConflict."""
        file = self._file
        pending = self._pending()
        stored = await self._waiting(answer.hash) if pending is not None else None
        if pending is None or stored is None:
            text = f"refused by approval: no plan {answer.hash[:12]} for {answer.target} waits: it was used, denied,"
            text += " replaced by a newer one, or is too old; see: ansai approvals list"
            await file.refused("approval", "a plan that waits", "none", text, plan_hash=answer.hash)
            return
        if answer.state is ApprovalState.DENIED:
            await self._deny(stored, answer)
        elif answer.state is ApprovalState.GRANTED:
            text = f"{file.cause.who} granted the plan" + (f": {answer.reason}" if answer.reason else "")
            await file.audit(Step.GRANTED, plan_hash=stored.hash, text=text)
            if await self._read(stored):
                file.note(pending=pending.model_copy(update={"granted_by": file.cause.who}))

    async def recall(self) -> str:
        """Who granted the plan that has waited for something else since; empty when there is none. Raises NotStored."""
        pending = self._pending()
        if pending is None or not pending.granted_by:
            return ""
        stored = await self._waiting(pending.hash)
        if stored is None:  # used up by a process that was killed then
            self._file.note(pending=None)
            return ""
        return pending.granted_by if await self._read(stored) else ""

    def _pending(self) -> Pending | None:
        """The question that is open still."""
        incident = self._file.incident
        pending = incident.pending if incident is not None else None
        return pending if pending is not None and self._practice.now() < pending.expires_at else None

    async def _waiting(self, plan_hash: str) -> PendingPlan | None:
        """The stored plan, when it is the one that was asked about in this incident."""
        incident, pending = self._file.incident, self._pending()
        if incident is None or pending is None or pending.hash != plan_hash:
            return None
        stored = await self._practice.ports.plans.get(incident.target, plan_hash)
        return stored if stored is not None and stored.incident == incident.id else None

    async def _read(self, stored: PendingPlan) -> bool:
        """Take the plan out, and see that it is the one that was shown; people are told when not."""
        self._stored, self.granted = stored, read_plan(self._practice.remedy, stored)
        if self.granted is not None:
            return True
        file, target = self._file, stored.target
        text = "refused by plan_hash: the stored plan is not the one that its hash names; it is not carried out"
        await file.refused("plan_hash", stored.hash, "another", text, plan_hash=stored.hash)
        await file.alert(
            Severity.CRITICAL, AlertState.REFUSED, f"{target}: the plan that waited for approval was altered",
            "Find out who wrote to the bucket plans. A new plan is asked about when this one has expired.",
        )  # fmt: skip
        if pending := self._pending():
            file.note(pending=pending.model_copy(update={"granted_by": ""}))
        return False

    async def _deny(self, stored: PendingPlan, answer: Approval) -> None:
        await self._practice.ports.plans.take(stored.target, stored.hash)
        text = f"{self._file.cause.who} denied the plan" + (f": {answer.reason}" if answer.reason else "")
        await self._file.audit(Step.DENIED, plan_hash=stored.hash, outcome=Outcome.REFUSED, text=text)
        await self._file.tell(Step.DENIED, text, plan_hash=stored.hash, outcome=Outcome.REFUSED, final=True)
        self._file.note(denied=stored.hash)
        await self._file.stuck(text)

    async def use(self) -> bool:
        """Use the granted plan up; False, and told, when somebody was faster. Raises NotStored."""
        assert self._stored is not None
        if await self._practice.ports.plans.take(self._stored.target, self._stored.hash):
            self._file.note(pending=None)
            return True
        text = f"refused by approval: the plan {self._stored.hash[:12]} was used already; one approval is good for once"
        await self._file.refused("approval", "once", "used", text, plan_hash=self._stored.hash)
        return False

    async def lapse(self) -> None:
        """A grant is for what was seen then: it is not kept for a target that is healthy for now.

        Raises NotStored, LedgerConflict.
        """
        assert self._stored is not None
        stored = self._stored
        text = f"refused by approval: {stored.target} is healthy for now, so the plan {stored.hash[:12]} is not carried"
        text += " out; should that not last, another one is asked about"
        await self._file.refused("approval", "an open gap", "healthy for now", text, plan_hash=stored.hash)
        await self._file.remember(pending=None)
        await self._practice.ports.plans.take(stored.target, stored.hash)

    async def expire(self, incident: Incident) -> Incident:
        """Silence is a refusal, and counts as an attempt; the incident after it. Raises NotStored, LedgerConflict."""
        pending, now, file = incident.pending, self._practice.now(), self._file
        if pending is None or now < pending.expires_at:
            return incident
        length = show_duration(pending.expires_at - pending.requested_at)
        text = f"nobody answered within {length}, which is a refusal"
        if pending.granted_by:
            text = f"{pending.granted_by} granted the plan, but it could not be carried out within {length}"
        await self._practice.ports.plans.take(incident.target, pending.hash)
        until = f"{pending.expires_at:%Y-%m-%d %H:%M} UTC"
        await file.refused("approval", until, pending.granted_by or "no answer", text, plan_hash=pending.hash)
        attempts = incident.attempts + 1
        await file.remember(pending=None, denied=pending.hash, attempts=attempts, attempted_at=now)
        if attempts >= self._practice.policy.max_attempts:
            await file.stuck(f"{attempts} attempts, the last of which nobody approved")
        return file.note()


def read_plan(remedy: AnyRemedy, stored: PendingPlan) -> Plan | None:
    """The stored plan as it was; None when it can't be read, or its hash says that it is another."""
    try:
        plan = Plan(rungs=tuple(_rung(remedy, rung) for rung in _list(stored.plan, "rungs")))
    except (LookupError, ValueError):
        return None
    return plan if plan.hash == stored.hash else None


def _rung(remedy: AnyRemedy, document: Any) -> Rung:
    actions = tuple(read_action(remedy, action) for action in _list(document, "actions"))
    return Rung.model_validate({**document, "actions": ()}).model_copy(update={"actions": actions})


def _list(document: Any, name: str) -> list[Any]:
    found = document.get(name) if isinstance(document, dict) else None
    if not isinstance(found, list):
        raise ValueError(f"{name} is no list")
    return found


def read_action(remedy: AnyRemedy, document: dict[str, Any]) -> Action:
    """An action as it was dumped. Raises LookupError for a kind that this version doesn't know, ValueError."""
    for kind in remedy.actions:
        if kind.model_fields["action"].default == document.get("action"):
            return kind.model_validate_json(json.dumps(document))
    raise LookupError(f"no action of the kind {document.get('action')!r} is known to {remedy.name}")
