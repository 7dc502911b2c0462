"""One run over one target, under its lease: remember, plan, ask the guard, climb, conclude."""

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from functions.core.actuator import Actuator, Foretold, Live
from functions.core.case_file import CaseFile, Cause
from functions.core.conclusion import report
from functions.core.guard import Go, Refuse, Wait, decide, precheck
from functions.core.ladder import Ladder
from functions.core.observation import Observation, Observer
from functions.core.plan import Action, Plan, Planned
from functions.core.ports import Held, Ledger, Story, Tools
from functions.core.recovery import recover
from functions.core.remedy import AnyRemedy, Case
from schemas.alert import AlertState, Severity
from schemas.audit import Step
from schemas.clock import Clock
from schemas.health import Level
from schemas.incident import Incident, IncidentState
from schemas.probes import ProbeError
from schemas.remediation import ActionResult, Gap, Mode, Outcome
from schemas.settings.policy import EffectivePolicy
from schemas.trigger import Asked
from schemas.units import show_duration

logger = logging.getLogger(__name__)

FENCED = "fenced: the lease on the target was lost"
STOPPED = "the function is being stopped; what is left goes on at its next start"
MOST_STRANGERS = 100
"""Refused names that are told; more of them are a flood, and the audit stream must not fill up with it."""


@dataclass(frozen=True)
class Verdict:
    """What to do with the message: acknowledge (no `retry_after`), or deliver again later; and when to look again."""

    retry_after: timedelta | None = None
    look_again: datetime | None = None


SETTLED = Verdict()


@dataclass(frozen=True)
class Practice:
    """What every treatment of one function shares."""

    remedy: AnyRemedy
    policy: EffectivePolicy
    host: str
    observer: Observer
    tools: Tools
    ledger: Ledger
    story: Story
    clock: Clock
    stopping: Callable[[], bool]
    strangers: set[str] = field(default_factory=set)
    """targets of events that were refused because the configuration knows none of the name"""

    def case_file(self, target: str, cause: Cause) -> CaseFile:
        """Empty: what is remembered about the target is read by `CaseFile.open`."""
        return CaseFile(
            self.ledger, self.story, self.clock, self.host, self.remedy.name, target, cause, self.policy.mode
        )


