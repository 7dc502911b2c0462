"""Entries of `custom_actions`, events for them, and a machine on which nothing is really run."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from functions.core.plan import Plan
from functions.core.remedy import Case
from functions.custom.remedy import Seen, remedy_of
from schemas.disk import DiskPressure
from schemas.facts.commands import Command
from schemas.facts.files import Resource
from schemas.health import Level
from schemas.probes import ProbeError
from schemas.remediation import Gap, ItemResult, Outcome
from schemas.settings.custom import CustomAction

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TARGET = "bytes:/srv/exports"


def entry(**fields: Any) -> CustomAction:
    """With what is needed, unless *fields* say otherwise; None leaves a key out."""
    given = {
        "name": "clear_exports",
        "on": "ansai.health.disk.pressure.v1",
        "targets": ["bytes:/srv/*"],
        "when": {"level": ["critical", "emergency"], "percent": {"at_least": 90}},
        "run": ["/usr/local/bin/clear-exports", "{target}"],
        "risk": "reversible",
        **fields,
    }
    return CustomAction.model_validate({name: value for name, value in given.items() if value is not None})


def event(target: str = TARGET, *, age: timedelta = timedelta(0), **fields: Any) -> DiskPressure:
    given = {"level": Level.CRITICAL, "percent": 95.5, "mount": "/srv/exports", "resource": Resource.BYTES, **fields}
    return DiskPressure(target=target, observed_at=NOW - age, **given)


class Custom:
    """An entry, its remedy, and what it says about cases; `section` is what is in force."""

    def __init__(self, **fields: Any) -> None:
        self.section: tuple[CustomAction, ...] = (entry(**fields),)
        self.remedy = remedy_of(self.section[0], DiskPressure)

    def case(self, about: DiskPressure | None, target: str | None = None) -> Case[Any]:
        name = target or (about.target if about is not None else TARGET)
        return Case("web-1", name, self.section, NOW, about)  # type: ignore[arg-type]  # as hosts hand it over

    def gap(self, about: DiskPressure | None, machine: Any, target: str | None = None) -> Gap:
        asked = self.case(about, target)
        return self.remedy.gap(asked, self.remedy.observe(asked, machine))

    def plan(self, about: DiskPressure | None, target: str | None = None) -> Plan:
        asked, machine, seen = self.case(about, target), Machine(), Seen(healthy=False, reason="")
        return self.remedy.plan(asked, seen, self.remedy.survey(asked, seen, machine))  # type: ignore[arg-type]

    def action(self) -> Any:
        """What it plans for a matching event."""
        return self.plan(event()).rungs[0].actions[0]

    def change(self, **fields: Any) -> None:
        """As if the settings were read again; None for a whole entry takes it away."""
        self.section = (self.section[0].model_copy(update=fields),) if fields else ()


@dataclass
class Machine:
    """Both probes and tools."""

    sick: set[str] = field(default_factory=set)
    """targets, as their last argument, that a check finds unhealthy"""
    broken: str = ""
    """what a check says when it gives no answer"""
    outcome: Outcome = Outcome.DONE
    cures: bool = True
    checked: list[Command] = field(default_factory=list)
    ran: list[Command] = field(default_factory=list)
    ended: dict[tuple[str, str], datetime] = field(default_factory=dict)

    @property
    def commands(self) -> "Machine":
        return self

    def healthy(self, command: Command) -> bool:
        self.checked.append(command)
        if self.broken:
            raise ProbeError(self.broken)
        return command.argv[-1] not in self.sick

    def ran_at(self, function: str, target: str) -> datetime | None:
        return self.ended.get((function, target))

    def run(self, function: str, target: str, command: Command) -> ItemResult:
        self.ran.append(command)
        if self.outcome is not Outcome.REFUSED:
            self.ended[function, target] = NOW + timedelta(seconds=len(self.ran))
        if self.cures and self.outcome is Outcome.DONE:
            self.sick.discard(target)
        return ItemResult(name=target, outcome=self.outcome, reason="the command said so")
