"""The guard's rules: each judges a situation, and says nothing when it has nothing against it. All pure.

Sources of the defaults are named in docs/guard.md.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from functions.core.plan import Action
from functions.core.situation import Authority, Refuse, Situation, Wait
from schemas.incident import Incident, Sample
from schemas.remediation import Gap, Mode, Risk
from schemas.settings.policy import EffectivePolicy, FleetLimits
from schemas.units import show_duration

Objection = Refuse | Wait
Judge = Callable[[Situation], Objection | None]

DAY = timedelta(days=1)
LOOK_AGAIN = timedelta(minutes=1)
"""After what no timer of ours can foretell: a storm, a frozen bus key, a spent budget."""

TURN = timedelta(seconds=5)
"""Between two looks for a free place among the hosts that act."""

JITTER = 0.2
"""Share of a cooldown by which targets are spread, so that they don't come back all at once."""


@dataclass(frozen=True)
class Rule:
    """One rule under the name that stands in its refusals."""

    name: str
    judge: Judge
    always: bool = False
    """also for what changes nothing"""
    skipped_by: frozenset[Authority] = frozenset()
    """a person who says so takes it on himself"""

    def __call__(self, situation: Situation) -> Objection | None:
        return None if situation.authority in self.skipped_by else self.judge(situation)


# Before a plan is made.


def enabled(situation: Situation) -> Objection | None:
    if situation.policy.enabled:
        return None
    return Refuse("enabled", "false", "an order", "the function is switched off by the policy")


def mode(situation: Situation) -> Objection | None:
    policy, function = situation.policy, situation.incident.function
    if policy.mode is Mode.OBSERVE:
        return Refuse("mode", Mode.OBSERVE, "a gap", "observe makes no plan; dry_run shows what would be done")
    if situation.authority in {Authority.LIVE, Authority.APPROVAL} and policy.mode.rank < Mode.APPROVE.rank:
        hint = f'a trigger can\'t grant live; set policy.mode and policy.functions."{function}".mode to auto'
        return Refuse("mode", policy.mode, situation.authority, hint)
    return None


def protected_targets(situation: Situation) -> Objection | None:
    target = situation.incident.target
    names = (target, target.partition(":")[2])  # as in a trigger, /var stands for bytes:/var and inodes:/var
    for pattern in situation.policy.protected_targets:
        if any(fnmatchcase(name, pattern) for name in names):
            return Refuse("protected_targets", pattern, target, "the target is protected by the policy")
    return None


def freeze(situation: Situation) -> Objection | None:
    if situation.freeze is None:
        return None
    found = situation.freeze
    seen = f"{found.where} since {found.since:%Y-%m-%d %H:%M}: {found.reason or 'no reason given'}"
    return Refuse("freeze", "nothing is changed", seen, "ansai freeze off lifts it; then it is looked at again")


def clock(situation: Situation) -> Objection | None:
    jump, tolerance = situation.clock_jump, situation.policy.clock_tolerance
    if abs(jump) <= tolerance:
        return None
    return Refuse(
        "clock", show_duration(tolerance), show_duration(jump),
        "the clock jumped: check time synchronisation; it goes on when it is back, or was steady for a cooldown",
        situation.now + LOOK_AGAIN,
    )  # fmt: skip


def max_attempts(situation: Situation) -> Objection | None:
    incident, limit = situation.incident, situation.policy.max_attempts
    if incident.attempts < limit:
        return None
    order = f"ansai trigger {incident.function} --target {incident.target} --live"
    return Refuse("max_attempts", str(limit), str(incident.attempts), f"a person must look; {order} lifts it")


def cooldown(situation: Situation) -> Objection | None:
    incident, policy = situation.incident, situation.policy
    if incident.attempted_at is None:
        return None
    length = backed_off(policy, incident)
    until = incident.attempted_at + length
    return _not_before(situation.now, until, "cooldown", show_duration(length))


def backed_off(policy: EffectivePolicy, incident: Incident) -> timedelta:
    """The cooldown after this incident's latest attempt: twice as long with each, spread a little, never shorter."""
    digits = hashlib.sha256(f"{incident.id}{incident.attempts}".encode()).digest()
    spread = 1 + JITTER * digits[0] / 255 if incident.attempts > 1 else 1.0
    doublings = min(max(0, incident.attempts - 1), 30)
    # In seconds: a timedelta can't hold every doubled length.
    doubled = policy.cooldown.total_seconds() * 2**doublings * spread
    return max(policy.cooldown, timedelta(seconds=min(doubled, policy.max_cooldown.total_seconds())))


