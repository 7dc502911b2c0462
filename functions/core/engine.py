"""The only code that acts, the same for every function, dry or live.

event ─▶ fresh? ─▶ observe ─▶ gap ─▶ closed and no open incident: settled, nothing else is touched
                                └──▶ lease ─▶ treatment: recover, plan, guard, climb, conclude
"""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

from functions.core.case_file import Cause
from functions.core.observation import Observer
from functions.core.ports import Leases, Ledger, LedgerConflict, NotStored, Story, Tools
from functions.core.remedy import AnyRemedy, Case, match_target
from functions.core.treatment import SETTLED, Practice, Treatment, Verdict
from schemas.alert import AlertState, Severity
from schemas.audit import Step
from schemas.clock import Clock
from schemas.envelope import Event, new_id
from schemas.health import Health, Level
from schemas.probes import ProbeError, Probes
from schemas.remediation import Outcome
from schemas.settings.base import Settings
from schemas.settings.policy import EffectivePolicy
from schemas.trigger import Asked, Trigger

logger = logging.getLogger(__name__)

BUSY = timedelta(seconds=5)
"""When somebody else works on the target, or the bus can't store: look again after this."""

THREADS = 4
"""Blocking reads and actions of one function at once; a hanging mount holds one of them."""


class Engine:
    """Runs one remedy on one host. Events come in through `on_health` and `on_trigger`; `stop` ends it."""

    def __init__(
        self, remedy: AnyRemedy, settings: Settings, policy: EffectivePolicy, host: str,
        probes: Probes, tools: Tools, ledger: Ledger, leases: Leases, story: Story, clock: Clock,
        read_timeout: timedelta = timedelta(seconds=30),
    ) -> None:  # fmt: skip
        self.remedy = remedy
        self.policy = policy
        self._settings = settings
        self.host = host
        self._leases = leases
        self._stopping = False
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix=remedy.name)
        observer = Observer(remedy, probes, clock, self._executor, read_timeout)
        self._practice = Practice(
            remedy, policy, host, observer, tools, ledger, story, clock, stopping=lambda: self._stopping
        )
        self._again: dict[str, asyncio.Task[None]] = {}
        self._running: set[asyncio.Task[Verdict]] = set()
        self._untold: set[str] = set()
        """targets of which it was told that nothing can be stored"""

    async def start(self) -> None:
        """Look again at every incident that is open: what a crash or a stop left behind ends now."""
        for incident in self._practice.ledger.open_incidents():
            self._look_again(incident.target, self._practice.clock.now())

    async def stop(self) -> None:
        """Begin nothing more; return when the running actions have ended and the leases are handed back."""
        self._stopping = True
        for task in self._again.values():
            task.cancel()
        await asyncio.gather(*self._again.values(), *self._running, return_exceptions=True)
        self._executor.shutdown(wait=False, cancel_futures=True)

    def settles(self, event: Event[Any]) -> bool:
        """Whether nothing is to be done about a fresh event, as far as is known without reading anything.

        So it is when the truth is unknown, or no incident is open and the target is healthy: by the event's own word,
        or by an observation that began after the event was made.
        """
        health: Health = event.data
        if health.level is Level.UNKNOWN:
            return True
        if self._practice.ledger.is_open(health.target):
            return False
        if health.level is Level.OK:
            return True
        latest = self._practice.observer.latest(health.target)
        return latest is not None and latest.began >= event.time and latest.gap.closed

    async def on_health(self, event: Event[Any]) -> Verdict:
        """Handle one fresh health event that this function listens to."""
        if self.settles(event):
            return SETTLED
        case = self._case(event.data.target, event.data)
        await self._practice.observer.since(event.time, case)
        if self.settles(event):
            return SETTLED
        return await self._treat(case, Cause(event.correlationid))

    async def on_trigger(self, trigger: Trigger, correlation: str, who: str) -> Verdict:
        """Evaluate what the order names. Naming nothing evaluates all targets and selects none for action."""
        asked = trigger.mode if trigger.target is not None else Asked.DRY_RUN
        cause = Cause(correlation, asked, who)
        file = self._practice.case_file(trigger.target or "", cause)
        try:
            targets = await self._practice.observer.targets(self._settings)
        except ProbeError as error:
            await file.tell(Step.REFUSED, f"targets can't be listed: {error}", outcome=Outcome.INCONCLUSIVE, final=True)
            return SETTLED
        selected = targets if trigger.target is None else match_target(trigger.target, targets)
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
        verdicts = [await self._treat(self._case(target, None), cause) for target in selected]
        return next((verdict for verdict in verdicts if verdict.retry_after), SETTLED)

    def _case(self, target: str, event: Health | None) -> Case[Any]:
        return Case(self.host, target, self._settings, self._practice.clock.now(), event)

    async def _treat(self, case: Case[Any], cause: Cause) -> Verdict:
        """Work on one target under its lease; somebody else's lease or a bus that can't store means later."""
        if self._stopping:
            return Verdict(retry_after=BUSY)
        task = asyncio.create_task(self._under_lease(case, cause))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        # Shielded: a cancelled message handler must not cut an action in two.
        verdict = await asyncio.shield(task)
        if verdict.look_again is not None:
            self._look_again(case.target, verdict.look_again)
        return verdict

    async def _under_lease(self, case: Case[Any], cause: Cause) -> Verdict:
        try:
            held = await self._leases.acquire(case.target)
            if held is None:
                return Verdict(retry_after=BUSY)
            try:
                verdict = await Treatment(self._practice, case, cause, held).run()
            finally:
                await held.release()
            self._untold.discard(case.target)
            return verdict
        except LedgerConflict as error:
            logger.warning("%s: nothing more is done on %s for now: %s", self.remedy.name, case.target, error)
        except NotStored as error:
            await self._not_stored(case, cause, error)
        return Verdict(retry_after=BUSY)

    async def _not_stored(self, case: Case[Any], cause: Cause, error: NotStored) -> None:
        """No audit, no action; people are told once, as soon as anything can be told again."""
        text = f"nothing is done on {case.target}, because it could not be written down: {error}"
        logger.error("%s: %s", self.remedy.name, text)
        if case.target in self._untold:
            return
        self._untold.add(case.target)
        file = self._practice.case_file(case.target, cause)
        next_step = "It is tried again by itself; see that the bus runs and that its audit stream has room."
        await file.alert(Severity.CRITICAL, AlertState.REFUSED, text, next_step)

    def _look_again(self, target: str, at: datetime) -> None:
        """A timer of this process; after a restart `start` takes its place."""
        waiting = self._again.get(target)
        if waiting is not None and not waiting.done() and waiting is not asyncio.current_task():
            return
        self._again[target] = asyncio.create_task(self._revisit(target, at))

    async def _revisit(self, target: str, at: datetime) -> None:
        while not self._stopping:
            await self._practice.clock.sleep(max(timedelta(0), at - self._practice.clock.now()))
            verdict = await self._treat(self._case(target, None), Cause(new_id()))
            if verdict.retry_after is None:
                return
            at = self._practice.clock.now() + verdict.retry_after
