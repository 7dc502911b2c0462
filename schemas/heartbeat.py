"""What a running component says about itself every few seconds, so that silence is noticed."""

from enum import StrEnum
from typing import ClassVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from schemas.text import Text


class ComponentKind(StrEnum):
    COLLECTOR = "collector"
    FUNCTION = "function"


class ComponentState(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    DEGRADED = "degraded"
    """it runs, but its last read or message failed"""
    STOPPING = "stopping"


class Heartbeat(BaseModel):
    """Announced on `ansai.heartbeat.<host>.<component>`, stored nowhere. Counters begin at 0 with the process."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    TYPE_NAME: ClassVar[str] = "ansai.heartbeat.v1"

    host: Text
    component: Text = Field(description="Unique on its host; the subject's last token, dots to dashes.")
    kind: ComponentKind
    names: tuple[Text, ...] = Field(description="The collectors or functions that it runs: who listens, who looks.")
    version: Text = ""
    pid: int = Field(0, ge=0)
    started: AwareDatetime
    at: AwareDatetime
    state: ComponentState
    handled: int = Field(0, ge=0, description="Reads of a collector, messages of a function.")
    failures: int = Field(0, ge=0, description="Reads or messages that failed.")
    refused: int = Field(0, ge=0, description="Events that the bus understood and refused.")
    dropped: int = Field(0, ge=0, description="Events lost because the spool was full.")