class Treatment:
    """Holds the case file while the lease is held."""

    def __init__(self, practice: Practice, case: Case[Any], cause: Cause, held: Held) -> None:
        self._practice = practice
        self._policy = practice.policy
        self._case = case
        self._cause = cause
        self._held = held
        self._file = practice.case_file(case.target, cause)

    async def run(self) -> Verdict:
        """The whole path. Raises NotStored, LedgerConflict: then nothing more was done."""
        practice, file = self._practice, self._file
        await file.open()
        # Under the lease: what was seen before somebody else worked on the target doesn't count.
        observation = await practice.observer.since(max(self._case.now, file.quiet_since), self._case)
        if file.incident is not None and file.incident.state is IncidentState.ACTING:
            await recover(file, practice.remedy, file.incident, observation, self._apply_inverse)
            observation = await practice.observer.anew(self._case)
        if not observation.gap.known:
            return await self._unknown(observation.gap)
        if observation.gap.closed or self._healthy_again():
            return await self._closed(observation)
        return await self._open(observation)

    def _healthy_again(self) -> bool:
        """The collector says ok, with its hysteresis: the alarm is over although the target lies lower still."""
        event = self._case.event
        return self._cause.asked is None and event is not None and event.level is Level.OK

    async def _unknown(self, gap: Gap) -> Verdict:
        text = f"{self._case.target}: the truth is unknown, so nothing is done: {gap.reason}"
        logger.warning(text)
        if self._cause.asked is not None:
            await self._file.tell(Step.VERIFIED, text, outcome=Outcome.INCONCLUSIVE, gap=gap, final=True)
        return SETTLED

    async def _closed(self, observation: Observation) -> Verdict:
        text, fields = f"{self._case.target} is healthy", {"outcome": Outcome.DONE, "gap": observation.gap}
        if self._file.incident is not None:
            await self._file.audit(Step.HEALED, text=text, **fields)
            await self._file.close()
            await self._file.tell(Step.HEALED, text, final=True, **fields)
            await self._file.alert(Severity.INFO, AlertState.RESOLVED, text, "The incident is closed.")
        elif self._cause.asked is not None:
            await self._file.tell(Step.VERIFIED, f"{text}; nothing to do", final=True, **fields)
        return SETTLED

    async def _open(self, observation: Observation) -> Verdict:
        if self._file.incident is None and self._cause.asked is None and not await self._permitted():
            return SETTLED
        incident = self._file.incident or await self._begin(observation)
        if incident.state is IncidentState.STUCK and self._cause.asked is None:
            return SETTLED
        early = precheck(self._policy, incident, self._cause.asked, self._practice.clock.now())
        if early is not None:
            return await self._not_now(early)
        plan = await self._plan(observation, incident)
        if plan is None:
            return SETTLED
        decision = decide(plan, self._policy, incident, self._cause.asked, self._practice.clock.now())
        if not isinstance(decision, Go):
            return await self._not_now(decision, plan, observation)
        return await self._carry_out(plan, self._actuator(decision.mode), observation)

    async def _permitted(self) -> bool:
        """The configuration permits, an event only points: a target that is none here is refused, told once."""
        target, strangers = self._case.target, self._practice.strangers
        try:
            targets = await self._practice.observer.targets(self._case.settings)
        except ProbeError as error:
            logger.warning("%s: its targets can't be listed, so nothing is done: %s", self._practice.remedy.name, error)
            return False
        if target in targets:
            return True
        if target not in strangers and len(strangers) < MOST_STRANGERS:
            strangers.add(target)
            await self._file.no_such_target(f"an event points to what is no target here: {target}", target, targets)
        return False

    async def _begin(self, observation: Observation) -> Incident:
        """Open an incident and alert, before anything else."""
        incident = self._file.begin(observation.gap, remembered=self._cause.asked is not Asked.DRY_RUN)
        if self._cause.asked is Asked.DRY_RUN:
            return incident
        event = self._case.event
        reason = event.reason if event is not None and event.reason else f"{self._case.target} is not healthy"
        await self._file.audit(Step.OPENED, gap=observation.gap, text=reason)
        grave = event is None or event.level.rank >= Level.CRITICAL.rank
        acts = self._policy.mode is Mode.AUTO
        alerted_at = await self._file.alert(
            Severity.CRITICAL if grave else Severity.WARNING,
            AlertState.OPENED,
            reason,
            "A plan follows, then its actions." if acts else "A plan follows; the policy lets nothing be changed.",
        )
        return await self._file.remember(alerted_at=alerted_at)

    async def _plan(self, observation: Observation, incident: Incident) -> Plan | None:
        now = self._practice.clock.now()
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

    async def _not_now(
        self, decision: Refuse | Wait, plan: Plan | None = None, observation: Observation | None = None
    ) -> Verdict:
        incident = self._file.incident
        assert incident is not None
        told_before = self._cause.asked is None and incident.refusal == decision.rule
        fields: dict[str, Any] = {}
        if plan is not None and observation is not None:
            fields["plan"] = plan.summary(self._practice.remedy.name, self._case.target, observation.gap)
        if isinstance(decision, Wait):
            quiet = decision.rule == "cooldown" and self._policy.mode is not Mode.AUTO
            if not told_before and not quiet:
                await self._deferred(decision, fields)
            return Verdict(look_again=decision.until if self._policy.mode is Mode.AUTO else None)
        if not told_before:
            await self._refused(decision, fields)
        return SETTLED

    async def _deferred(self, wait: Wait, fields: dict[str, Any]) -> None:
        left = show_duration(wait.until - self._practice.clock.now())
        text = f"{wait.rule}: {self._case.target} is looked at again in {left}"
        await self._file.audit(Step.DEFERRED, rule=wait.rule, outcome=Outcome.DEFERRED, text=text, **fields)
        await self._file.tell(Step.DEFERRED, text, outcome=Outcome.DEFERRED, **fields)
        await self._file.remember(refusal=wait.rule)

    async def _refused(self, refuse: Refuse, fields: dict[str, Any]) -> None:
        text = f"refused by {refuse.rule}: limit {refuse.limit}, seen {refuse.seen}; {refuse.hint}"
        await self._file.audit(
            Step.REFUSED, rule=refuse.rule, limit=refuse.limit, seen=refuse.seen, outcome=Outcome.REFUSED, text=text,
            **fields,
        )  # fmt: skip
        await self._file.tell(Step.REFUSED, text, outcome=Outcome.REFUSED, final=True, **fields)
        if self._cause.asked is None:
            title = f"{self._case.target}: {text}"
            await self._file.alert(Severity.WARNING, AlertState.REFUSED, title, refuse.hint)
            await self._file.remember(refusal=refuse.rule)

    # Carrying out.

    def _actuator(self, mode: Mode) -> Actuator:
        return self._live() if mode is Mode.AUTO else Foretold()

    def _live(self) -> Live:
        observer = self._practice.observer
        return Live(
            self._practice.tools, observer.executor, self._file, lambda: observer.look(self._case),
            self._settle_and_observe, settles=bool(self._policy.settle),
        )  # fmt: skip

    async def _settle_and_observe(self) -> Observation:
        if self._policy.settle:
            await self._practice.clock.sleep(self._policy.settle)
        return await self._practice.observer.anew(self._case)

    async def _carry_out(self, plan: Plan, actuator: Actuator, before: Observation) -> Verdict:
        file, began = self._file, self._practice.clock.now()
        assert file.incident is not None
        file.mode = actuator.mode
        summary = plan.summary(self._practice.remedy.name, self._case.target, before.gap)
        text = f"{len(plan.rungs)} rungs with {plan.size} actions for {self._case.target}"
        await file.audit(Step.PLANNED, plan=summary, plan_hash=plan.hash, gap=before.gap, text=text)
        await file.tell(Step.PLANNED, text, plan=summary, plan_hash=plan.hash, gap=before.gap)
        file.note(**actuator.beginning(file.incident, began), last_plan=plan.hash, gap=before.gap, refusal="")
        ladder = Ladder(plan, actuator, before, self._undo, self._policy.max_actions)
        await ladder.climb(self._stop_reason, self._policy.ineffective_share)
        return await self._conclude(plan, actuator, before, ladder, began)

    def _stop_reason(self) -> str:
        if self._held.lost:
            return FENCED
        incident = self._file.incident
        if self._file.mode is Mode.AUTO and incident is not None and incident.state is IncidentState.STUCK:
            return "what could not be taken back is left to a person"
        return STOPPED if self._practice.stopping() else ""

    async def _undo(self, planned: Planned, result: ActionResult | None) -> bool:
        """Take one action back, once. True when there was something to take back and it worked."""
        inverse = planned.action.inverse(result)
        return inverse is not None and await self._apply_inverse(inverse, planned.rung.name)

    async def _apply_inverse(self, inverse: Action, rung: str) -> bool:
        await self._file.undoing(inverse, rung)
        result = await self._live().apply(inverse)
        text = await self._file.undone(inverse, rung, result)
        if result.outcome in {Outcome.DONE, Outcome.SKIPPED}:
            return True
        await self._file.stuck(f"could not take back: {text}")
        return False

    async def _conclude(
        self, plan: Plan, actuator: Actuator, before: Observation, ladder: Ladder, began: datetime
    ) -> Verdict:
        file, now = self._file, self._practice.clock.now()
        assert file.incident is not None
        step, outcome = actuator.conclude(ladder.observation.gap)
        if ladder.rolled_back and step is Step.UNHEALED:
            outcome = Outcome.ROLLED_BACK
        told = report(file.incident, actuator.mode, step, outcome, plan, before, ladder, began, now)
        text = f"{self._case.target}: {step}; {told.next}"
        fields: dict[str, Any] = {"outcome": outcome, "gap": told.gap_after, "plan_hash": plan.hash}
        if ladder.broken is not None:
            await file.audit(Step.FAILED, text=ladder.halted, outcome=Outcome.FAILED, plan_hash=plan.hash)
        await file.audit(step, text=text, report=told, **fields)
        await self._write_end(step, ladder, now)
        if step is Step.HEALED:
            title = f"{self._case.target} is healthy again"
            await file.alert(Severity.INFO, AlertState.RESOLVED, title, "The incident is closed.", told)
        elif step is Step.UNHEALED and ladder.halted not in {FENCED, STOPPED}:
            title = f"{self._case.target} is still not healthy"
            await file.alert(Severity.CRITICAL, AlertState.UNHEALED, title, told.next, told)
        await file.tell(step, text, report=told, final=True, **fields)
        if ladder.halted in {FENCED, STOPPED}:
            return Verdict(retry_after=timedelta(seconds=1))
        retry = step is Step.UNHEALED and self._policy.mode is Mode.AUTO
        return Verdict(look_again=now + self._policy.cooldown if retry else None)

    async def _write_end(self, step: Step, ladder: Ladder, now: datetime) -> None:
        """The end of a walk, as the incident keeps it."""
        incident, gap = self._file.incident, ladder.observation.gap
        assert incident is not None
        ineffective = {rung.name: now + self._policy.ineffective_for for rung in ladder.ineffective}
        if step is Step.HEALED:
            await self._file.close()
        elif incident.state is IncidentState.STUCK:
            return
        elif step is Step.WOULD:
            await self._file.remember()
        elif ladder.broken is not None and incident.begun is not None and not ladder.taken_back:
            await self._file.stuck(ladder.halted)
        elif ladder.halted in {FENCED, STOPPED}:
            await self._file.remember(gap=gap)  # still acting: the next holder of the lease goes on at once
        elif incident.attempts >= self._policy.max_attempts:
            await self._file.remember(ineffective=incident.ineffective | ineffective, gap=gap)
            await self._file.stuck(f"{incident.attempts} attempts did not close the gap")
        else:
            await self._file.remember(
                state=IncidentState.OPEN, begun=None, ineffective=incident.ineffective | ineffective, gap=gap
            )
