"""One run over one target, under its leases: remember, plan, ask the guard; then carry out, ask a person, or tell."""

import contextlib
import dataclasses
import logging
from datetime import datetime
from typing import Any

from functions.core import evidence, group
from functions.core.approval import Approvals
from functions.core.case_file import Cause
from functions.core.execution import Execution
from functions.core.guard import ask, before_plan, decide
from functions.core.observation import Observation
from functions.core.plan import Plan
from functions.core.ports import Held, LedgerConflict, NotStored
from functions.core.practice import SETTLED, Practice, Verdict
from functions.core.recovery import recover
from functions.core.remedy import Case
from functions.core.rules import flaps
from functions.core.situation import Authority, Decision, Go, NeedsApproval, Refuse, Situation, Wait
from schemas.alert import AlertState, Severity
from schemas.audit import Step
from schemas.fleet import Fleet
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
        self._asked = cause.authority.person
        """a person waits to hear what comes of it"""
        self._file = practice.case_file(case.target, cause)
        self._execution = Execution(practice, case, self._file, held)
        self._approvals = Approvals(practice, self._file)

    async def run(self) -> Verdict:
        """The whole path. Raises NotStored, LedgerConflict, Fenced: then nothing more was done."""
        try:
            return await self._run_through()
        except NotStored:
            with contextlib.suppress(NotStored, LedgerConflict):
                await self._file.keep()  # that people were alerted; else the next try would alert them again
            raise

    async def _run_through(self) -> Verdict:
        practice, file = self._practice, self._file
        await file.open()
        if file.incident is not None and file.incident.untold:
            await file.tell_stuck()
        if not await self._granted():
            return SETTLED
        # Under the lease: what was seen before somebody else worked on the target doesn't count.
        observation = await practice.observer.since(max(self._case.now, file.quiet_since), self._case)
        if file.incident is not None and file.incident.cut_off:
            if practice.ports.brake.frozen() is not None:
                return await self._frozen()
            await self._execution.take_over()
            await recover(file, practice.remedy, file.incident, observation, self._execution.way_back())
            observation = await practice.observer.anew(self._case)
        if not observation.gap.known:
            return await self._unknown(observation.gap)
        if observation.gap.verifying:
            return await self._verifying(observation)
        if observation.gap.closed or self._healthy_again():
            return await self._closed(observation)
        return await self._open(observation)

    async def _granted(self) -> bool:
        """Hear the answer, if that is what came; False when it grants nothing. Else recall one that had to wait."""
        if self._cause.answer is not None:
            await self._approvals.heard(self._cause.answer)
            return self._approvals.granted is not None
        if not self._asked and (who := await self._approvals.recall()):
            self._cause = self._file.cause = dataclasses.replace(self._cause, authority=Authority.APPROVAL, who=who)
        return True

    async def _frozen(self) -> Verdict:
        """What was begun is settled when the freeze is lifted."""
        if self._asked:
            text = f"{self._case.target}: frozen in the middle; it goes on when the freeze is lifted: ansai freeze off"
            await self._file.tell(Step.DEFERRED, text, outcome=Outcome.DEFERRED, final=True)
        return SETTLED

    def _healthy_again(self) -> bool:
        """The collector says ok, with its hysteresis: the alarm is over although the target lies lower still.

        An event that is older than the alarm, or than what was done about it, and comes late says nothing about it.
        """
        event, incident = self._case.event, self._file.incident
        if self._asked or event is None or event.level is not Level.OK:
            return False
        return incident is None or event.observed_at > evidence.alarmed_at(incident, event.signal)

    async def _unknown(self, gap: Gap) -> Verdict:
        text = f"{self._case.target}: the truth is unknown, so nothing is done: {gap.reason}"
        logger.warning(text)
        if self._asked:
            await self._file.tell(Step.VERIFIED, text, outcome=Outcome.INCONCLUSIVE, gap=gap, final=True)
        return self._later()

    def _later(self) -> Verdict:
        """An incident that is open is looked at again even if no event ever comes: its collector may have died."""
        if not self._practice.ports.ledger.is_open(self._case.target):
            return SETTLED
        return Verdict(look_again=self._practice.clock.now() + self._policy.cooldown)

    async def _verifying(self, observation: Observation) -> Verdict:
        """Nothing more is done, and the incident stays open: it is looked at again until time has shown."""
        if self._approvals.granted is not None:
            await self._approvals.lapse()
        if self._asked:
            text = f"{self._case.target} is healthy for now; nothing to do: {observation.gap.reason}"
            await self._file.tell(Step.VERIFIED, text, outcome=Outcome.IN_PROGRESS, gap=observation.gap, final=True)
        if self._file.incident is not None:
            await self._file.remember(gap=observation.gap)
        return self._later()

    def _did_not_last(self, incident: Incident) -> None:
        """The next attempt leaves out what helped for a while only, else it would be tried until none is left."""
        until = self._practice.clock.now() + self._policy.ineffective_for
        self._file.note(ineffective=incident.ineffective | {incident.watched: until}, watched="")

    async def _closed(self, observation: Observation) -> Verdict:
        text, fields = f"{self._case.target} is healthy", {"outcome": Outcome.DONE, "gap": observation.gap}
        if self._file.incident is not None:
            await self._file.audit(Step.HEALED, text=text, **fields)
            if self._file.incident.alerted_at is not None:
                await self._file.alert(Severity.INFO, AlertState.RESOLVED, text, "The incident is closed.")
            await self._execution.close()
            await self._file.tell(Step.HEALED, text, final=True, **fields)
        elif self._asked:
            await self._file.tell(Step.VERIFIED, f"{text}; nothing to do", final=True, **fields)
        return SETTLED

    async def _open(self, observation: Observation) -> Verdict:
        authority = self._cause.authority
        if self._file.incident is None and not authority.person and not await self._permitted():
            return SETTLED
        if self._file.incident is None:
            await self._begin(observation)
        if authority is not Authority.DRY_RUN:
            await self._tell_open()
        assert self._file.incident is not None
        if self._file.incident.watched:
            self._did_not_last(self._file.incident)
        incident = await self._approvals.expire(self._file.incident)
        if incident.state is IncidentState.STUCK and authority in {Authority.EVENT, Authority.APPROVAL}:
            await self._file.remember()
            return SETTLED
        self._file.note(
            samples=evidence.looked(
                incident, self._policy, observation.began, unhealthy=True, event=self._case.event, authority=authority
            )
        )
        early = before_plan(self._situation(observation))
        if early is not None:
            return await self._decided(early, observation)
        plan = await self._plan(observation)
        if plan is None:
            return self._later()
        return await self._decided(decide(self._situation(observation, plan)), observation, plan)

    def _situation(self, observation: Observation, plan: Plan | None = None, fleet: Fleet | None = None) -> Situation:
        """*fleet*: as it is stored this moment; by default as the mirror shows it."""
        practice, policy = self._practice, self._policy
        assert self._file.incident is not None
        now = practice.clock.now()
        return Situation(
            policy, self._file.incident, now, observation.gap, self._cause.authority, plan,
            planned_at=observation.began if plan is not None else None,
            fleet=fleet if fleet is not None else practice.ports.permits.view(now),
            freeze=practice.ports.brake.frozen(),
            clock_jump=practice.steadiness.jump(now, policy.clock_tolerance, policy.cooldown),
        )  # fmt: skip

    async def _permitted(self) -> bool:
        """The configuration permits, an event only points: a target that is none here is refused, told once."""
        target, strangers, remedy = self._case.target, self._practice.strangers, self._practice.remedy
        try:
            targets = await self._practice.observer.targets(self._case.settings, anew=False)
        except ProbeError as error:
            logger.warning("%s: its targets can't be listed, so nothing is done: %s", remedy.name, error)
            return False
        if remedy.permits(target, targets):
            return True
        if target not in strangers and len(strangers) < MOST_STRANGERS:
            strangers.add(target)
            await self._file.no_such_target(f"an event points to what is no target here: {target}", target, targets)
        return False

    async def _begin(self, observation: Observation) -> None:
        """Open an incident; only in memory for a dry run that a person asked for.

        It is stored before anybody is told: what was told once is then found again under the same name.
        """
        self._file.begin(observation.gap, remembered=self._cause.authority is not Authority.DRY_RUN)
        await self._file.remember()

    def _reason(self) -> str:
        event = self._case.event
        return event.reason if event is not None and event.reason else f"{self._case.target} is not healthy"

    async def _tell_open(self) -> None:
        """Alert, before anything else, until an alert could be stored; and let the group know.

        While it flaps, and people know that, each turn is no news; it is told when it is calm and still unhealthy.
        """
        incident = self._file.incident
        assert incident is not None
        known = "flapping" in incident.refusals and flaps(self._policy, incident, self._practice.now())
        if incident.alerted_at is None and not known:
            await self._file.audit(Step.OPENED, gap=incident.gap, text=self._reason())
            self._file.note(alerted_at=await self._alert_opened())  # stored with what follows
        await group.report(self._practice, self._file, unhealthy=True)

    async def _alert_opened(self) -> datetime | None:
        event = self._case.event
        grave = event is None or event.level.rank >= Level.CRITICAL.rank
        acts = self._policy.mode.rank >= Mode.APPROVE.rank
        return await self._file.alert(
            Severity.CRITICAL if grave else Severity.WARNING,
            AlertState.OPENED,
            self._reason(),
            "A plan follows, then its actions." if acts else "A plan follows; the policy lets nothing be changed.",
        )

    async def _plan(self, observation: Observation) -> Plan | None:
        """A new plan; the one that a person granted, if one did."""
        if self._cause.authority is Authority.APPROVAL:
            return self._approvals.granted
        now, incident = self._practice.clock.now(), self._file.incident
        assert incident is not None
        skip = frozenset(rung for rung, until in incident.ineffective.items() if until > now)
        case = dataclasses.replace(self._case, now=now, skip_rungs=skip, attempts=incident.attempts)
        try:
            found = await self._practice.observer.survey(case, observation)
        except ProbeError as error:
            text = f"no plan for {self._case.target}: {error}"
            await self._file.audit(Step.REFUSED, rule="survey", outcome=Outcome.INCONCLUSIVE, text=text)
            await self._file.tell(Step.REFUSED, text, outcome=Outcome.INCONCLUSIVE, final=True)
            await self._file.remember()
            return None
        return self._practice.remedy.plan(case, observation.seen, found)

    # What was decided.

    async def _decided(self, decision: Decision, observation: Observation, plan: Plan | None = None) -> Verdict:
        if isinstance(decision, Go):
            return await self._run(decision, observation, plan)
        if isinstance(decision, NeedsApproval):
            asked = await self._approvals.ask(decision.plan, observation)
            return asked if isinstance(asked, Verdict) else await self._refuse(asked, {})
        fields = {}
        if plan is not None:
            fields["plan"] = plan.summary(self._practice.remedy.name, self._case.target, observation.gap)
        if isinstance(decision, Wait):
            return await self._wait(decision, fields)
        return await self._refuse(decision, fields)

    async def _run(self, go: Go, observation: Observation, plan: Plan | None) -> Verdict:
        def situation(fleet: Fleet) -> Situation:
            return self._situation(observation, go.plan, fleet)

        outcome = await self._execution.run(go, observation, situation, self._use)
        if isinstance(outcome, NeedsApproval):
            outcome = ask(self._situation(observation), outcome.plan)
        return outcome if isinstance(outcome, Verdict) else await self._decided(outcome, observation, plan)

    async def _use(self) -> bool:
        return self._cause.authority is not Authority.APPROVAL or await self._approvals.use()

    def _told_before(self, rule: str) -> bool:
        """Whether it was told since the last attempt; a person who asked is always told."""
        incident = self._file.incident
        return not self._asked and incident is not None and rule in incident.refusals

    def _note_told(self, rule: str) -> None:
        incident = self._file.incident
        if incident is not None and rule not in incident.refusals:
            self._file.note(refusals=(*incident.refusals, rule))

    async def _wait(self, wait: Wait, fields: dict[str, Any]) -> Verdict:
        acts = self._policy.mode.rank >= Mode.APPROVE.rank
        if not self._told_before(wait.rule) and (acts or wait.rule != "cooldown"):
            left = show_duration(wait.until - self._practice.clock.now())
            text = f"{wait.rule}: {self._case.target} is looked at again in {left}"
            text += f"; limit {wait.limit}, seen {wait.seen}"
            await self._file.audit(
                Step.DEFERRED, rule=wait.rule, limit=wait.limit, seen=wait.seen, outcome=Outcome.DEFERRED, text=text,
                **fields,
            )  # fmt: skip
            await self._file.tell(Step.DEFERRED, text, outcome=Outcome.DEFERRED, final=True, **fields)
            self._note_told(wait.rule)
        await self._file.remember()
        return Verdict(look_again=wait.until if acts else None)

    async def _refuse(self, refuse: Refuse, fields: dict[str, Any]) -> Verdict:
        if not self._told_before(refuse.rule):
            text = f"refused by {refuse.rule}: limit {refuse.limit}, seen {refuse.seen}; {refuse.hint}"
            await self._file.refused(refuse.rule, refuse.limit, refuse.seen, text, **fields)
            if not self._asked:
                await self._tell_people(refuse, f"{self._case.target}: {text}")
                self._note_told(refuse.rule)
        await self._file.remember()
        return Verdict(look_again=refuse.until)

    async def _tell_people(self, refuse: Refuse, title: str) -> None:
        """Once per incident and rule; about a storm once among all hosts."""
        if refuse.rule == "storm":
            await group.storm(self._practice, self._file, refuse, title)
        else:
            await self._file.alert(Severity.WARNING, AlertState.REFUSED, title, refuse.hint)
