"""What all settings sections have in common."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A section: frozen, complete with defaults, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, defer_build=True)