def flapping(situation: Situation) -> Objection | None:
    limits = situation.policy.flapping
    recent = changes_within(situation.incident, situation.now - limits.within)
    if not flaps(situation.policy, situation.incident, situation.now):
        return None
    over = recent[len(recent) - limits.end - 1] + limits.within if len(recent) > limits.end else None
    return Refuse(
        "flapping", f"{limits.begin} changes within {show_duration(limits.within)}", str(len(recent)),
        "it goes to and fro, so acting on it would be chance; find what drives it", over,
    )  # fmt: skip


def flaps(policy: EffectivePolicy, incident: Incident, now: datetime) -> bool:
    """Whether the target flaps: from `begin` changes on, and until there are no more than `end`."""
    count = len(changes_within(incident, now - policy.flapping.within))
    return count >= policy.flapping.begin or (incident.flapping and count > policy.flapping.end)


def changes_within(incident: Incident, since: datetime) -> list[datetime]:
    return sorted(moment for moment in incident.changes if moment > since)


def symptom_only(situation: Situation) -> Objection | None:
    fixes = sorted(moment for moment in situation.incident.fixes if moment > situation.now - DAY)
    limit = situation.policy.max_fixes
    if len(fixes) < limit:
        return None
    return Refuse(
        "symptom_only", f"{limit} heals in 24 h", str(len(fixes)),
        "the same cure is needed again and again: find the cause; what grows, and why?", fixes[-limit] + DAY,
    )  # fmt: skip


def confirmation(situation: Situation) -> Objection | None:
    wanted = situation.policy.confirmation
    samples = situation.incident.samples[-wanted.of :]
    found = sum(sample.unhealthy for sample in samples)
    if found >= wanted.needed:
        return None
    last = max((sample.at for sample in samples if sample.source == PROBE), default=situation.now)
    until = max(last + wanted.every, situation.now)
    return Wait("confirmation", f"{wanted.needed} of {wanted.of} looks", f"{found} of {len(samples)}", until)


PROBE = "probe"
"""Source of the function's own looks."""


def storm(situation: Situation) -> Objection | None:
    fleet = situation.fleet
    if not is_storm(situation.policy.fleet, fleet.members, len(fleet.unhealthy)):
        return None
    share = f"{situation.policy.fleet.storm_share:.0%} of the group"
    return Refuse(
        "storm", share, f"{len(fleet.unhealthy)} of {fleet.members} hosts",
        "so many at once have a cause in common: find it; nothing is done host by host", situation.now + LOOK_AGAIN,
    )  # fmt: skip


def is_storm(limits: FleetLimits, members: int, unhealthy: int) -> bool:
    """More than the share of the group, and no fewer than `storm_least`: one of one, or both of two, is no storm."""
    return unhealthy >= limits.storm_least and unhealthy > _share(limits.storm_share, members)


def gather(situation: Situation) -> Objection | None:
    """Others that fail for the same cause need a moment to say so."""
    fleet, wait = situation.fleet, situation.policy.fleet.gather
    if fleet.members == 1:
        return None
    since = fleet.unhealthy_since or situation.now
    return _not_before(situation.now, since + wait, "gather", show_duration(wait))


def approval(situation: Situation) -> Objection | None:
    """One question at a time."""
    return unanswered(situation) if situation.policy.mode is Mode.APPROVE else None


def unanswered(situation: Situation) -> Wait | None:
    """A person was asked, and there is time left to answer."""
    pending = situation.incident.pending
    if pending is None or situation.now >= pending.expires_at:
        return None
    return Wait("approval", f"granted before {pending.expires_at:%Y-%m-%d %H:%M}", "no answer yet", pending.expires_at)


# About a plan.


def empty_plan(situation: Situation) -> Objection | None:
    if situation.plan is not None and not situation.plan.empty:
        return None
    return Refuse("empty_plan", "at least one action", "none", "nothing that may be done was found")


def plan_expiry(situation: Situation) -> Objection | None:
    limit = situation.policy.plan_expiry
    if situation.planned_at is None or situation.now - situation.planned_at <= limit:
        return None
    age = show_duration(situation.now - situation.planned_at)
    return Wait("plan_expiry", show_duration(limit), age, situation.now)


def max_items(situation: Situation) -> Objection | None:
    limit, needed = situation.policy.max_items, sum(len(action.items()) for action in _needed(situation))
    if needed <= limit:
        return None
    return Refuse("max_items", f"{limit:,}", f"{needed:,}", TOO_MUCH)


