"""The pure decision between a plan and its first action. Every refusal names the rule, its limit, and what was seen."""

from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase

from functions.core.plan import Plan
from schemas.incident import Incident
from schemas.remediation import Mode
from schemas.settings.policy import EffectivePolicy
from schemas.trigger import Asked


@dataclass(frozen=True)
class Go:
    """Act: live, or as a dry run, whichever the mode in force is."""

    mode: Mode


@dataclass(frozen=True)
class Refuse:
    """Not allowed; a person is told once per incident and rule."""

    rule: str
    limit: str
    seen: str
    hint: str = ""


@dataclass(frozen=True)
class Wait:
    """Allowed, but not yet: look again at `until`."""

    rule: str
    until: datetime


Decision = Go | Refuse | Wait


def precheck(policy: EffectivePolicy, incident: Incident, asked: Asked | None, now: datetime) -> Refuse | Wait | None:
    """What can be said before the costly survey; None lets it go on. Pure."""
    person = asked is not None
    if asked is Asked.LIVE and policy.mode is not Mode.AUTO:
        return Refuse(
            "mode", policy.mode, "live",
            f"a trigger can't grant live; set policy.mode and policy.functions.\"{incident.function}\".mode to auto",
        )  # fmt: skip
    if policy.mode is Mode.OBSERVE:
        return Refuse("mode", Mode.OBSERVE, "a gap", "observe makes no plan; dry_run shows what would be done")
    for pattern in policy.protected_targets:
        if fnmatchcase(incident.target, pattern):
            return Refuse("protected_targets", pattern, incident.target, "the target is protected by the policy")
    if person:
        return None
    if incident.attempts >= policy.max_attempts:
        return Refuse(
            "max_attempts", str(policy.max_attempts), str(incident.attempts),
            f"a person must look; ansai trigger {incident.function} --target {incident.target} --live lifts it",
        )  # fmt: skip
    last = incident.attempted_at if policy.mode is Mode.AUTO else incident.foretold_at
    if last is not None and now < last + policy.cooldown:
        return Wait("cooldown", last + policy.cooldown)
    return None


def decide(plan: Plan, policy: EffectivePolicy, incident: Incident, asked: Asked | None, now: datetime) -> Decision:
    """Go, refuse or wait, for a whole plan. Pure; assumes that `precheck` let it pass.

    What was begun goes on to its end: advice binds only as long as nothing was changed in this incident.
    """
    mode = Mode.DRY_RUN if asked is Asked.DRY_RUN else policy.mode
    if mode is not Mode.AUTO:
        return _foretell(policy, incident, asked, now)
    if plan.empty:
        return Refuse("empty_plan", "at least one action", "none", "nothing that may be cleaned was found")
    if asked is None and plan.advice and not incident.acted:
        return _foretell(policy, incident, asked, now)
    if asked is None and incident.alerted_at is None:
        return Refuse("alert_first", "a stored alert", "none", "no alert could be stored, so nothing is done")
    if asked is None and incident.alerted_at is not None and now < incident.alerted_at + plan.grace:
        return Wait("grace", incident.alerted_at + plan.grace)
    return Go(mode)


def _foretell(policy: EffectivePolicy, incident: Incident, asked: Asked | None, now: datetime) -> Decision:
    if asked is None and incident.foretold_at is not None and now < incident.foretold_at + policy.cooldown:
        return Wait("cooldown", incident.foretold_at + policy.cooldown)
    return Go(Mode.DRY_RUN)
