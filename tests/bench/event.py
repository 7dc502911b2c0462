"""The event that all contenders of the bus bench take and the two that each publishes for it."""

import time
from typing import Literal

from pydantic import BaseModel

from bus import subjects

STREAM = "HEALTH"
ACTION_SUBJECT = subjects.action("bench", "disk.free_space", "observed")
AUDIT_SUBJECT = subjects.audit("bench", "disk.free_space", "bench")


class Pressure(BaseModel):
    mount: str
    percent: float
    level: Literal["ok", "warning", "critical"]
    used: int
    total: int
    note: str


class Event(BaseModel):
    specversion: Literal["1.0"]
    id: str
    source: str
    type: str
    subject: str
    sent: int
    """Nanoseconds since the epoch."""
    correlationid: str
    data: Pressure


class Outcome(BaseModel):
    id: str
    correlationid: str
    step: str
    freed: int


def sample(number: int) -> bytes:
    """About 400 bytes of JSON."""
    data = Pressure(mount="/var", percent=91.5, level="critical", used=915_000, total=1_000_000, note="x" * 90)
    return (
        Event(
            specversion="1.0", id=f"event-{number:08}", source="/hosts/bench/collectors/disk.pressure",
            type="ansai.health.disk.pressure.v1", subject="/var", sent=time.time_ns(), correlationid=f"c-{number:08}",
            data=data,
        ).model_dump_json().encode()
    )  # fmt: skip


def outcomes(event: Event) -> tuple[bytes, bytes]:
    """What is published about *event*: one action event, one audit event."""
    return tuple(
        Outcome(id=f"{event.id}-{step}", correlationid=event.correlationid, step=step, freed=event.data.used)
        .model_dump_json()
        .encode()
        for step in ("action", "audit")
    )