def max_amounts(situation: Situation) -> Objection | None:
    needed = _needed(situation)
    for unit, limit in situation.policy.max_amounts.items():
        amount = _at_most(needed, unit, situation.gap)
        if amount > limit:
            return Refuse("max_amounts", f"{limit:,} {unit}", f"{amount:,.0f} {unit}", TOO_MUCH)
    return None


def _at_most(needed: list[Action], unit: str, gap: Gap) -> float:
    """What they change at most. Live measures after each, so it can't pass the gap by more than its last action."""
    amounts = [sum(each.amount for each in action.expected if each.unit == unit) for action in needed]
    if unit != gap.unit:
        return sum(amounts)
    return min(sum(amounts), (gap.amount or 0.0) + max(amounts, default=0.0))


TOO_MUCH = "more than one attempt may change, so nothing is changed: look at it with ansai plan, then raise the limit"


def _needed(situation: Situation) -> list[Action]:
    """The actions that live would do if the estimates hold."""
    plan = situation.plan
    if plan is None:
        return []
    needed = plan.needed(situation.gap)
    return [action for position, _, action in plan.steps() if position in needed]


def second_source(situation: Situation) -> Objection | None:
    """What restarts or destroys needs two independent looks: two sources, or the same one some time apart."""
    risk, every = situation.risk, situation.policy.confirmation.every
    if not situation.policy.second_source or risk is None or risk.rank < Risk.AVAILABILITY.rank:
        return None
    unhealthy = [sample for sample in situation.incident.samples if sample.unhealthy]
    sources = {sample.source for sample in unhealthy}
    if len(sources) > 1 or _apart(unhealthy, every):
        return None
    last = max((sample.at for sample in unhealthy), default=situation.now)
    seen = ", ".join(sorted(sources)) or "none"
    return Wait("second_source", "two independent looks", seen, max(last + every, situation.now))


def _apart(samples: list[Sample], every: timedelta) -> bool:
    moments = [sample.at for sample in samples]
    return len(moments) > 1 and max(moments) - min(moments) >= every


def maintenance_windows(situation: Situation) -> Objection | None:
    """What is grave enough waits for one of the windows, where there are any."""
    policy, risk, now = situation.policy, situation.risk, situation.now
    windows = policy.maintenance_windows
    if not windows or risk is None or risk.rank < policy.window_from.rank or any(each.open_at(now) for each in windows):
        return None
    begins = [begin for window in windows if (begin := window.next_after(now)) is not None]
    if _due_before(begins, situation):
        return None
    names = ", ".join(window.name or f"{window.cron} {window.zone}" for window in windows)
    seen = f"{now:%Y-%m-%d %H:%M} UTC"
    if not begins:
        return Refuse("maintenance_windows", names, seen, "none of the windows ever opens; mend their cron lines")
    return Wait("maintenance_windows", names, seen, min(begins))


def _due_before(begins: list[datetime], situation: Situation) -> bool:
    """Whether what the plan is to prevent comes before the next window does."""
    rungs = situation.plan.rungs if situation.plan is not None else ()
    return any(rung.due is not None and all(rung.due < begin for begin in begins) for rung in rungs)


def alert_first(situation: Situation) -> Objection | None:
    if situation.incident.alerted_at is not None:
        return None
    return Refuse("alert_first", "a stored alert", "none", "no alert could be stored, so nothing is done")


def grace(situation: Situation) -> Objection | None:
    alerted, plan = situation.incident.alerted_at, situation.plan
    if alerted is None or plan is None:
        return None
    return _not_before(situation.now, alerted + plan.grace, "grace", show_duration(plan.grace))


# Among hosts: judged again, on what is stored this moment, when an attempt is begun.


def fleet_share(situation: Situation) -> Objection | None:
    fleet, host = situation.fleet, situation.incident.host
    limit = places(situation.policy.fleet, fleet.members)
    if host in fleet.acting or len(fleet.acting) < limit:
        return None
    seen = f"{len(fleet.acting)} act now"
    return Wait("fleet_share", f"{limit} of {fleet.members} hosts at once", seen, _next_turn(situation))


def _next_turn(situation: Situation) -> datetime:
    digits = hashlib.sha256(situation.incident.host.encode()).digest()
    return situation.now + TURN * (1 + digits[0] / 255)


def places(limits: FleetLimits, members: int) -> int:
    """How many hosts of a group may act at once: the share, rounded down, and at least one."""
    return max(1, math.floor(_share(limits.share, members)))


