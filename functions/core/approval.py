"""Asking a person, and hearing the answer: exactly the plan that was shown runs, once, while it still makes sense."""

import json
from typing import Any

from functions.core.case_file import CaseFile
from functions.core.observation import Observation
from functions.core.plan import Action, Plan, Rung
from functions.core.ports import PlanTooLarge
from functions.core.practice import SETTLED, Practice, Verdict
from functions.core.remedy import AnyRemedy
from schemas.alert import AlertState, Severity
from schemas.approval import Approval, ApprovalState, PendingPlan
from schemas.audit import Step
from schemas.incident import Incident, IncidentState, Pending
from schemas.remediation import Outcome


class Approvals:
    """Of one treatment."""

    def __init__(self, practice: Practice, file: CaseFile) -> None:
        self._practice = practice
        self._file = file
        self._stored: PendingPlan | None = None
        self.granted: Plan | None = None
        """the plan that a person granted, read back and found unchanged"""

    async def ask(self, plan: Plan, observation: Observation) -> Verdict:
        """Store the plan, ask, and alert. Raises NotStored, LedgerConflict."""
        practice, file, now = self._practice, self._file, self._practice.clock.now()
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
            text = f"refused by plan_size: {error}; narrow what the plan may select"
            await file.refused("plan_size", "one message of the bus", str(plan.size), text)
            return SETTLED
        text = f"{plan.size} actions for {incident.target} wait for approval until {expires:%Y-%m-%d %H:%M} UTC"
        await file.audit(Step.REQUESTED, plan=summary, plan_hash=plan.hash, gap=observation.gap, text=text)
        await file.ask(
            Approval(
                host=incident.host, function=incident.function, target=incident.target, hash=plan.hash,
                state=ApprovalState.REQUESTED, expires_at=expires, summary=summary,
            )
        )  # fmt: skip
        await file.remember(
            state=IncidentState.OPEN, begun=None, refusal="",
            pending=Pending(hash=plan.hash, requested_at=now, expires_at=expires),
        )  # fmt: skip
        short = plan.hash[:12]
        await file.tell(Step.REQUESTED, text, plan=summary, plan_hash=plan.hash, final=True)
        await file.alert(
            Severity.WARNING, AlertState.REQUESTED, f"{incident.target}: a plan waits for your approval",
            f"Look at it: ansai approvals show {short}; then: ansai approvals grant {short}, or deny {short}."
            " No answer is a refusal.",
        )  # fmt: skip
        return Verdict(look_again=expires)

    async def heard(self, answer: Approval) -> None:
        """A person's answer. What it can't be about is refused. Raises NotStored, LedgerConflict."""
        file, incident = self._file, self._file.incident
        stored = await self._practice.ports.plans.get(answer.target, answer.hash)
        if incident is None or stored is None or stored.incident != incident.id:
            text = f"refused by approval: no plan {answer.hash[:12]} for {answer.target} waits: it was used, denied,"
            text += " replaced by a newer one, or is too old; see: ansai approvals list"
            await file.refused("approval", "a plan that waits", "none", text, plan_hash=answer.hash)
            return
        self._stored = stored
        if answer.state is ApprovalState.DENIED:
            await self._deny(stored, answer)
            return
        text = f"{file.cause.who} granted the plan" + (f": {answer.reason}" if answer.reason else "")
        await file.audit(Step.GRANTED, plan_hash=stored.hash, text=text)
        self.granted = read_plan(self._practice.remedy, stored)
        if self.granted is None:
            text = "refused by plan_hash: the stored plan is not the one that its hash names; it is not carried out"
            await file.refused("plan_hash", stored.hash, "another", text)

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

    async def expire(self, incident: Incident) -> None:
        """Silence is a refusal, and counts as an attempt. Raises NotStored, LedgerConflict."""
        pending, now, file = incident.pending, self._practice.clock.now(), self._file
        if pending is None or now < pending.expires_at:
            return
        text = f"nobody answered within {self._practice.policy.approval_expiry}, which is a refusal"
        await file.refused("approval", f"{pending.expires_at:%Y-%m-%d %H:%M} UTC", "no answer", text)
        attempts = incident.attempts + 1
        await file.remember(pending=None, denied=pending.hash, attempts=attempts, attempted_at=now)
        if attempts >= self._practice.policy.max_attempts:
            await file.stuck(f"{attempts} attempts, the last of which nobody approved")


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
