"""The walk up a plan's ladder: action by action, until the measured gap is closed."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from functions.core.actuator import Actuator, WayBack
from functions.core.observation import Observation
from functions.core.plan import LISTED, Plan, Planned, Rung
from functions.core.ports import Fenced, LedgerConflict, NotStored
from schemas.remediation import ActionResult, ItemResult, Outcome, RungReport, UndoWhen

logger = logging.getLogger(__name__)

Stop = Callable[[Planned], str]
"""Names a reason to stop before an action; empty when there is none."""


@dataclass
class Row:
    """What became of one rung, as it is being written."""

    rung: Rung
    unit: str
    gap_before: float
    began: float = field(default_factory=time.monotonic)
    done: list[tuple[Planned, ActionResult]] = field(default_factory=list)

    @property
    def tried(self) -> bool:
        """Something was really done; what was only put off or skipped tells nothing about the rung."""
        return any(result.outcome in {Outcome.DONE, Outcome.PARTIAL} for _, result in self.done)

    def freed(self) -> float:
        return sum(result.freed.get(self.unit, 0) for _, result in self.done)

    def report(self, outcome: Outcome, gap_after: float | None) -> RungReport:
        units = {estimate.unit for action in self.rung.actions for estimate in action.expected}
        freed: dict[str, float] = {}
        not_done: list[ItemResult] = []
        for planned, result in self.done:
            for unit, amount in result.freed.items():
                freed[unit] = freed.get(unit, 0) + amount
            not_done += result.not_done
            if result.detail and result.outcome in {Outcome.FAILED, Outcome.DEFERRED}:
                not_done.append(ItemResult(name=planned.action.title(), outcome=result.outcome, reason=result.detail))
        return RungReport(
            rung=self.rung.name, title=self.rung.title,
            candidates=sum(len(action.items()) for action in self.rung.actions),
            planned={unit: self.rung.potential(unit) for unit in sorted(units)},
            exact=all(estimate.exact for action in self.rung.actions for estimate in action.expected),
            done=sum(result.done for _, result in self.done), freed=freed,
            measured={} if gap_after is None else {self.unit: self.gap_before - gap_after},
            not_done=tuple(not_done[:LISTED]), outcome=outcome, seconds=time.monotonic() - self.began,
        )  # fmt: skip


class Ladder:
    """One walk. After `climb`, the attributes say how it went."""

    def __init__(
        self, plan: Plan, actuator: Actuator, observation: Observation, way_back: WayBack, max_actions: int
    ) -> None:
        self._plan = plan
        self._actuator = actuator
        self._way_back = way_back
        self._left = max_actions
        self.observation = observation
        self.rows: list[RungReport] = []
        self.done: list[tuple[Planned, ActionResult]] = []
        self.ineffective: list[Rung] = []
        self.halted = ""
        """why the walk ended before the ladder did, other than by a closed gap"""
        self.broken: BaseException | None = None
        """an error nobody expected"""
        self.rolled_back = False

    async def climb(self, stop: Stop, ineffective_below: float) -> None:
        """Walk until closed, halted or at the end."""
        steps = list(self._plan.steps())
        for rung in self._plan.rungs:
            row = Row(rung, self.observation.gap.unit, self.observation.gap.amount or 0.0)
            for planned in steps:
                if planned.rung is rung and self._go_on(planned, stop):
                    await self._step(planned, row)
            await self._end_of(row, ineffective_below)

    def _go_on(self, planned: Planned, stop: Stop) -> bool:
        if self.observation.gap.healthy or self.halted:
            return False
        self.halted = stop(planned)
        if not self.halted and self._left <= 0:
            self.halted = "max_actions of the policy is reached; the rest waits for the next attempt"
        return not self.halted

    async def _step(self, planned: Planned, row: Row) -> None:
        self._left -= 1
        try:
            result = await self._actuator.carry_out(planned)
        except (NotStored, LedgerConflict, Fenced):
            raise  # nothing was done, or it is written down as begun: the next holder of the lease recovers
        except Exception as error:
            logger.exception("unexpected error in action %s", planned.action.action)
            self.broken = error
            self.halted = f"unexpected error in {planned.action.action}: {type(error).__name__}: {error}"
            await self._take_back(planned)
            self.observation = await self._actuator.measure(self.observation, planned, anew=True)
            return
        self.done.append((planned, result))
        row.done.append((planned, result))
        failed = result.outcome is Outcome.FAILED
        if failed:
            await self._take_back(planned)
        self.observation = await self._actuator.measure(self.observation, planned, anew=failed)
        if not self.observation.gap.known and not self.halted:
            self.halted = f"the truth is unknown after {planned.action.action}: {self.observation.gap.reason}"

    async def _take_back(self, planned: Planned) -> None:
        """A failed action is taken back, and those before it that say so: then no more is done."""
        if await self._way_back.after_failure(self.halted):
            self.rolled_back = True
            self.halted = self.halted or f"{planned.action.action} failed, so what was done before was taken back"

    async def _end_of(self, row: Row, ineffective_below: float) -> None:
        gap, outcome = self.observation.gap, self._outcome(row)
        if row.tried and gap.open and not self.halted and row.freed() < ineffective_below * max(row.gap_before, 0):
            outcome = Outcome.INEFFECTIVE if outcome is Outcome.DONE else outcome
            self.ineffective.append(row.rung)
            if gap.amount is not None and gap.amount >= row.gap_before:
                await self._take_back_settings(row)
        self.rows.append(row.report(outcome, self.observation.gap.amount))

    async def _take_back_settings(self, row: Row) -> None:
        settings = [planned for planned, _ in row.done if planned.action.undo_when is UndoWhen.GAP_NOT_SMALLER]
        if settings and await self._way_back.of_no_help(settings):
            self.rolled_back = True
            self.observation = await self._actuator.measure(self.observation, row.done[-1][0], anew=True)

    def _outcome(self, row: Row) -> Outcome:
        outcomes = {result.outcome for _, result in row.done}
        if not row.done:
            return Outcome.SKIPPED
        if len(outcomes) == 1:
            return outcomes.pop()
        return Outcome.PARTIAL
