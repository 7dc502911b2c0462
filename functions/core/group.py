"""What a host tells its group while it works on a target: how it is, and that a storm begins or is over."""

from functions.core.case_file import CaseFile
from functions.core.practice import Practice
from functions.core.rules import is_storm
from functions.core.situation import Refuse
from schemas.alert import AlertState, Severity
from schemas.audit import Step
from schemas.remediation import Outcome


async def report(practice: Practice, file: CaseFile, *, unhealthy: bool) -> None:
    """Say how this host is; the first that sees a storm is over tells people. Raises NotStored."""
    permits, limits = practice.ports.permits, practice.policy.fleet
    await permits.report(unhealthy=unhealthy)
    fleet = permits.view(practice.clock.now())
    if is_storm(limits, fleet.members, len(fleet.unhealthy)):
        return
    if await permits.storm(begins=False):
        title = f"the storm is over: {len(fleet.unhealthy)} of {fleet.members} hosts are unhealthy"
        await file.audit(Step.STORM, rule="storm", outcome=Outcome.DONE, text=title)
        await file.alert(Severity.INFO, AlertState.RESOLVED, title, "What is left is healed, few hosts at a time.")


async def storm(practice: Practice, file: CaseFile, refuse: Refuse, text: str) -> None:
    """Tell people of a storm, once among all hosts: the first one that notes it does. Raises NotStored."""
    permits = practice.ports.permits
    fleet = permits.view(practice.clock.now())
    unhealthy = len(fleet.unhealthy)
    if await permits.storm(begins=True, unhealthy=unhealthy, members=fleet.members):
        await file.audit(Step.STORM, rule=refuse.rule, limit=refuse.limit, seen=refuse.seen, text=text)
        title = f"{unhealthy} of {fleet.members} hosts are unhealthy at once: {practice.remedy.title}"
        await file.alert(Severity.CRITICAL, AlertState.STORM, title, refuse.hint)
