"""All that the guard looks at, as data, and the answers it may give."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from functions.core.plan import Plan
from schemas.fleet import Fleet
from schemas.freeze import Freeze
from schemas.incident import Incident
from schemas.remediation import Gap, Mode, Risk
from schemas.settings.policy import EffectivePolicy


class Authority(StrEnum):
    """On whose word something is to be done."""

    EVENT = "event"
    """a health event, or a timer that looks again"""
    DRY_RUN = "dry_run"
    """a person who wants to see"""
    LIVE = "live"
    """a person who wants it done now; the policy still decides"""
    APPROVAL = "approval"
    """a person who granted exactly this plan"""

    @property
    def person(self) -> bool:
        return self is not Authority.EVENT


@dataclass(frozen=True)
class Situation:
    """One target at one moment. Without a plan, only the rules that need none can be judged."""

    policy: EffectivePolicy
    incident: Incident
    now: datetime
    gap: Gap
    authority: Authority = Authority.EVENT
    plan: Plan | None = None
    planned_at: datetime | None = None
    """when the look began on which the plan rests"""
    fleet: Fleet = field(default_factory=Fleet)
    freeze: Freeze | None = None
    clock_jump: timedelta = timedelta(0)
    """by how much the wall clock left the steady one lately"""

    @property
    def wanted(self) -> Mode:
        """How far it may go at most: what the policy lets, and no further than what was asked for."""
        return Mode.DRY_RUN if self.authority is Authority.DRY_RUN else self.policy.mode

    @property
    def risk(self) -> Risk | None:
        """The gravest of the plan's actions."""
        return self.plan.risk if self.plan is not None else None


@dataclass(frozen=True)
class Refuse:
    """Not allowed; a person is told once per incident and rule. With *until*, it is looked at again then."""

    rule: str
    limit: str
    seen: str
    hint: str = ""
    until: datetime | None = None


@dataclass(frozen=True)
class Wait:
    """Allowed, but not yet: look again at `until`. Nobody is called for it."""

    rule: str
    limit: str
    seen: str
    until: datetime


@dataclass(frozen=True)
class Go:
    """Carry out `plan`: live, or as a dry run, whichever `mode` says."""

    mode: Mode
    plan: Plan
    withheld: Plan | None = None
    """what a person would have to approve, should the gap stay open"""
    reservations: tuple[Refuse | Wait, ...] = ()
    """of a dry run: why live would not act now"""


@dataclass(frozen=True)
class NeedsApproval:
    """Exactly `plan` may be carried out once a person has granted it."""

    plan: Plan


Decision = Go | NeedsApproval | Refuse | Wait
