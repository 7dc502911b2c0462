"""Carrying out a plan that the guard let pass: take a place among the hosts, climb, conclude."""

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

from functions.core import group
from functions.core.actuator import Actuator, Foretold, Live, Untouched, WayBack
from functions.core.case_file import NOTHING_DONE, CaseFile
from functions.core.conclusion import report
from functions.core.guard import among_hosts
from functions.core.ladder import Ladder
from functions.core.observation import Observation
from functions.core.plan import Plan, Planned
from functions.core.ports import Fenced, Held, NotStored, ToolError
from functions.core.practice import SETTLED, Practice, Verdict
from functions.core.recovery import TakingBack
from functions.core.remedy import Case
from functions.core.rules import Objection, backed_off
from functions.core.situation import Go, NeedsApproval, Situation
from schemas.alert import AlertState, Severity
from schemas.audit import Step
from schemas.fleet import Fleet
from schemas.incident import IncidentState
from schemas.remediation import Mode, Outcome, Risk

logger = logging.getLogger(__name__)

STOPPED = "the function is being stopped; what is left goes on at its next start"
FROZEN = "frozen in the middle: what is left goes on when the freeze is lifted"
INTERRUPTED = {STOPPED, FROZEN}
LEFT_TO_A_PERSON = "what could not be taken back is left to a person"
FULL = "there is no room to remember more of what may have to be taken back, so no more is done"


