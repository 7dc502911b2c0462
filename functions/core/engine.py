"""The only code that acts, the same for every function, dry or live.

event ─▶ fresh? ─▶ observe ─▶ gap ─▶ closed and no open incident: settled, nothing else is touched
                                └──▶ leases ─▶ treatment: recover, plan, guard, climb, conclude
"""

import asyncio
import logging
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from functions.core.case_file import CaseFile, Cause
from functions.core.observation import Observer
from functions.core.ports import Fenced, LedgerConflict, NotStored, Ports
from functions.core.practice import SETTLED, Practice, Verdict
from functions.core.remedy import AnyRemedy, Case, is_glob, match_target
from functions.core.situation import Authority
from functions.core.steadiness import Steadiness
from functions.core.threads import Threads
from functions.core.treatment import Treatment
from schemas.alert import AlertState, Severity
from schemas.approval import Approval
from schemas.audit import Step
from schemas.clock import Clock
from schemas.envelope import Event, new_id
from schemas.health import Health, Level
from schemas.probes import ProbeError
from schemas.remediation import Outcome
from schemas.settings.base import Settings
from schemas.settings.policy import EffectivePolicy
from schemas.trigger import Asked, Trigger

logger = logging.getLogger(__name__)

BUSY = timedelta(seconds=5)
"""When somebody else works on the target, or the bus can't store: look again after this."""

THREADS = 4
"""Blocking reads and actions of one function at once; a hanging mount holds one of them."""

AUTHORITY = {Asked.DRY_RUN: Authority.DRY_RUN, Asked.LIVE: Authority.LIVE}


