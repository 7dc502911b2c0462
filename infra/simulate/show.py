"""What a scenario shows: its policy, what comes over the bus, and in the end the report and the audit trail."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.rule import Rule
from rich.syntax import Syntax

from bus.jetstream import JetStreamBus
from bus.port import StreamName
from collectors import registry as collectors
from functions import registry as functions
from infra.audit.keys import Keyring
from infra.audit.online import verify_stream
from infra.audit.trust import local_keys
from infra.cli import tables
from infra.cli.audit_verify import progress
from infra.cli.audit_verify import show as show_verification
from infra.cli.lines import audit_text, line_of, read
from infra.cli.reports import report as report_view
from infra.hosts.function_host import Machine
from infra.hosts.station import station
from schemas.audit import ActionEvent, AuditRecord, AuditSegment, Step
from schemas.clock import Clock, SystemClock
from schemas.remediation import Mode, Report
from schemas.settings.bus import state_directory
from schemas.settings.root import Configuration

HOST = "demo"
SHOWN = {"health", "action", "alert"}
"""Kinds of messages."""

Sign = Callable[[BaseModel], bool]
"""Whether what is told is what was waited for."""


def healed(target: str) -> Sign:
    """The incident about *target* is over."""
    return lambda data: isinstance(data, ActionEvent) and data.step is Step.HEALED and data.target == target


class Show:
    """Prints what comes over the bus, with the time of *clock*, and remembers it."""

    def __init__(self, console: Console, clock: Clock | None = None) -> None:
        self.console = console
        self._clock = clock or SystemClock()
        self.told: list[BaseModel] = []
        self._news = asyncio.Condition()

    async def follow(self, listening: Any) -> None:
        last_health = ""
        async for subject, body in listening:
            now = self._clock.now()
            line = replace(line_of(subject, body, now), at=now)
            if line.kind not in SHOWN or (line.kind == "health" and line.text == last_health):
                continue
            last_health = line.text if line.kind == "health" else last_health
            self.console.print(line.rich())
            event = read(body)
            if event is not None:
                async with self._news:
                    self.told.append(event.data)
                    self._news.notify_all()

    async def until(self, sign: Sign, seconds: float) -> bool:
        """Whether something with this *sign* is told within *seconds*, or was told already."""
        try:
            async with asyncio.timeout(seconds), self._news:
                await self._news.wait_for(lambda: any(map(sign, self.told)))
        except TimeoutError:
            return False
        return True

    @property
    def report(self) -> Report | None:
        """Of the last walk that was no dry run."""
        live = (data.report for data in self.told if isinstance(data, ActionEvent) and data.mode is Mode.AUTO)
        return next((report for report in reversed([*live]) if report is not None), None)


def show_policy(console: Console, policy: str) -> None:
    console.print(Rule("the policy of this demonstration, and where it differs from the shipped one"))
    console.print(Syntax(policy, "yaml", background_color="default"))


async def play(
    show: Show,
    configuration: Configuration,
    names: tuple[str, str],
    story: Callable[[], Awaitable[None]],
    *,
    machine: Machine | None = None,
    clock: Clock | None = None,
) -> None:
    """Function and collector, named in this order, at work while *story* goes on; then what the audit trail tells."""
    remedies, eyes = [functions.load(names[0])], [collectors.load(names[1])]
    async with station(configuration, HOST, remedies, (), everything=True, machine=machine, clock=clock) as running:
        listening = running.bus.listen("ansai.>")
        await listening.ready()
        following = asyncio.create_task(show.follow(listening))
        async with station(configuration, HOST, (), eyes, machine=machine, clock=clock):
            await story()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await show_story(show.console, running.bus, show.report)


async def show_story(console: Console, bus: JetStreamBus, report: Report | None) -> None:
    """The report, the audit trail, and whether that is whole."""
    console.print(Rule("the report"))
    if report is not None:
        console.print(report_view(report))
    console.print(Rule("the audit trail"))
    rows = [(str(record.sequence), record.step.value, audit_text(record)) async for record in _records(bus)]
    console.print(tables.table((">no", "step", "what"), rows))
    console.print(Rule("ansai audit verify"))
    audit = state_directory() / "audit"
    trust = local_keys(HOST, Keyring(audit / "keys"))
    with progress("verifying") as told:
        found = await verify_stream(bus, trust, audit / "heads", told)
    show_verification(found)


async def _records(bus: JetStreamBus) -> AsyncIterator[AuditRecord]:
    async for message in bus.read(StreamName.AUDIT, "ansai.audit.>"):
        event = read(message.body)
        if event is not None and isinstance(event.data, AuditSegment):
            for record in event.data.records:
                yield record
