"""What is done to a service that leaks: it is asked to collect its garbage, or it is restarted."""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Literal

from functions.core.plan import Action
from functions.core.ports import Tools
from schemas.command_lines import shown
from schemas.facts.commands import Command
from schemas.facts.processes import ProcessIdentity
from schemas.remediation import ActionResult, Estimate, ItemResult, Outcome, Risk
from schemas.text import PathText, Text
from schemas.units import show_size

FUNCTION = "memory.contain_leak"

NO_WAY_BACK = "a restart can't be taken back; what it ends is told in the findings of the plan"


class CollectGarbage(Action):
    """Ask a service's own runtime for a full collection, in the one way that is configured for it."""

    # Not reproducible: what goes is garbage, but everything stands still while it is looked for.
    risk: ClassVar[Risk] = Risk.AVAILABILITY
    undo: ClassVar[str] = "not taken back; what was collected was garbage"
    # A second collection finds less to do than the first; which process is asked is checked by its start time.
    repeatable: ClassVar[bool] = True

    action: Literal["memory.collect_garbage"] = "memory.collect_garbage"
    target: Text
    process: ProcessIdentity | None = None
    """who is asked; for an address or a command not needed"""
    signal: str = ""
    url: str = ""
    method: Literal["GET", "POST"] = "POST"
    command: tuple[PathText, ...] = ()
    """neither a signal, an address nor a command: jcmd"""
    timeout: float
    """seconds for an answer; a signal has none, so as long is waited before its effect is measured"""

    def title(self) -> str:
        return f"Ask {self.target} to collect garbage, by {self._way()}"

    def _way(self) -> str:
        """Without what may be a secret: it is told in events."""
        if self.url:
            return f"{self.method} {self.url.partition('?')[0]}"
        if self.command:
            return shown(self.command)
        pid = self.process.pid if self.process is not None else "?"
        return f"{self.signal} to process {pid}" if self.signal else f"jcmd {pid} GC.run"

    def estimates(self) -> tuple[Estimate, ...]:
        """None: only its runtime knows how much of it is garbage."""
        return ()

    def items(self) -> Sequence[str]:
        return [self.target]

    def apply(self, tools: Tools) -> ActionResult:
        if self.url:
            return _became(tools.processes.ask(self.url, self.method, self.timeout))
        if self.command:
            command = Command(argv=self.command, timeout=self.timeout)
            return _became(tools.commands.run(FUNCTION, self.target, command))
        if self.process is None:
            return ActionResult(outcome=Outcome.REFUSED, detail=f"which process of {self.target} to ask is not known")
        if not self.signal:
            return _became(tools.processes.collect_java(self.process, self.timeout))
        asked = tools.processes.signal(self.process, self.signal)
        if asked.outcome is Outcome.DONE:
            time.sleep(self.timeout)  # nobody answers a signal, and what is measured too early looks like no help
        return _became(asked)


class RestartUnit(Action):
    """Restart one unit of systemd, in order, and what it takes along."""

    risk: ClassVar[Risk] = Risk.AVAILABILITY
    undo: ClassVar[str] = NO_WAY_BACK
    # Whoever is killed in the middle leaves the job to systemd, and the unit in between or in another run: neither is
    # restarted by the next one, for the tool compares the invocation right before it acts.
    repeatable: ClassVar[bool] = True

    action: Literal["memory.restart_unit"] = "memory.restart_unit"
    unit: Text
    invocation: str
    dependants: tuple[Text, ...] = ()
    """units that stop and start together with it"""
    held: int
    """bytes that it holds above its size at the beginning"""
    timeout: float
    """seconds until it is left to systemd"""

    def title(self) -> str:
        along = f"; {', '.join(self.dependants)} restart with it" if self.dependants else ""
        return f"Restart {self.unit} (at most {show_size(self.held)} come free{along})"

    def estimates(self) -> tuple[Estimate, ...]:
        return (Estimate(amount=self.held, unit="bytes", exact=False),)

    def items(self) -> Sequence[str]:
        return [f"{self.unit} {self.invocation}", *self.dependants]

    def apply(self, tools: Tools) -> ActionResult:
        return _became(tools.units.restart(self.unit, self.invocation, self.timeout), frees=self.held)


class RestartContainer(Action):
    """Restart one container through its engine."""

    risk: ClassVar[Risk] = Risk.AVAILABILITY
    undo: ClassVar[str] = NO_WAY_BACK
    # As for a unit: another start of the same container is another run, and left alone.
    repeatable: ClassVar[bool] = True

    action: Literal["memory.restart_container"] = "memory.restart_container"
    engine: str
    container: str
    """its id"""
    name: Text
    started: datetime
    held: int
    """bytes that it holds above its size at the beginning"""
    timeout: float
    """seconds between the signal to stop and the end"""

    def title(self) -> str:
        return f"Restart {self.engine} container {self.name} (at most {show_size(self.held)} come free)"

    def estimates(self) -> tuple[Estimate, ...]:
        return (Estimate(amount=self.held, unit="bytes", exact=False),)

    def items(self) -> Sequence[str]:
        return [f"{self.name} {self.container[:12]}"]

    def apply(self, tools: Tools) -> ActionResult:
        item = tools.containers.restart(self.engine, self.container, self.started, self.timeout)
        return _became(item, frees=self.held)


def _became(item: ItemResult, frees: int = 0) -> ActionResult:
    """Of the one thing that an action changes; a run that has ended gave back all that it *frees*."""
    if item.outcome is not Outcome.DONE:
        return ActionResult(outcome=item.outcome, not_done=(item,), detail=item.reason)
    freed = item.freed or ({"bytes": float(frees)} if frees else {})
    return ActionResult(outcome=Outcome.DONE, done=1, freed=freed, detail=item.reason)
