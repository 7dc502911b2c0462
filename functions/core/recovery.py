"""Taking back, and going on after a crash or a stop: never a blind second run."""

import logging
from collections.abc import Awaitable, Callable, Sequence

from functions.core.approval import read_action
from functions.core.case_file import CaseFile
from functions.core.observation import Observation
from functions.core.plan import Action, Planned
from functions.core.ports import Fenced
from functions.core.remedy import AnyRemedy
from schemas.audit import Step
from schemas.incident import Begun, Change, Done, Incident, IncidentState
from schemas.remediation import ActionResult, Mode, Outcome, UndoWhen

logger = logging.getLogger(__name__)

MOST_INTERRUPTIONS = 3
"""Crashes in the middle of an action of one incident: then the action may be their cause, and a person must look."""


class TakingBack:
    """Takes back what the incident keeps as done, whichever attempt did it: each action once, the latest first.

    That a person lifted the incident in between changes nothing: what was done is still bound to what fails later.
    """

    def __init__(self, file: CaseFile, remedy: AnyRemedy, apply: Callable[[Action], Awaitable[ActionResult]]) -> None:
        self._file = file
        self._remedy = remedy
        self._apply = apply
        self._of_earlier_walks = len(self._kept())

    def _kept(self) -> tuple[Done, ...]:
        assert self._file.incident is not None
        return self._file.incident.done

    async def after_failure(self, why: str) -> bool:
        """Everything goes back, the failed action first. Raises NotStored, LedgerConflict, Fenced."""
        others = any(done.worked for done in self._kept())
        self._file.all_due()
        await self.due(why)
        return others

    async def of_no_help(self, settings: Sequence[Planned]) -> bool:
        """These of this walk. Raises NotStored, LedgerConflict, Fenced.

        Settings of an earlier walk are left until something fails: whether its rung helped was to be seen then, on
        the gap of then, and the new plan was made with them in effect.
        """
        kept, positions = self._kept(), {planned.position for planned in settings}
        own = kept[self._of_earlier_walks :]
        marked = tuple(done.model_copy(update={"due": True}) if done.position in positions else done for done in own)
        self._file.note(done=(*kept[: self._of_earlier_walks], *marked))
        return await self.due()

    async def due(self, why: str = "") -> bool:
        """What is due, latest first; one that fails stops none of the others. Whether any was taken back.

        What nobody can take back is left to a person, because of *why*. Raises NotStored, LedgerConflict, Fenced.
        """
        due, lost, any_taken_back = [done for done in self._kept() if done.due], "", False
        for done in reversed(due):
            try:
                action = read_action(self._remedy, done.action)
            except (LookupError, ValueError):
                lost = f"an action of a kind this version doesn't know is to be taken back: {done.action.get('action')}"
                continue
            inverse = action.inverse(done.result)
            if inverse is not None:
                any_taken_back |= await self.apply(inverse, done)
            elif done.result is None and not action.repeatable:
                lost = why or f"broke in the middle of: {action.title()}; how far it got is not known"
        if due:
            self._file.note(done=tuple(done for done in self._kept() if not done.due))
            await (self._file.stuck(lost) if lost else self._file.keep())
        return any_taken_back

    async def apply(self, inverse: Action, change: Change) -> bool:
        """Take *change* back, once; whether it worked. The target is left to a person when not."""
        await self._file.undoing(inverse, change)
        try:
            result = await self._apply(inverse)
        except Fenced:
            raise
        except Exception as error:
            logger.exception("unexpected error in %s, which takes something back", inverse.action)
            result = ActionResult(outcome=Outcome.FAILED, detail=f"{type(error).__name__}: {error}")
        return await self._file.undone(inverse, change, result)


async def recover(
    file: CaseFile, remedy: AnyRemedy, incident: Incident, observation: Observation, way_back: TakingBack
) -> None:
    """Settle what another process left: the incident is open again afterwards, or stuck.

    What had begun is taken back where it can be, or re-checked item by item, or handed to a person. A way back on
    which an earlier walk was, after something had failed, is gone to its end, unless the target is healthy by now.
    """
    begun, mode, file.mode = incident.begun, file.mode, Mode.AUTO
    # Stored with whatever comes next: a way back that ends its process each time must not begin for ever.
    interruptions = file.note(interruptions=incident.interruptions + (begun is not None)).interruptions
    text = "stopped between two actions"
    if begun is not None:
        text = await _what_became(file, remedy, begun, observation, way_back)
    if not observation.gap.healthy and await way_back.due():
        text += "; an action had failed, so what was done before it was taken back"
    stuck = file.note().state is IncidentState.STUCK
    if not stuck and interruptions >= MOST_INTERRUPTIONS and not observation.gap.healthy:
        await file.stuck(f"interrupted {interruptions} times in the middle of an action; last: {text}")
    elif not stuck:
        await file.audit(Step.RECOVERED, text=text, outcome=Outcome.INCONCLUSIVE, plan_hash=incident.last_plan)
        # An attempt that was cut off is none: it neither counts nor starts a cooldown.
        attempts = max(0, incident.attempts - 1)
        await file.remember(begun=None, state=IncidentState.OPEN, attempts=attempts, attempted_at=None)
    file.mode = mode


async def _what_became(
    file: CaseFile, remedy: AnyRemedy, begun: Begun, observation: Observation, way_back: TakingBack
) -> str:
    """A sentence about the interrupted action; empty when the incident is stuck because of it."""
    try:
        action = read_action(remedy, begun.action)
    except (LookupError, ValueError):
        await file.stuck(f"an action of a kind this version doesn't know had begun: {begun.action.get('action')}")
        return ""
    if observation.gap.healthy:
        return f"interrupted in: {action.title()}; the target is healthy"
    if begun.undo and (not action.repeatable or file.note().interruptions > MOST_INTERRUPTIONS):
        await file.stuck(f"interrupted while taking back, in: {action.title()}; how far it got is not known")
        return ""
    if begun.undo:
        return f"taken back once more: {action.title()}" if await way_back.apply(action, begun) else ""
    # One that is bound to what comes later can't be left to a new plan: that may find it done, and would forget it.
    planned_anew = action.repeatable and action.undo_when is UndoWhen.NEVER
    inverse = None if planned_anew else action.inverse(None)
    if inverse is not None:
        return f"interrupted in: {action.title()}; taken back" if await way_back.apply(inverse, begun) else ""
    if action.repeatable:
        return f"interrupted in: {action.title()}; every item is checked again under a new plan"
    await file.stuck(f"interrupted in: {action.title()}; how far it got is not known")
    return ""
