"""Going on after a crash or a stop: never a blind second run."""

from collections.abc import Awaitable, Callable

from functions.core.approval import read_action
from functions.core.case_file import CaseFile
from functions.core.observation import Observation
from functions.core.plan import Action
from functions.core.remedy import AnyRemedy
from schemas.audit import Step
from schemas.incident import Begun, Incident, IncidentState
from schemas.remediation import Mode, Outcome

MOST_INTERRUPTIONS = 3
"""Crashes in the middle of an action of one incident: then the action may be their cause, and a person must look."""

TakeBack = Callable[[Action, str, int], Awaitable[bool]]
"""Apply an inverse that belongs to a rung and a position; whether it worked."""


async def recover(
    file: CaseFile, remedy: AnyRemedy, incident: Incident, observation: Observation, take_back: TakeBack
) -> None:
    """Settle what another process left: the incident is open again afterwards, or stuck.

    What had begun is taken back where it can be, or re-checked item by item, or handed to a person.
    """
    begun, mode, file.mode = incident.begun, file.mode, Mode.AUTO
    interruptions = incident.interruptions + (begun is not None)
    text = "stopped between two actions"
    if begun is not None:
        text = await _what_became(file, remedy, begun, observation, take_back)
    if text and interruptions >= MOST_INTERRUPTIONS and not observation.gap.closed:
        await file.stuck(f"interrupted {interruptions} times in the middle of an action; last: {text}")
    elif text:
        await file.audit(Step.RECOVERED, text=text, outcome=Outcome.INCONCLUSIVE, plan_hash=incident.last_plan)
        # An attempt that was cut off is none: it neither counts nor starts a cooldown.
        await file.remember(
            begun=None, state=IncidentState.OPEN, attempts=max(0, incident.attempts - 1), attempted_at=None,
            interruptions=interruptions,
        )  # fmt: skip
    file.mode = mode


async def _what_became(
    file: CaseFile, remedy: AnyRemedy, begun: Begun, observation: Observation, take_back: TakeBack
) -> str:
    """A sentence about the interrupted action; empty when the incident is stuck because of it."""
    try:
        action = read_action(remedy, begun.action)
    except (LookupError, ValueError):
        await file.stuck(f"an action of a kind this version doesn't know had begun: {begun.action.get('action')}")
        return ""
    if observation.gap.closed:
        return f"interrupted in: {action.title()}; the target is healthy"
    if begun.undo and not action.repeatable:
        await file.stuck(f"interrupted while taking back, in: {action.title()}; how far it got is not known")
        return ""
    if begun.undo:
        return f"taken back once more: {action.title()}" if await take_back(action, begun.rung, begun.position) else ""
    if action.repeatable:
        return f"interrupted in: {action.title()}; every item is checked again under a new plan"
    inverse = action.inverse(None)
    if inverse is None:
        await file.stuck(f"interrupted in: {action.title()}; how far it got is not known")
        return ""
    return (
        f"interrupted in: {action.title()}; taken back" if await take_back(inverse, begun.rung, begun.position) else ""
    )
