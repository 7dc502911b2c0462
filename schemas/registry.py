"""Which model reads which message: one table from the CloudEvents type to where its data's model lives."""

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module

from pydantic import BaseModel

MESSAGES: Mapping[str, str] = {
    "ansai.health.disk.pressure.v1": "schemas.disk:DiskPressure",
    "ansai.health.memory.pressure.v1": "schemas.memory:MemoryPressure",
    "ansai.health.memory.trend.v1": "schemas.memory:MemoryTrend",
    "ansai.health.services.state.v1": "schemas.services:ServiceState",
    "ansai.trigger.v1": "schemas.trigger:Trigger",
    "ansai.action.v1": "schemas.audit:ActionEvent",
    "ansai.audit.v1": "schemas.audit:AuditSegment",
    "ansai.checkpoint.v1": "schemas.audit:Checkpoint",
    "ansai.approval.v1": "schemas.approval:Approval",
    "ansai.alert.v1": "schemas.alert:Alert",
    "ansai.heartbeat.v1": "schemas.heartbeat:Heartbeat",
}
"""Imported on first use, so that knowing the names costs nothing."""

HEALTH_PREFIX = "ansai.health."


class UnknownType(LookupError):
    """No message of ours has this type."""


def names() -> list[str]:
    """Every CloudEvents type, in the order of the table."""
    return list(MESSAGES)


def model(name: str) -> type[BaseModel]:
    """The model of the data of messages of type *name*. Raises UnknownType."""
    try:
        module, _, attribute = MESSAGES[name].partition(":")
    except KeyError:
        near = get_close_matches(name, MESSAGES, n=1)
        hint = f"; the nearest is {near[0]}" if near else f"; known are {', '.join(MESSAGES)}"
        raise UnknownType(f"{name!r} is no message type of ours{hint}") from None
    found = getattr(import_module(module), attribute)
    assert isinstance(found, type)
    assert issubclass(found, BaseModel)
    return found