class Execution:
    """Of one treatment."""

    def __init__(self, practice: Practice, case: Case[Any], file: CaseFile, held: Held) -> None:
        self._practice = practice
        self._policy = practice.policy
        self._case = case
        self._file = file
        self._held = held

    async def run(
        self, go: Go, before: Observation, situation: Callable[[Fleet], Situation], use: Callable[[], Awaitable[bool]]
    ) -> Verdict | Objection | NeedsApproval:
        """Carry out what was let pass. An objection of the other hosts comes back, and then nothing was done.

        So does what a person would have to grant, when all else was done and the gap is still open. *use* is asked
        last: False when what the plan rests on was used up by somebody else, and then nothing is done either.
        """
        if go.mode is not Mode.AUTO:
            return await self._carry_out(go, Foretold(), Untouched(), before)
        permits, mode = self._practice.ports.permits, self._file.mode

        def judge(fleet: Fleet) -> Objection | None:
            return among_hosts(situation(fleet))

        objection: Objection | None = await permits.take(judge, irreversible=go.plan.risk is Risk.IRREVERSIBLE)
        if objection is not None:
            return objection
        try:
            return await self._carry_out(go, self._live(), self.way_back(), before) if await use() else SETTLED
        finally:
            self._file.mode = mode
            await permits.give_back()

    async def take_over(self) -> None:
        """Note our tokens at the fence: a holder before us that only slept can change nothing any more.

        Raises Fenced, NotStored.
        """
        fence, threads = self._practice.ports.fence, self._practice.observer.threads
        try:
            await threads.run(lambda: fence.admit(self._held.tokens))
        except ToolError as error:
            raise NotStored(str(error)) from error

    async def close(self) -> None:
        """The incident is over; the group hears it first, when it was the last one here."""
        others = (each for each in self._practice.ports.ledger.open_incidents() if each.target != self._case.target)
        await group.report(self._practice, self._file, unhealthy=any(others))
        await self._file.close()

    def way_back(self) -> TakingBack:
        """From what this incident did so far."""
        return TakingBack(self._file, self._practice.remedy, self._live().apply)

    def _live(self) -> Live:
        observer, ports = self._practice.observer, self._practice.ports
        return Live(
            ports.tools, ports.fence, self._held.tokens, observer.threads, self._file,
            lambda: observer.look(self._case), self._settle_and_observe, settles=bool(self._policy.settle),
        )  # fmt: skip

    async def _settle_and_observe(self) -> Observation:
        if self._policy.settle:
            await self._practice.clock.sleep(self._policy.settle)
        return await self._practice.observer.anew(self._case)

    async def _carry_out(
        self, go: Go, actuator: Actuator, way_back: WayBack, before: Observation
    ) -> Verdict | NeedsApproval:
        file, plan, began = self._file, go.plan, self._practice.clock.now()
        assert file.incident is not None
        file.mode = actuator.mode
        summary = plan.summary(self._practice.remedy.name, self._case.target, before.gap)
        text = f"{len(plan.rungs)} rungs with {plan.size} actions for {self._case.target}"
        against = [f"{each.rule}: limit {each.limit}, seen {each.seen}" for each in go.reservations]
        data: dict[str, Any] = {"live_would_not_act": against} if against else {}
        await file.audit(Step.PLANNED, plan=summary, plan_hash=plan.hash, gap=before.gap, text=text, data=data)
        await file.tell(Step.PLANNED, text, plan=summary, plan_hash=plan.hash, gap=before.gap, data=data)
        file.note(**actuator.beginning(file.incident, began), last_plan=plan.hash, gap=before.gap)
        ladder = Ladder(plan, actuator, before, way_back, self._policy.max_actions)
        await ladder.climb(self._stop_reason, self._policy.ineffective_share)
        return await self._conclude(go, actuator, before, ladder, began)

    def _stop_reason(self, planned: Planned) -> str:
        """Asked before each action. Raises Fenced: then nothing more is ours to write or to do."""
        if self._file.mode is not Mode.AUTO:
            return STOPPED if self._practice.stopping() else ""
        if self._held.lost:
            raise Fenced(f"the lease on {self._case.target} was lost before the next action")
        if self._practice.ports.brake.frozen() is not None:
            return FROZEN
        incident = self._file.incident
        if incident is not None and incident.state is IncidentState.STUCK:
            return LEFT_TO_A_PERSON
        if self._practice.stopping():
            return STOPPED
        return "" if self._file.holds(planned.action) else FULL

    async def _conclude(
        self, go: Go, actuator: Actuator, before: Observation, ladder: Ladder, began: datetime
    ) -> Verdict | NeedsApproval:
        file, now, plan = self._file, self._practice.clock.now(), go.plan
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
        if step is Step.HEALED:
            # Before the end is remembered: who dies in between leaves an incident that is closed once more.
            title = f"{self._case.target} is healthy again"
            await file.alert(Severity.INFO, AlertState.RESOLVED, title, "The incident is closed.", told)
        await self._write_end(step, ladder, now, asks=go.withheld is not None)
        if step is Step.UNHEALED and ladder.halted not in INTERRUPTED:
            title = f"{self._case.target} is still not healthy"
            await file.alert(Severity.CRITICAL, AlertState.UNHEALED, title, told.next, told)
        await file.tell(step, text, report=told, final=True, **fields)
        return self._next(step, ladder, go.withheld)

    def _next(self, step: Step, ladder: Ladder, withheld: Plan | None) -> Verdict | NeedsApproval:
        incident = self._file.incident
        assert incident is not None
        if ladder.halted == STOPPED:
            return Verdict(retry_after=timedelta(seconds=1))
        if step is Step.VERIFIED:
            return Verdict(look_again=self._practice.clock.now() + self._policy.cooldown)
        if step is not Step.UNHEALED or ladder.halted == FROZEN:
            return SETTLED
        if withheld is not None and incident.state is IncidentState.OPEN and not ladder.halted:
            return NeedsApproval(withheld)
        attempted = incident.attempted_at or self._practice.clock.now()
        return Verdict(look_again=attempted + backed_off(self._policy, incident))

    async def _write_end(self, step: Step, ladder: Ladder, now: datetime, *, asks: bool) -> None:
        """The end of a walk, as the incident keeps it."""
        incident, gap = self._file.incident, ladder.observation.gap
        assert incident is not None
        ineffective = {rung.name: now + self._policy.ineffective_for for rung in ladder.ineffective}
        if step is Step.HEALED:
            await self.close()
        elif incident.state is IncidentState.STUCK:
            return
        elif step is Step.WOULD:
            await self._file.remember()
        elif ladder.halted == STOPPED:
            await self._file.remember(gap=gap)  # still acting: the next holder of the lease goes on at once
        elif ladder.halted == FROZEN:
            attempts = max(0, incident.attempts - 1)  # one that was cut off is none
            await self._file.remember(
                state=IncidentState.OPEN, begun=None, gap=gap, attempts=attempts, attempted_at=None
            )
        elif step is Step.VERIFIED:
            await self._file.remember(
                state=IncidentState.OPEN, begun=None, gap=gap, ineffective=incident.ineffective | ineffective,
                watched=_helped(ladder),
            )  # fmt: skip
        elif incident.attempts >= self._policy.max_attempts and not asks:
            await self._file.remember(ineffective=incident.ineffective | ineffective, gap=gap)
            await self._file.stuck(f"{incident.attempts} attempts did not close the gap")
        else:
            await self._file.remember(
                state=IncidentState.OPEN, begun=None, ineffective=incident.ineffective | ineffective, gap=gap
            )


def _helped(ladder: Ladder) -> str:
    """The rung after which it was healthy for now: the last one that did anything; empty when none did."""
    nothing = NOTHING_DONE | {Outcome.FAILED}
    return next((done.rung.name for done, result in reversed(ladder.done) if result.outcome not in nothing), "")