def _share(share: float, hosts: int) -> float:
    """Without the last digits of a binary fraction: 0.29 of 100 hosts are 29."""
    return round(share * hosts, 6)


def healthy_peers(situation: Situation) -> Objection | None:
    """Before something restarts, enough others must be there to carry on."""
    fleet, host, risk = situation.fleet, situation.incident.host, situation.risk
    if risk is None or risk.rank < Risk.AVAILABILITY.rank:
        return None
    others = fleet.members - 1
    healthy = others - len({*fleet.unhealthy} - {host})
    free = others - len({*fleet.unhealthy, *fleet.acting} - {host})
    least = math.ceil(_share(situation.policy.fleet.healthy_peers, others))
    if free >= least:
        return None
    limit = f"{least} of {others} others"
    if healthy >= least:
        return Wait("healthy_peers", limit, f"{healthy}, of which {healthy - free} act now", _next_turn(situation))
    hint = "too few others would be left while it restarts"
    return Refuse("healthy_peers", limit, f"{free}", hint, situation.now + LOOK_AGAIN)


def budget(situation: Situation) -> Objection | None:
    limits, fleet = situation.policy.budget, situation.fleet
    spent = (
        ("an hour by this function", fleet.spent_function, limits.per_function),
        ("an hour by all functions of this host", fleet.spent_host, limits.per_host),
    )
    for what, count, limit in spent:
        if count >= limit:
            return _spent("budget", f"{limit} attempts in {what}", count, situation)
    return None


def irreversible_budget(situation: Situation) -> Objection | None:
    limit, count = situation.policy.budget.irreversible, situation.fleet.spent_irreversible
    if situation.risk is not Risk.IRREVERSIBLE or count < limit:
        return None
    return _spent("irreversible_budget", f"{limit} attempts in 24 h with irreversible parts", count, situation)


def _spent(rule: str, limit: str, count: int, situation: Situation) -> Refuse:
    hint = "so many attempts are more than a person can follow; it goes on when older ones have passed"
    return Refuse(rule, limit, str(count), hint, situation.now + 10 * LOOK_AGAIN)


def _not_before(now: datetime, until: datetime, rule: str, limit: str) -> Wait | None:
    return Wait(rule, limit, f"{show_duration(until - now)} left", until) if now < until else None


_LIVE = frozenset({Authority.LIVE})
_ANSWERED = frozenset({Authority.LIVE, Authority.APPROVAL})

BEFORE_PLAN = (
    Rule("enabled", enabled, always=True),
    Rule("mode", mode, always=True),
    Rule("protected_targets", protected_targets, always=True),
    Rule("freeze", freeze),
    Rule("clock", clock),
    Rule("max_attempts", max_attempts, skipped_by=_ANSWERED),
    Rule("approval", approval, skipped_by=_ANSWERED),
    Rule("cooldown", cooldown, skipped_by=_ANSWERED),
    Rule("flapping", flapping, skipped_by=_ANSWERED),
    Rule("symptom_only", symptom_only, skipped_by=_ANSWERED),
    Rule("storm", storm, skipped_by=_LIVE),
    Rule("confirmation", confirmation, skipped_by=_ANSWERED),
    Rule("gather", gather, skipped_by=_LIVE),
)
ABOUT_PLAN = (
    Rule("empty_plan", empty_plan),
    Rule("plan_expiry", plan_expiry, skipped_by=frozenset({Authority.APPROVAL})),
    Rule("max_items", max_items),
    Rule("max_amounts", max_amounts),
    Rule("alert_first", alert_first, skipped_by=_LIVE),
    Rule("grace", grace, skipped_by=_ANSWERED),
)
SECOND_SOURCE = Rule("second_source", second_source, skipped_by=_ANSWERED)
HEALTHY_PEERS = Rule("healthy_peers", healthy_peers)
IRREVERSIBLE_BUDGET = Rule("irreversible_budget", irreversible_budget)
MAINTENANCE_WINDOWS = Rule("maintenance_windows", maintenance_windows)

ABOUT_RISK = (SECOND_SOURCE, HEALTHY_PEERS, IRREVERSIBLE_BUDGET, MAINTENANCE_WINDOWS)
"""judged rung by rung: what they hold back doesn't hold back the gentler rungs"""
AMONG_HOSTS = (Rule("fleet_share", fleet_share), Rule("budget", budget), HEALTHY_PEERS, IRREVERSIBLE_BUDGET)
