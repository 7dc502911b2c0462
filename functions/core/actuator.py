"""The two ways to carry out a plan: live, or foretold. The engine walks the ladder the same with either."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import Any, Protocol

from functions.core.observation import Observation
from functions.core.plan import Action, Planned
from functions.core.ports import Fence, Fenced, Occupied, Token, ToolError, Tools
from functions.core.threads import Threads
from schemas.audit import Step
from schemas.incident import Incident, IncidentState
from schemas.remediation import ActionResult, Gap, Mode, Outcome


class Journal(Protocol):
    """Where a change is written down, before and after; raises NotStored, and then nothing is done."""

    async def acting(self, planned: Planned) -> None: ...
    async def acted(self, planned: Planned, result: ActionResult) -> None: ...


class Actuator(Protocol):
    mode: Mode

    def beginning(self, incident: Incident, now: datetime) -> dict[str, Any]:
        """What the incident keeps of the fact that a plan is now carried out."""
        ...

    async def carry_out(self, planned: Planned) -> ActionResult:
        """Expected trouble is a result with the outcome failed; anything else is raised."""
        ...

    async def measure(self, before: Observation, done: Planned, *, anew: bool) -> Observation:
        """How the target is after one action. *anew*: something was taken back since."""
        ...

    def conclude(self, gap: Gap) -> tuple[Step, Outcome]:
        """What to say of the whole, given the last gap."""
        ...


class WayBack(Protocol):
    """Takes back what was done, in this walk and in earlier ones of the incident."""

    async def after_failure(self, why: str) -> bool:
        """Take back the action that just failed, or broke because of *why*, and whatever is bound to it.

        Whether there was anything besides the failed one.
        """
        ...

    async def of_no_help(self, settings: Sequence[Planned]) -> bool:
        """Take back these actions of this walk. Whether any was."""
        ...


class Live:
    """Applies, writes down, and measures by observing again, in the same thread unless it must settle first."""

    mode = Mode.AUTO

    def __init__(
        self, tools: Tools, fence: Fence, tokens: Mapping[str, Token], threads: Threads, journal: Journal,
        look: Callable[[], Observation], observe: Callable[[], Awaitable[Observation]], *, settles: bool,
    ) -> None:  # fmt: skip
        """*look* observes at once, in the calling thread; *observe* when the target has settled."""
        self._tools = tools
        self._fence = fence
        self._tokens = tokens
        self._threads = threads
        self._journal = journal
        self._look = look
        self._observe = observe
        self._settles = settles
        self._seen: Observation | None = None

    def beginning(self, incident: Incident, now: datetime) -> dict[str, Any]:
        attempts = incident.attempts + 1
        return {"state": IncidentState.ACTING, "attempts": attempts, "attempted_at": now, "refusals": ()}

    async def carry_out(self, planned: Planned) -> ActionResult:
        await self._journal.acting(planned)
        result = await self.apply(planned.action)
        await self._journal.acted(planned, result)
        return result

    async def apply(self, action: Action) -> ActionResult:
        """Apply without writing down: the caller has. Raises Fenced when a later holder has acted."""
        passed = ExitStack()
        try:
            await self._pass(passed)
            work = self._threads.run(lambda: self._apply_and_look(action))
        except BaseException:
            passed.close()
            raise
        # Shielded: the fence stays closed behind us until the change has ended, whoever waits for it.
        work.add_done_callback(lambda _: passed.close())
        result, self._seen = await asyncio.shield(work)
        return result

    async def _pass(self, passed: ExitStack) -> None:
        """Here in the loop, unless somebody stands in the way: in a thread its few short calls would cost far more."""
        try:
            try:
                passed.enter_context(self._fence.passing(self._tokens, wait=False))
            except Occupied:
                await self._threads.run(lambda: passed.enter_context(self._fence.passing(self._tokens)))
        except ToolError as error:
            raise Fenced(str(error)) from error

    def _apply_and_look(self, action: Action) -> tuple[ActionResult, Observation | None]:
        try:
            result = action.apply(self._tools)
        except ToolError as error:
            result = ActionResult(outcome=Outcome.FAILED, detail=str(error))
        return result, None if self._settles else self._look()

    async def measure(self, before: Observation, done: Planned, *, anew: bool) -> Observation:
        if anew or self._seen is None:
            return await self._observe()
        return self._seen

    def conclude(self, gap: Gap) -> tuple[Step, Outcome]:
        if gap.closed:
            return Step.HEALED, Outcome.DONE
        if gap.verifying:
            return Step.VERIFIED, Outcome.IN_PROGRESS
        return Step.UNHEALED, Outcome.INEFFECTIVE if gap.known else Outcome.INCONCLUSIVE


class Foretold:
    """Records what would be done; only exact estimates count, so it never promises more than live does."""

    mode = Mode.DRY_RUN

    def beginning(self, incident: Incident, now: datetime) -> dict[str, Any]:
        return {"foretold_at": now}

    async def carry_out(self, planned: Planned) -> ActionResult:
        freed: dict[str, float] = {}
        for estimate in planned.action.expected:
            freed[estimate.unit] = freed.get(estimate.unit, 0) + estimate.amount
        return ActionResult(outcome=Outcome.WOULD, done=len(planned.action.items()), freed=freed)

    async def measure(self, before: Observation, done: Planned, *, anew: bool) -> Observation:
        gap = before.gap
        left = None if gap.amount is None else gap.amount - done.action.exact(gap.unit)
        return Observation(before.began, before.seen, Gap(amount=left, unit=gap.unit, reason="foretold"))

    def conclude(self, gap: Gap) -> tuple[Step, Outcome]:
        return Step.WOULD, Outcome.WOULD


class Untouched:
    """The way back from what was only foretold: nothing was done, and what earlier walks did is not its to touch."""

    async def after_failure(self, why: str) -> bool:
        return False

    async def of_no_help(self, settings: Sequence[Planned]) -> bool:
        return False
