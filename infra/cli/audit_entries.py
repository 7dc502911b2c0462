"""The records of the trail as the commands show them: each with its place in the stream."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import typer

from bus import subjects
from bus.port import Bus, Stored, StreamName
from infra.cli.failures import Failure
from infra.cli.invocation import invocation
from infra.cli.lines import read
from infra.hosts.session import session
from schemas.audit import AuditRecord, AuditSegment


@dataclass(frozen=True)
class Entry:
    """One record with its place: a message may hold several."""

    message: int
    """stream sequence"""
    position: int
    """of the record in its message, from 1 on; 0 when it is the only one"""
    record: AuditRecord

    @property
    def place(self) -> str:
        """`17`, or `17.2` for the second record of a message."""
        return f"{self.message}.{self.position}" if self.position else str(self.message)

    def document(self) -> dict[str, Any]:
        return {
            "message": self.message,
            "place": self.place,
            "correlation": self.record.correlation,
            **self.record.model_dump(mode="json", exclude_none=True, exclude_defaults=True),
        }


def entries(
    context: typer.Context, function: str | None = None, since: timedelta | None = None
) -> list[Entry]:  # fmt: skip
    """The records of the trail, oldest first. Raises Failure, BusError."""
    settings = invocation(context).start().bus
    begin = datetime.now(UTC) - since if since is not None else None

    async def main() -> list[Entry]:
        async with session(settings, "ansai-audit", start=True) as bus:
            return [entry async for entry in _read(bus, function, begin)]

    return asyncio.run(main())


async def _read(bus: Bus, function: str | None, since: datetime | None) -> AsyncIterator[Entry]:
    try:
        pattern = f"ansai.audit.*.{'.'.join(subjects.split_name(function))}.*" if function else ""
    except subjects.BadSubject as error:
        raise Failure(str(error)) from error
    async for stored in bus.read(StreamName.AUDIT, pattern, since):
        for entry in _of(stored):
            yield entry


def _of(stored: Stored) -> Iterator[Entry]:
    """None, with a word on standard error, for what is no record: the trail takes whatever may be published there."""
    event = read(stored.body)
    if event is None or not isinstance(event.data, AuditSegment):
        typer.echo(f"ansai: #{stored.sequence} on {stored.subject} is no audit record", err=True)
        return
    several = len(event.data.records) > 1
    for position, record in enumerate(event.data.records, 1):
        yield Entry(stored.sequence, position if several else 0, record)
