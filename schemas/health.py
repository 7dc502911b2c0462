"""The event a collector publishes: how one target is."""

from enum import StrEnum
from typing import ClassVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from schemas.text import Text


class Level(StrEnum):
    """How bad it is. `unknown` is no level but the absence of one: it never authorises or closes anything."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    EMERGENCY = "emergency"
    UNKNOWN = "unknown"

    @property
    def rank(self) -> int:
        """Order of the known levels, 0 for ok to 3 for emergency; -1 for unknown."""
        return {"unknown": -1, "ok": 0, "warning": 1, "critical": 2, "emergency": 3}[self.value]


class Health(BaseModel):
    """What every health event says. One subclass a signal, with the figures of that signal.

    `domain` and `signal` name the subject `ansai.health.<host>.<domain>.<signal>.<target>`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    domain: ClassVar[str]
    signal: ClassVar[str]

    target: Text = Field(description="Canonical name of what is judged, as `kind:name`.")
    level: Level
    previous: Level | None = Field(None, description="Level of the event before; none for the first one.")
    reason: Text = Field("", description="One sentence for a person: what was seen against which limit.")
    observed_at: AwareDatetime = Field(description="When the figures were read.")
    since: AwareDatetime | None = Field(None, description="When this level began.")
    dropped: int = Field(0, ge=0, description="Events lost before this one because the spool was full.")

    @classmethod
    def type_name(cls) -> str:
        """The CloudEvents type, `ansai.health.<domain>.<signal>.v1`."""
        return f"ansai.health.{cls.domain}.{cls.signal}.v1"
