"""What the function sees of one unit, and what it finds when it looks for a way to bring it back."""

from functions.core.shown import Shown
from schemas.facts.commands import Checked
from schemas.facts.files import Fact
from schemas.facts.processes import ProcessIdentity
from schemas.facts.units import Unit
from schemas.remediation import Finding
from schemas.text import PathText, Text


class Seen(Fact):
    """One unit, as systemd tells it."""

    unit: Unit | None = None
    """none: systemd knows no such unit"""
    at: float
    """when, in seconds of the monotonic clock that systemd's times are told in"""

    def shown(self) -> Shown:
        unit = self.unit
        return Shown(figures=f"{unit.active} ({unit.sub})" if unit is not None else "not known", reason=True)


class Holder(Fact):
    """A process that listens on one of the unit's ports."""

    port: int
    process: ProcessIdentity
    group: PathText = ""
    """its control group"""


class Check(Fact):
    """The configuration check of the unit, and its answer."""

    argv: tuple[Text, ...]
    answer: Checked | None = None
    """none: it gave no answer, so nothing is known"""
    trouble: Text = ""
    """why it gave none"""

    @property
    def passed(self) -> bool:
        return self.answer is not None and self.answer.passed


class Found(Fact):
    """All that bears upon bringing the unit back."""

    check: Check | None = None
    """none: this unit has no check"""
    stale_files: tuple[PathText, ...] = ()
    """pid and lock files that are there"""
    holders: tuple[Holder, ...] = ()
    others: tuple[Unit, ...] = ()
    """units that it needs or wants, at any remove, and that do not run: a start of it would start them too"""
    stopped_along: tuple[Text, ...] = ()
    """units that run, and that a start of it would stop"""
    restarted_along: tuple[Text, ...] = ()
    """units that run, and that a restart of it would restart, at any remove"""
    ours: bool = False
    """we run in it ourselves"""
    findings: tuple[Finding, ...] = ()
    """what could not be looked at"""
