"""The pure decision between a plan and its first action. Every refusal names the rule, its limit, and what was seen."""

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from functions.core.plan import Plan, Rung
from functions.core.rules import ABOUT_PLAN, AMONG_HOSTS, BEFORE_PLAN, Objection, Rule
from functions.core.situation import Authority, Decision, Go, NeedsApproval, Refuse, Situation, Wait
from schemas.remediation import Mode
from schemas.settings.policy import EffectivePolicy


def before_plan(situation: Situation) -> Objection | None:
    """What can be said before the costly survey; None lets it go on. Pure."""
    return _first(_applying(BEFORE_PLAN, situation), situation) or _told_lately(situation)


def among_hosts(situation: Situation) -> Objection | None:
    """What the other hosts and the budgets say; asked again when a place among them is taken. Pure."""
    return _first(AMONG_HOSTS, situation)


def decide(situation: Situation) -> Decision:
    """The whole decision about a plan. Pure.

    What was begun goes on to its end: advice binds only as long as nothing was changed in this incident.
    """
    plan = situation.plan
    assert plan is not None
    early = before_plan(situation)
    if early is not None:
        return early
    advised = plan.advice and not situation.incident.acted and not situation.authority.person
    if not _acts(situation) or advised:
        return _foretell(situation, plan)
    portion = _portion(situation, plan)
    subject = replace(situation, plan=portion.run or portion.ask or plan)
    objection = _first(ABOUT_PLAN, subject)
    if objection is not None:
        return objection
    if portion.run is not None:
        return among_hosts(subject) or Go(Mode.AUTO, portion.run, withheld=portion.ask)
    if portion.ask is not None:
        return _asked_already(situation) or NeedsApproval(portion.ask)
    return _window_wait(situation) if portion.closed else _foretell(situation, plan)


def _acts(situation: Situation) -> bool:
    return situation.wanted.rank >= Mode.APPROVE.rank


def _applying(rules: Iterable[Rule], situation: Situation) -> list[Rule]:
    return [rule for rule in rules if rule.always or _acts(situation)]


def _first(rules: Iterable[Rule], situation: Situation) -> Objection | None:
    return next((objection for rule in rules if (objection := rule(situation))), None)


class Portion(NamedTuple):
    """What of a plan may run by itself now, and what a person must grant, by the risk of its rungs."""

    run: Plan | None
    ask: Plan | None
    closed: bool
    """something may run, but only in a maintenance window"""


def _portion(situation: Situation, plan: Plan) -> Portion:
    policy, run, ask, closed = situation.policy, [], [], False
    granted = Mode.APPROVE if situation.authority is Authority.APPROVAL else Mode.AUTO
    for rung in plan.rungs:
        mode = policy.mode_for(rung.risk) if rung.risk is not None else Mode.OBSERVE
        if mode.rank >= granted.rank:
            if not policy.maintenance_windows or not _needs_window(policy, rung) or _open(policy, situation):
                run.append(rung)
            else:
                closed = True
        elif mode is Mode.APPROVE:
            ask.append(rung)
    return Portion(plan.only(run) if run else None, plan.only(ask) if ask else None, closed)


def _needs_window(policy: EffectivePolicy, rung: Rung) -> bool:
    return rung.risk is not None and rung.risk.rank >= policy.window_from.rank


def _open(policy: EffectivePolicy, situation: Situation) -> bool:
    return any(window.open_at(situation.now) for window in policy.maintenance_windows)


def _window_wait(situation: Situation) -> Objection:
    windows, now = situation.policy.maintenance_windows, situation.now
    begins = [begin for window in windows if (begin := window.next_after(now)) is not None]
    names = ", ".join(window.name or f"{window.cron} {window.zone}" for window in windows)
    seen = f"{now:%Y-%m-%d %H:%M} UTC"
    if not begins:
        return Refuse("maintenance_windows", names, seen, "none of the windows ever opens; mend their cron lines")
    return Wait("maintenance_windows", names, seen, min(begins))


def _asked_already(situation: Situation) -> Wait | None:
    pending = situation.incident.pending
    if pending is None or situation.now >= pending.expires_at:
        return None
    return Wait("approval", f"granted before {pending.expires_at:%Y-%m-%d %H:%M}", "no answer yet", pending.expires_at)


def _foretell(situation: Situation, plan: Plan) -> Decision:
    """A dry run, with all that would stand in the way of a live one."""
    late = _told_lately(situation)
    if late is not None:
        return late
    rules = (*BEFORE_PLAN, *ABOUT_PLAN, *AMONG_HOSTS)
    against = tuple(objection for rule in rules if not rule.always and (objection := rule(situation)))
    return Go(Mode.DRY_RUN, plan, reservations=against)


def _told_lately(situation: Situation) -> Wait | None:
    """A dry run that nobody asked for is told once in a cooldown."""
    told = situation.incident.foretold_at
    if told is None or situation.authority.person or (_acts(situation) and situation.plan is None):
        return None
    until = told + situation.policy.cooldown
    return Wait("cooldown", "one dry run in a cooldown", "told already", until) if situation.now < until else None
