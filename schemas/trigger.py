"""A person's order. It may also come as bare JSON, without an envelope: `{}`."""

from enum import StrEnum

from pydantic import ConfigDict, Field

from schemas.remediation import Value
from schemas.text import PathText, Text


class Asked(StrEnum):
    DRY_RUN = "dry_run"
    LIVE = "live"
    """asked for, never granted by the asking: the policy decides"""


class Trigger(Value):
    """Empty: evaluate every configured target and select none for action."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    target: PathText | None = Field(None, max_length=4096, description="Canonical name, or its part after the colon.")
    mode: Asked = Asked.DRY_RUN
    reason: Text = ""

    @classmethod
    def type_name(cls) -> str:
        return "ansai.trigger.v1"
