"""The services domain's health event: whether one unit of systemd runs as it should."""

from typing import ClassVar

from pydantic import Field

from schemas.health import Health
from schemas.text import Text


class ServiceState(Health):
    """Target `unit:nginx.service`. Warning: it flaps, or is being restarted. Critical: it failed and stays down."""

    domain: ClassVar[str] = "services"
    signal: ClassVar[str] = "state"

    unit: Text
    active: Text = Field("", description="ActiveState.")
    sub: Text = Field("", description="SubState.")
    result: Text = Field("", description="How it ended: exit-code, signal, oom-kill, start-limit-hit, …")
    exit_status: int | None = None
    restarts: int = Field(0, ge=0, description="By systemd's Restart=, since it was last started by somebody.")
    recent_restarts: int = Field(0, ge=0, description="Of those, within flap_within.")
    invocation: str = Field("", max_length=64, description="Id of this run of the unit.")
    enabled: Text = Field("", description="UnitFileState.")
    stopped_on_purpose: bool = Field(False, description="Somebody stopped it, and it ended in order.")
    findings: tuple[Text, ...] = Field((), description="What a person should know, one sentence each.")
