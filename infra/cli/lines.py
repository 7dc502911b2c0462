"""One line for each message, whatever it is: for `watch`, `up`, `trigger --wait` and `audit list`."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError
from rich.text import Text

from bus import subjects
from functions import registry as functions
from schemas import registry
from schemas.alert import Alert
from schemas.audit import ActionEvent, AuditRecord, AuditSegment, Checkpoint
from schemas.envelope import Event, Head
from schemas.health import Health
from schemas.heartbeat import Heartbeat
from schemas.text import plain
from schemas.trigger import Trigger

logger = logging.getLogger(__name__)

STYLES = {
    "ok": "green", "warning": "yellow", "critical": "red", "emergency": "bold red", "unknown": "magenta",
    "info": "green", "healed": "bold green", "unhealed": "bold red", "stuck": "bold red", "failed": "red",
    "refused": "yellow", "deferred": "yellow", "acting": "cyan", "acted": "cyan", "would": "cyan", "planned": "cyan",
    "dlq": "bold magenta", "recovered": "yellow", "undoing": "yellow", "undone": "yellow",
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """What is shown of one message."""

    at: datetime
    kind: str
    """health, trigger, action, audit, alert, heartbeat or dlq"""
    source: str
    """host and function, collector or component"""
    state: str
    """level, step or severity"""
    text: str

    def rich(self) -> Text:
        moment = self.at.astimezone().strftime("%H:%M:%S")
        style = STYLES.get(self.state) or STYLES.get(self.kind, "")
        return Text.assemble(
            (f"{moment} ", "dim"),
            f"{self.kind:<9} ",
            (f"{self.state:<10} ", style),
            (f"{self.source}  ", "dim"),
            self.text,
        )


def read(body: bytes) -> Event[Any] | None:
    """The message as an event; None when it is none of ours."""
    try:
        head = Head.model_validate_json(body)
        model = _model(head.type)
        return Event[model].model_validate_json(body)  # type: ignore[valid-type]
    except (ValidationError, registry.UnknownType):
        return None


def _model(name: str) -> type[BaseModel]:
    """Ours, or a health event of an installed function. Raises UnknownType."""
    if name in registry.MESSAGES or not name.startswith(registry.HEALTH_PREFIX):
        return registry.model(name)
    installed = _installed_models()
    return installed[name] if name in installed else registry.model(name)


@cache
def _installed_models() -> Mapping[str, type[BaseModel]]:
    """Asked once: it looks at every installed package."""
    try:
        return functions.health_models()
    except functions.BadFunction as error:
        logger.warning("health events of installed functions are shown as they came: %s", error)
        return {}


def line_of(subject: str, body: bytes, at: datetime) -> Line:
    """The line for one message, the last one where it has several; *at* is used when it doesn't say its time itself."""
    return lines_of(subject, body, at)[-1]


def lines_of(subject: str, body: bytes, at: datetime) -> list[Line]:
    """One line for a message; a segment of the audit trail has one for each of its records."""
    try:
        parsed = subjects.parse(subject)
    except subjects.BadSubject:
        return [Line(at, "other", plain(subject), "", _raw(body))]
    source = " ".join(part for part in (parsed.host, parsed.function if parsed.domain else parsed.last) if part)
    if parsed.kind == "dlq":
        return [Line(at, "dlq", source, "dlq", _raw(body))]
    event = read(body)
    if event is None:
        return [Line(at, parsed.kind, source, "", _raw(body))]
    if isinstance(event.data, AuditSegment) and event.data.records:
        return [
            Line(record.at, parsed.kind, source, record.step.value, audit_text(record)) for record in event.data.records
        ]
    return [Line(event.time, parsed.kind, source, *_said(event.data))]


def _said(data: BaseModel) -> tuple[str, str]:
    """State and sentence."""
    if isinstance(data, Health):
        before = f" (was {data.previous})" if data.previous not in (None, data.level) else ""
        return data.level.value, f"{data.target}: {data.reason or data.level.value}{before}"
    if isinstance(data, ActionEvent):
        return data.step.value, data.text
    if isinstance(data, Checkpoint):
        return "", f"record {data.sequence} of {data.emitter} is there, signed by {data.key[:16]}"
    if isinstance(data, Alert):
        return data.severity.value, " ".join(part for part in (f"{data.title}:", data.text, data.next) if part)
    if isinstance(data, Heartbeat):
        return data.state.value, f"{data.kind} of {', '.join(data.names)}, {data.handled} handled"
    if isinstance(data, Trigger):
        return data.mode.value, f"{data.target or 'every target'} {data.reason}".rstrip()
    return "", ""


def audit_text(record: AuditRecord) -> str:
    """What one audit record says, as a sentence."""
    parts = [record.target]
    if record.action is not None:
        parts.append(record.action.title)
    if record.rule:
        parts.append(f"{record.rule}: limit {record.limit}, seen {record.seen}" if record.limit else record.rule)
    if record.text:
        parts.append(record.text)
    if record.outcome is not None:
        parts.append(f"[{record.outcome}]")
    return " · ".join(part for part in parts if part)


def _raw(body: bytes) -> str:
    """The first bytes of something that is no event."""
    text = body[:200].decode("utf-8", "backslashreplace")
    return plain(" ".join(text.split())) + ("…" if len(body) > 200 else "")
