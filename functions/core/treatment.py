"""One run over one target, under its leases: remember, plan, ask the guard; then carry out, ask a person, or tell."""

import dataclasses
import logging
from typing import Any

from functions.core import evidence
from functions.core.approval import Approvals
from functions.core.case_file import Cause
from functions.core.execution import Execution
from functions.core.guard import before_plan, decide
from functions.core.observation import Observation
from functions.core.plan import Plan
from functions.core.ports import Held
from functions.core.practice import SETTLED, Practice, Verdict
from functions.core.recovery import recover
from functions.core.remedy import Case
from functions.core.rules import is_storm
from functions.core.situation import Authority, Decision, Go, NeedsApproval, Refuse, Situation, Wait
from schemas.alert import AlertState, Severity
from schemas.audit import Step
from schemas.health import Level
from schemas.incident import Incident, IncidentState
from schemas.probes import ProbeError
from schemas.remediation import Gap, Mode, Outcome
from schemas.units import show_duration

logger = logging.getLogger(__name__)

MOST_STRANGERS = 100
"""Refused names that are told; more of them are a flood, and the audit stream must not fill up with it."""


class Treatment:
    """Holds the case file while the leases are held."""

    def __init__(self, practice: Practice, case: Case[Any], cause: Cause, held: Held) -> None:
        self._practice = practice
        self._policy = practice.policy
        self._case = case
        self._cause = cause
        self._file = practice.case_file(case.target, cause)
        self._execution = Execution(practice, case, self._file, held)
        self._approvals = Approvals(practice, self._file)

    async def run(self) -> Verdict:
        """The whole path. Raises NotStored, LedgerConflict, Fenced: then nothing more was done."""
        practice, file = self._practice, self._file
        await file.open()
        if self._cause.answer is not None:
            await self._approvals.heard(self._cause.answer)
            if self._approvals.granted is None:
                return SETTLED
        # Under the lease: what was seen before somebody else worked on the target doesn't count.
        observation = await practice.observer.since(max(self._case.now, file.quiet_since), self._case)
        if file.incident is not None and file.incident.state is IncidentState.ACTING:
            if practice.ports.brake.frozen() is not None:
                return SETTLED  # what was begun is settled when the freeze is lifted
            await recover(file, practice.remedy, file.incident, observation, self._execution.apply_inverse)
            observation = await practice.observer.anew(self._case)
        if not observation.gap.known:
            return await self._unknown(observation.gap)
        if observation.gap.closed or self._healthy_again():
            return await self._closed(observation)
        return await self._open(observation)

    def _healthy_again(self) -> bool:
        """The collector says ok, with its hysteresis: the alarm is over although the target lies lower still."""
        event = self._case.event
        return not self._cause.authority.person and event is not None and event.level is Level.OK

    async def _unknown(self, gap: Gap) -> Verdict:
        text = f"{self._case.target}: the truth is unknown, so nothing is done: {gap.reason}"
        logger.warning(text)
        if self._cause.authority.person:
            await self._file.tell(Step.VERIFIED, text, outcome=Outcome.INCONCLUSIVE, gap=gap, final=True)
        return SETTLED

    async def _closed(self, observation: Observation) -> Verdict:
        text, fields = f"{self._case.target} is healthy", {"outcome": Outcome.DONE, "gap": observation.gap}
        if self._file.incident is not None:
            await self._file.audit(Step.HEALED, text=text, **fields)
            await self._execution.close()
            await self._file.tell(Step.HEALED, text, final=True, **fields)
            await self._file.alert(Severity.INFO, AlertState.RESOLVED, text, "The incident is closed.")
            await self._storm_over()
        elif self._cause.authority.person:
            await self._file.tell(Step.VERIFIED, f"{text}; nothing to do", final=True, **fields)
        return SETTLED

    async def _open(self, observation: Observation) -> Verdict:
        authority = self._cause.authority
        if self._file.incident is None and not authority.person and not await self._permitted():
            return SETTLED
        await self._approvals.expire(self._file.incident or await self._begin(observation))
        incident = self._file.incident
        assert incident is not None
        if incident.state is IncidentState.STUCK and authority in {Authority.EVENT, Authority.APPROVAL}:
            return SETTLED
        self._file.note(
            samples=evidence.looked(
                incident, self._policy, observation.began, unhealthy=True, event=self._case.event, authority=authority
            )
        )
        await self._storm_over()
        early = before_plan(self._situation(observation))
        if early is not None:
            return await self._decided(early, observation)
        plan = await self._plan(observation)
        if plan is None:
            return SETTLED
        return await self._decided(decide(self._situation(observation, plan)), observation, plan)

    def _situation(self, observation: Observation, plan: Plan | None = None) -> Situation:
        practice, policy = self._practice, self._policy
        assert self._file.incident is not None
        now = practice.clock.now()
        return Situation(
            policy, self._file.incident, now, observation.gap, self._cause.authority, plan,
            planned_at=observation.began if plan is not None else None, fleet=practice.ports.permits.view(now),
            freeze=practice.ports.brake.frozen(),
            clock_jump=practice.steadiness.jump(policy.clock_tolerance, policy.cooldown),
        )  # fmt: skip

    async def _permitted(self) -> bool:
        """The configuration permits, an event only points: a target that is none here is refused, told once."""
        target, strangers, remedy = self._case.target, self._practice.strangers, self._practice.remedy
        try:
            targets = await self._practice.observer.targets(self._case.settings)
        except ProbeError as error:
            logger.warning("%s: its targets can't be listed, so nothing is done: %s", remedy.name, error)
            return False
        if remedy.permits(target, targets):
            return True
        if target not in strangers and len(strangers) < MOST_STRANGERS:
            strangers.add(target)
            await self._file.no_such_target(f"an event points to what is no target here: {target}", target, targets)
        return False

    async def _begin(self, observation: Observation) -> Incident:
        """Open an incident and alert, before anything else."""
        remembered = self._cause.authority is not Authority.DRY_RUN
        incident = self._file.begin(observation.gap, remembered=remembered)
        if not remembered:
            return incident
        event = self._case.event
        reason = event.reason if event is not None and event.reason else f"{self._case.target} is not healthy"
        await self._file.audit(Step.OPENED, gap=observation.gap, text=reason)
        grave = event is None or event.level.rank >= Level.CRITICAL.rank
        acts = self._policy.mode.rank >= Mode.APPROVE.rank
        alerted_at = await self._file.alert(
            Severity.CRITICAL if grave else Severity.WARNING,
            AlertState.OPENED,
            reason,
            "A plan follows, then its actions." if acts else "A plan follows; the policy lets nothing be changed.",
        )
        incident = await self._file.remember(alerted_at=alerted_at)
        await self._practice.ports.permits.report(unhealthy=True)
        return incident

    async def _plan(self, observation: Observation) -> Plan | None:
        """A new plan; the one that a person granted, if one did."""
        if self._cause.authority is Authority.APPROVAL:
            return self._approvals.granted
        now, incident = self._practice.clock.now(), self._file.incident
        assert incident is not None
        skip = frozenset(rung for rung, until in incident.ineffective.items() if until > now)
        case = dataclasses.replace(self._case, now=now, skip_rungs=skip)
        try:
            found = await self._practice.observer.survey(case, observation)
        except ProbeError as error:
            text = f"no plan for {self._case.target}: {error}"
            await self._file.audit(Step.REFUSED, rule="survey", outcome=Outcome.INCONCLUSIVE, text=text)
            await self._file.tell(Step.REFUSED, text, outcome=Outcome.INCONCLUSIVE, final=True)
            return None
        return self._practice.remedy.plan(case, observation.seen, found)

    # What was decided.

    async def _decided(self, decision: Decision, observation: Observation, plan: Plan | None = None) -> Verdict:
        if isinstance(decision, Go):
            chosen = decision.plan
            if self._cause.authority is Authority.APPROVAL and not await self._approvals.use():
                return SETTLED
            outcome = await self._execution.run(decision, observation, lambda: self._situation(observation, chosen))
            return outcome if isinstance(outcome, Verdict) else await self._decided(outcome, observation, plan)
        if isinstance(decision, NeedsApproval):
            return await self._approvals.ask(decision.plan, observation)
        fields = {}
        if plan is not None:
            fields["plan"] = plan.summary(self._practice.remedy.name, self._case.target, observation.gap)
        if isinstance(decision, Wait):
            return await self._wait(decision, fields)
        return await self._refuse(decision, fields)

    def _told_before(self, rule: str) -> bool:
        incident = self._file.incident
        return not self._cause.authority.person and incident is not None and incident.refusal == rule

    async def _wait(self, wait: Wait, fields: dict[str, Any]) -> Verdict:
        acts = self._policy.mode.rank >= Mode.APPROVE.rank
        if not self._told_before(wait.rule) and (acts or wait.rule != "cooldown"):
            left = show_duration(wait.until - self._practice.clock.now())
            text = f"{wait.rule}: {self._case.target} is looked at again in {left}; {wait.seen} of {wait.limit}"
            await self._file.audit(
                Step.DEFERRED, rule=wait.rule, limit=wait.limit, seen=wait.seen, outcome=Outcome.DEFERRED, text=text,
                **fields,
            )  # fmt: skip
            await self._file.tell(Step.DEFERRED, text, outcome=Outcome.DEFERRED, final=True, **fields)
            self._file.note(refusal=wait.rule)
        await self._file.remember()
        return Verdict(look_again=wait.until if acts else None)

    async def _refuse(self, refuse: Refuse, fields: dict[str, Any]) -> Verdict:
        if not self._told_before(refuse.rule):
            text = f"refused by {refuse.rule}: limit {refuse.limit}, seen {refuse.seen}; {refuse.hint}"
            await self._file.refused(refuse.rule, refuse.limit, refuse.seen, text, **fields)
            if not self._cause.authority.person:
                await self._tell_people(refuse, f"{self._case.target}: {text}")
                self._file.note(refusal=refuse.rule)
        await self._file.remember()
        return Verdict(look_again=refuse.until)

    async def _tell_people(self, refuse: Refuse, title: str) -> None:
        """Once per incident and rule; about a storm once among all hosts."""
        if refuse.rule != "storm":
            await self._file.alert(Severity.WARNING, AlertState.REFUSED, title, refuse.hint)
            return
        fleet = self._practice.ports.permits.view(self._practice.clock.now())
        unhealthy = len(fleet.unhealthy)
        if await self._practice.ports.permits.storm(begins=True, unhealthy=unhealthy, members=fleet.members):
            await self._file.audit(Step.STORM, rule="storm", limit=refuse.limit, seen=refuse.seen, text=title)
            title = f"{unhealthy} of {fleet.members} hosts are unhealthy at once: {self._practice.remedy.title}"
            await self._file.alert(Severity.CRITICAL, AlertState.STORM, title, refuse.hint)

    async def _storm_over(self) -> None:
        """The first host that sees few enough unhealthy ones tells people, once among all hosts."""
        permits = self._practice.ports.permits
        fleet = permits.view(self._practice.clock.now())
        if is_storm(self._policy.fleet, fleet.members, len(fleet.unhealthy)) or not await permits.storm(begins=False):
            return
        title = f"the storm is over: {len(fleet.unhealthy)} of {fleet.members} hosts are unhealthy"
        await self._file.alert(
            Severity.INFO, AlertState.RESOLVED, title, "What is left is healed, few hosts at a time."
        )
