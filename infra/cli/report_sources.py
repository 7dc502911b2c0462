"""What a report is made of: the newest health event about each target, and what functions did about it."""

from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import typer
from pydantic import ValidationError

from bus import subjects
from bus.port import Bus, Stored, StreamName
from schemas.audit import ActionEvent, Step
from schemas.envelope import Event
from schemas.facts.files import Fact
from schemas.health import Health
from schemas.remediation import Finding
from schemas.text import plain

TOLD = frozenset({
    Step.WOULD, Step.ACTED, Step.FAILED, Step.UNDONE, Step.RECOVERED, Step.HEALED, Step.UNHEALED, Step.STUCK,
    Step.REFUSED, Step.REQUESTED, Step.GRANTED, Step.DENIED,
})  # fmt: skip
"""Steps that say what was done, or why nothing was; those between them are in the audit trail."""


@dataclass(frozen=True)
class Done:
    """One thing that a function did about a target, or did not."""

    at: datetime
    function: str
    target: str
    step: Step
    text: str
    correlation: str
    times: int = 1
    """told so often in a row, at last at this moment"""

    def document(self) -> dict[str, Any]:
        return {
            "at": self.at.isoformat(), "function": self.function, "step": self.step.value, "text": self.text,
            "correlation": self.correlation, "times": self.times,
        }  # fmt: skip


@dataclass(frozen=True)
class Told:
    """All that is known of one target in one domain. At least one of `event` and `done` is there."""

    target: str
    event: Event[Health] | None = None
    """the newest"""
    done: tuple[Done, ...] = ()
    """oldest first"""
    findings: tuple[Finding, ...] = ()
    """of the latest plan"""
    closer: Fact | None = None
    """what a look at it told just now"""
    problem: str = ""
    """why it could not be looked at"""

    def document(self, now: datetime) -> dict[str, Any]:
        event = self.event
        return {
            "target": self.target,
            "signal": f"{event.data.domain}.{event.data.signal}" if event is not None else None,
            "told_at": event.time.isoformat() if event is not None else None,
            "age_seconds": round((now - event.time).total_seconds(), 3) if event is not None else None,
            "health": event.data.model_dump(mode="json") if event is not None else None,
            "now": self.closer.model_dump(mode="json") if self.closer is not None else None,
            "problem": self.problem,
            "findings": [finding.model_dump(mode="json") for finding in self.findings],
            "done": [done.document() for done in self.done],
        }  # fmt: skip


async def healths(bus: Bus, host: str, model: type[Health]) -> list[Event[Health]]:
    """The newest event about each target of a signal, by the targets' names. Raises BusError."""
    newest: dict[str, Stored] = {}
    async for stored in bus.read(StreamName.HEALTH, subjects.health_pattern(host, model.domain, model.signal)):
        newest[stored.subject] = stored
    reader: Any = Event[model]  # type: ignore[valid-type]
    found: list[Event[Health]] = [event for each in newest.values() if (event := _read(each, reader)) is not None]
    return sorted(found, key=lambda event: event.data.target)


async def actions(bus: Bus, host: str, since: datetime) -> list[Event[ActionEvent]]:
    """What every function of *host* told of its steps. Raises BusError."""
    return [event async for event in _actions(bus, host, since)]


async def _actions(bus: Bus, host: str, since: datetime) -> AsyncIterator[Event[ActionEvent]]:
    pattern = f"ansai.action.{subjects.host_token(host)}.>"
    async for stored in bus.read(StreamName.ACTION, pattern, since):
        if (event := _read(stored, Event[ActionEvent])) is not None:
            yield event


def _read(stored: Stored, reader: Any) -> Any:
    """None, with a word on standard error, for what is no such event: anybody may publish anything."""
    try:
        return reader.model_validate_json(stored.body)
    except ValidationError:
        typer.echo(f"ansai: #{stored.sequence} on {plain(stored.subject)} can't be read and is left out", err=True)
        return None


def told(
    domain: str, events: Iterable[Event[Health]], acted: Sequence[Event[ActionEvent]]
) -> list[Told]:  # fmt: skip
    """Each target with what was done about it, by any function; then what functions of *domain* did to others. Pure."""
    found = [Told(event.data.target, event) for event in events]
    known = {each.target for each in found}
    ours = (event.data for event in acted if event.data.function.partition(".")[0] == domain)
    others = sorted({data.target for data in ours if data.target} - known)
    return [_with_actions(each, acted) for each in [*found, *map(Told, others)]]


def _with_actions(about: Told, acted: Sequence[Event[ActionEvent]]) -> Told:
    events = [event for event in acted if event.data.target == about.target]
    plans = [event.data.plan for event in events if event.data.plan is not None]
    return replace(about, done=_done(events), findings=plans[-1].findings if plans else ())


def _done(events: Iterable[Event[ActionEvent]]) -> tuple[Done, ...]:
    """One for each step worth telling; what only repeats itself is counted."""
    found: list[Done] = []
    for event in events:
        data = event.data
        if data.step not in TOLD:
            continue
        done = Done(event.time, plain(data.function), data.target, data.step, data.text, plain(event.correlationid))
        last = found[-1] if found else None
        if last is not None and (last.function, last.step, last.text) == (done.function, done.step, done.text):
            found[-1] = replace(done, times=last.times + 1)
        else:
            found.append(done)
    return tuple(found)
