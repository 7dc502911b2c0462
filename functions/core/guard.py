"""The pure decision between a plan and its first action. Every refusal names the rule, its limit, and what was seen."""

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from functions.core.plan import Plan, Rung
from functions.core.rules import (
    ABOUT_PLAN,
    ABOUT_RISK,
    AMONG_HOSTS,
    BEFORE_PLAN,
    MAINTENANCE_WINDOWS,
    SECOND_SOURCE,
    Objection,
    Rule,
    unanswered,
)
from functions.core.situation import Authority, Decision, Go, NeedsApproval, Refuse, Situation, Wait
from schemas.remediation import Mode


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
    early = _first(_applying(BEFORE_PLAN, situation), situation)
    if early is not None:
        return early
    advised = plan.advice and not situation.incident.acted and not situation.authority.person
    if not _acts(situation) or advised:
        return _foretell(situation, plan)
    # The whole plan is judged, whatever of it may run: else a lowered cap could let more happen.
    objection = _first(ABOUT_PLAN, situation)
    if objection is not None:
        return objection
    portion = _portion(situation, plan)
    if situation.authority is Authority.APPROVAL and portion.run is not plan:
        return portion.held or _lowered(situation)
    if portion.run is not None:
        return among_hosts(replace(situation, plan=portion.run)) or Go(Mode.AUTO, portion.run, withheld=portion.ask)
    if portion.ask is not None:
        return ask(situation, portion.ask)
    return portion.held or _foretell(situation, plan)


def ask(situation: Situation, plan: Plan) -> NeedsApproval | Wait:
    """A person is asked about *plan*, one question at a time. Pure."""
    return unanswered(situation) or NeedsApproval(plan)


def _acts(situation: Situation) -> bool:
    return situation.wanted.rank >= Mode.APPROVE.rank


def _applying(rules: Iterable[Rule], situation: Situation) -> list[Rule]:
    acts = _acts(situation)
    return [rule for rule in rules if acts or rule.always]


def _first(rules: Iterable[Rule], situation: Situation) -> Objection | None:
    for rule in rules:
        objection = rule(situation)
        if objection is not None:
            return objection
    return None


class Portion(NamedTuple):
    """What of a plan may run by itself now, and what a person must grant, judged rung by rung."""

    run: Plan | None
    ask: Plan | None
    held: Objection | None
    """against a rung that the caps would let pass"""


def _portion(situation: Situation, plan: Plan) -> Portion:
    run: list[Rung] = []
    ask: list[Rung] = []
    held: list[Objection] = []
    granted = Mode.APPROVE if situation.authority is Authority.APPROVAL else Mode.AUTO
    for rung in plan.rungs:
        mode = situation.policy.mode_for(rung.risk) if rung.risk is not None else Mode.OBSERVE
        if mode.rank < Mode.APPROVE.rank:
            continue
        alone = replace(situation, plan=plan.only((rung,)))
        runs = mode.rank >= granted.rank
        objection = _first(ABOUT_RISK, alone) if runs else SECOND_SOURCE(alone)
        if objection is not None:
            held.append(objection)
        else:
            (run if runs else ask).append(rung)
    return Portion(plan.only(run) if run else None, plan.only(ask) if ask else None, held[0] if held else None)


def _lowered(situation: Situation) -> Refuse:
    """Exactly what was granted is carried out, or nothing of it."""
    hint = "the policy was lowered after it was asked for"
    return _capped(situation, Mode.APPROVE) or Refuse("risk_modes", Mode.APPROVE, situation.policy.mode, hint)


def _capped(situation: Situation, wanted: Mode) -> Refuse | None:
    """The first rung whose risk the policy caps below *wanted*."""
    for rung in situation.plan.rungs if situation.plan is not None else ():
        cap = situation.policy.risk_modes.get(rung.risk, Mode.AUTO) if rung.risk is not None else Mode.AUTO
        if cap.rank < wanted.rank:
            hint = "a person must grant it" if cap is Mode.APPROVE else "the policy lets nothing so grave be done"
            return Refuse("risk_modes", f"{rung.risk}: {cap}", f"{rung.name} is {rung.risk}", hint)
    return None


def _foretell(situation: Situation, plan: Plan) -> Decision:
    """A dry run, with all that would stand in the way of a live one."""
    late = _told_lately(situation)
    if late is not None:
        return late
    rules = (*BEFORE_PLAN, *ABOUT_PLAN, SECOND_SOURCE, *AMONG_HOSTS)
    against = [objection for rule in rules if not rule.always and (objection := rule(situation))]
    against += filter(None, (_capped(situation, Mode.AUTO), MAINTENANCE_WINDOWS(situation)))
    return Go(Mode.DRY_RUN, plan, reservations=tuple(against))


def _told_lately(situation: Situation) -> Wait | None:
    """A dry run that nobody asked for is told once in a cooldown."""
    told = situation.incident.foretold_at
    if told is None or situation.authority.person or (_acts(situation) and situation.plan is None):
        return None
    until = told + situation.policy.cooldown
    return Wait("cooldown", "one dry run in a cooldown", "told already", until) if situation.now < until else None
