"""What is done to bring a unit back: each through systemd, or to what its dead processes left."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from functions.core.plan import Action, result_of
from functions.core.ports import Tools
from functions.services.judgement import UNITS
from schemas.facts.processes import ProcessIdentity
from schemas.remediation import ActionResult, Estimate, ItemResult, Outcome, Risk
from schemas.text import PathText, Text, show_path


class RemoveStaleFiles(Action):
    """Unlink pid and lock files whose owner is gone; one that is held or locked stays."""

    risk: ClassVar[Risk] = Risk.REPRODUCIBLE
    undo: ClassVar[str] = "not taken back; the service writes them anew when it starts"
    repeatable: ClassVar[bool] = True

    action: Literal["services.remove_stale_files"] = "services.remove_stale_files"
    unit: Text
    files: tuple[PathText, ...]
    groups: tuple[PathText, ...] = ()
    """control groups whose processes make a file live"""

    def title(self) -> str:
        return f"Remove what {self.unit} left behind: {', '.join(map(show_path, self.files))}"

    def estimates(self) -> tuple[Estimate, ...]:
        return (Estimate(amount=len(self.files), unit="files", exact=False),)

    def items(self) -> Sequence[str]:
        return self.files

    def apply(self, tools: Tools) -> ActionResult:
        return result_of([tools.processes.remove_stale(path, self.groups) for path in self.files])


class EndStaleProcesses(Action):
    """End processes that outlived their unit and hold its ports; each is checked to be the one that was planned."""

    risk: ClassVar[Risk] = Risk.AVAILABILITY
    undo: ClassVar[str] = "there is no way back; the start that follows puts new ones in their place"
    repeatable: ClassVar[bool] = True

    action: Literal["services.end_stale_processes"] = "services.end_stale_processes"
    unit: Text
    processes: tuple[ProcessIdentity, ...]
    ports: tuple[int, ...]
    grace: float
    """seconds between SIGTERM and SIGKILL"""

    def title(self) -> str:
        ports = ", ".join(map(str, self.ports))
        pids = ", ".join(str(process.pid) for process in self.processes)
        return f"End what is left of {self.unit} and holds port {ports}: pid {pids}"

    def estimates(self) -> tuple[Estimate, ...]:
        return (Estimate(amount=len(self.processes), unit="processes", exact=False),)

    def items(self) -> Sequence[str]:
        return [f"pid {process.pid}: {process.command}" for process in self.processes]

    def apply(self, tools: Tools) -> ActionResult:
        return result_of([tools.processes.end(process, self.grace) for process in self.processes])


class UnitAction(Action):
    """Something that systemd does with one unit; left alone when it is another run of it by then, or was stopped."""

    risk: ClassVar[Risk] = Risk.AVAILABILITY

    unit: Text
    invocation: str
    """its run that was looked at"""
    timeout: float
    """seconds, longer than the unit's own"""

    def estimates(self) -> tuple[Estimate, ...]:
        """At most: only time shows whether it stays up."""
        return (Estimate(amount=1, unit=UNITS, exact=False),)

    def items(self) -> Sequence[str]:
        return [self.unit]

    def told_by(self, item: ItemResult) -> ActionResult:
        """The result of *item*, with what systemd said. One that is still under way is neither done nor failed."""
        if item.outcome in {Outcome.IN_PROGRESS, Outcome.PARTIAL}:
            return ActionResult(outcome=item.outcome, not_done=(item,), detail=item.reason)
        return result_of([item]).model_copy(update={"detail": item.reason})


class StartUnit(UnitAction):
    """Start a unit that failed."""

    undo: ClassVar[str] = "not taken back; a unit that fails again is left as systemd leaves it"
    repeatable: ClassVar[bool] = True

    action: Literal["services.start"] = "services.start"

    def title(self) -> str:
        return f"Start {self.unit}"

    def apply(self, tools: Tools) -> ActionResult:
        return self.told_by(tools.units.start(self.unit, self.invocation, self.timeout))


class StartAnew(UnitAction):
    """Start a unit that failed once too often: its failure is cleared first, and with it systemd's count of its starts.

    One action, for between its two steps the unit looks as if somebody meant it to be down. Not repeatable for the
    same reason: whoever dies right there leaves that to a person.
    """

    undo: ClassVar[str] = "not taken back; how it had failed is kept in the audit trail and the journal"

    action: Literal["services.start_anew"] = "services.start_anew"

    def title(self) -> str:
        return f"Clear the failure of {self.unit} and systemd's count of its starts, and start it"

    def apply(self, tools: Tools) -> ActionResult:
        return self.told_by(tools.units.start_anew(self.unit, self.invocation, self.timeout))


class RestartUnit(UnitAction):
    """Restart a unit that flaps."""

    undo: ClassVar[str] = "a restart can't be taken back"
    repeatable: ClassVar[bool] = True

    action: Literal["services.restart"] = "services.restart"
    dependants: tuple[Text, ...] = ()
    """units that are restarted with it"""

    def title(self) -> str:
        others = f", and with it {', '.join(self.dependants)}" if self.dependants else ""
        return f"Restart {self.unit}{others}"

    def items(self) -> Sequence[str]:
        return [self.unit, *self.dependants]

    def apply(self, tools: Tools) -> ActionResult:
        return self.told_by(tools.units.restart(self.unit, self.invocation, self.timeout))