class Engine:
    """Runs one remedy on one host. Events come in through `on_…`; `stop` ends it."""

    def __init__(
        self, remedy: AnyRemedy, settings: Settings, policy: EffectivePolicy, host: str, ports: Ports, clock: Clock,
        read_timeout: timedelta = timedelta(seconds=30),
    ) -> None:  # fmt: skip
        self.remedy = remedy
        self.host = host
        self._stopping = False
        observer = Observer(remedy, ports.probes, clock, Threads(THREADS), read_timeout)
        self._practice = Practice(
            remedy, settings, policy, host, observer, ports, clock, Steadiness(clock), stopping=lambda: self._stopping
        )
        self._again: dict[str, tuple[datetime, asyncio.Task[None]]] = {}
        self._running: set[asyncio.Task[Verdict]] = set()
        self._untold: set[str] = set()
        """targets of which it was told that nothing can be stored"""

    @property
    def policy(self) -> EffectivePolicy:
        return self._practice.policy

    def look_again(self) -> None:
        """Look at every incident that is open: what a crash, a stop or a freeze left goes on now."""
        for incident in self._practice.ports.ledger.open_incidents():
            self._look_again(incident.target, self._practice.clock.now())

    def reconfigure(self, settings: Settings, policy: EffectivePolicy) -> bool:
        """From the next event on; what runs ends as it began. Whether anything differs."""
        differs = settings != self._practice.settings or policy != self._practice.policy
        self._practice = replace(self._practice, settings=settings, policy=policy)
        return differs

    async def stop(self) -> None:
        """Begin nothing more; return when the running actions have ended and the leases are handed back."""
        self._stopping = True
        waiting = [task for _, task in self._again.values()]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, *self._running, return_exceptions=True)

    def settles(self, event: Event[Any]) -> bool:
        """Whether nothing is to be done about a fresh event, as far as is known without reading anything.

        So it is while no incident is open, when the target is healthy, by the event's own word or by an observation
        that began after the event was made, or when the collector does not know.
        """
        health: Health = event.data
        practice = self._practice
        if not practice.policy.enabled:
            return True
        if practice.ports.ledger.is_open(health.target):
            return False
        if health.level in {Level.OK, Level.UNKNOWN}:
            return True
        latest = practice.observer.latest(health.target)
        return latest is not None and latest.began >= event.time and latest.gap.closed

    async def on_health(self, event: Event[Any]) -> Verdict:
        """Handle one fresh health event that this function listens to."""
        if self.settles(event):
            return SETTLED
        if event.data.level is Level.UNKNOWN:  # it may be gone, or masked, and nobody will tell of it again
            self._look_again(event.data.target, self._practice.clock.now())
            return SETTLED
        case = self._case(event.data.target, await self._latest(event.data))
        await self._practice.observer.since(event.time, case)
        if self.settles(event):
            return SETTLED
        verdict = await self._treat(case, Cause(event.correlationid))
        if verdict.retry_after is not None and not self._stopping and self._practice.ports.ledger.is_open(case.target):
            # The event is not delivered for ever; the incident that is remembered is looked at until it is over.
            self._look_again(case.target, self._practice.clock.now() + verdict.retry_after)
        return verdict

    async def on_answer(self, answer: Approval, correlation: str, who: str) -> Verdict:
        """A person granted or denied a plan of ours."""
        cause = Cause(correlation, Authority.APPROVAL, who, answer)
        return await self._treat(await self._recall(answer.target), cause)

    async def on_trigger(self, trigger: Trigger, correlation: str, who: str) -> Verdict:
        """Evaluate what the order names. Naming nothing evaluates all targets and selects none for action."""
        practice = self._practice
        asked = trigger.mode if trigger.target is not None else Asked.DRY_RUN
        cause = Cause(correlation, AUTHORITY[asked], who)
        file = practice.case_file(trigger.target or "", cause)
        try:
            targets = await practice.observer.targets(practice.settings)
        except ProbeError as error:
            await file.tell(Step.REFUSED, f"targets can't be listed: {error}", outcome=Outcome.INCONCLUSIVE, final=True)
            return SETTLED
        selected = self._selected(trigger.target, targets)
        try:
            if not selected:
                await file.no_such_target("refused by target: no such target here", "no such target", targets)
                return SETTLED
            text = f"{asked} asked for {', '.join(selected)}"
            await file.audit(Step.RECEIVED, text=trigger.reason or text, data={"targets": list(selected)})
        except NotStored as error:
            logger.error("nothing is done without an audit record: %s", error)
            return Verdict(retry_after=BUSY)
        await file.tell(Step.RECEIVED, text, data={"targets": list(selected)})
        verdicts = [await self._treat(await self._recall(target), cause) for target in selected]
        return next((verdict for verdict in verdicts if verdict.retry_after), SETTLED)

    def _selected(self, wanted: str | None, targets: list[str]) -> list[str]:
        globs = self.remedy.target_globs
        if wanted is None:
            return [target for target in targets if not (globs and is_glob(target))]
        return match_target(wanted, targets, globs=globs)

    def _case(self, target: str, event: Health | None, heard: Health | None = None) -> Case[Any]:
        practice = self._practice
        return Case(self.host, target, practice.settings, practice.clock.now(), event, event or heard)

    async def _latest(self, event: Health) -> Health:
        """An event that comes late may have been overtaken: of an open incident, what was said last counts."""
        if not self._practice.ports.ledger.is_open(event.target):
            return event
        latest = await self._practice.ports.signals.latest(event.target)
        return latest if latest is not None and type(latest) is type(event) else event

    async def _recall(self, target: str) -> Case[Any]:
        """Without an event: what was said last is looked up."""
        return self._case(target, None, await self._practice.ports.signals.latest(target))

    async def _treat(self, case: Case[Any], cause: Cause) -> Verdict:
        """Work on one target under its leases; somebody else's lease or a bus that can't store means later."""
        if self._stopping:
            return Verdict(retry_after=BUSY)
        task = asyncio.create_task(self._under_leases(self._practice, case, cause))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        # Shielded: a cancelled message handler must not cut an action in two.
        verdict = await asyncio.shield(task)
        if verdict.look_again is not None:
            self._look_again(case.target, verdict.look_again)
        return verdict

    async def _under_leases(self, practice: Practice, case: Case[Any], cause: Cause) -> Verdict:
        try:
            held = await practice.ports.leases.acquire(self.remedy.resources(case))
            if held is None:
                return Verdict(retry_after=BUSY)
            try:
                verdict = await Treatment(practice, case, cause, held).run()
            finally:
                await held.release()
            self._untold.discard(case.target)
            return verdict
        except (Fenced, LedgerConflict) as error:
            await self._fenced(practice.case_file(case.target, cause), error)
        except NotStored as error:
            await self._not_stored(practice.case_file(case.target, cause), case.target, error)
        return Verdict(retry_after=BUSY)

    async def _fenced(self, file: CaseFile, error: Exception) -> None:
        """Somebody else holds the target by now; the incident is theirs to write."""
        text = f"refused by fenced: {error}"
        logger.warning("%s: %s", self.remedy.name, text)
        try:
            await file.refused("fenced", "the latest holder of the lease", "a later one", text)
        except NotStored as problem:
            logger.error("%s: %s", self.remedy.name, problem)

    async def _not_stored(self, file: CaseFile, target: str, error: NotStored) -> None:
        """No audit, no action; people are told once, as soon as anything can be told again."""
        text = f"nothing is done on {target}, because it could not be written down: {error}"
        logger.error("%s: %s", self.remedy.name, text)
        if target in self._untold:
            return
        self._untold.add(target)
        next_step = "It is tried again by itself; see that the bus runs and that its audit stream has room."
        await file.alert(Severity.CRITICAL, AlertState.REFUSED, text, next_step)

    def _look_again(self, target: str, at: datetime) -> None:
        """A timer of this process; after a restart `start` takes its place. The earliest of several holds."""
        waiting = self._again.get(target)
        if waiting is not None and not waiting[1].done() and waiting[1] is not asyncio.current_task():
            if waiting[0] <= at:
                return
            waiting[1].cancel()
        self._again[target] = at, asyncio.create_task(self._revisit(target, at))

    async def _revisit(self, target: str, at: datetime) -> None:
        clock = self._practice.clock
        while not self._stopping:
            await clock.sleep(max(timedelta(0), at - clock.now()))
            if not self._practice.policy.enabled:
                return
            try:
                verdict = await self._treat(await self._recall(target), Cause(new_id()))
            except Exception:
                # Nobody awaits a timer: said here, or nowhere. The next event looks again.
                logger.exception("%s: unexpected error while looking at %s again", self.remedy.name, target)
                return
            if verdict.retry_after is None:
                return
            at = clock.now() + verdict.retry_after
