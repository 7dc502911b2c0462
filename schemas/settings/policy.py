"""The `policy` section: how far each function may go."""

from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, Field

from schemas.remediation import Mode
from schemas.settings.base import Settings
from schemas.units import Duration


def _mode(value: object) -> object:
    if value is False or value == "off":
        raise ValueError(
            "mode can't be off (YAML reads a bare off as false); to switch a function off write enabled: false"
        )
    return value


ModeSetting = Annotated[Mode, BeforeValidator(_mode)]


class FunctionPolicy(Settings):
    """The limits of one function. What is left out comes from `policy.default`."""

    enabled: bool | None = Field(None, description="false: the function does not even observe.")
    mode: ModeSetting | None = Field(None, description="observe (no plan), dry_run, or auto.")
    protected_targets: tuple[str, ...] | None = Field(None, description="Globs of targets never acted on.")
    max_actions: int | None = Field(None, ge=1, description="Actions in one incident's attempt.")
    cooldown: Duration | None = Field(None, description="After an attempt, before the next on the same target.")
    max_attempts: int | None = Field(None, ge=1, description="Attempts in one incident before a person must look.")
    settle: Duration | None = Field(None, description="Between an action and its measurement.")


class EffectivePolicy(Settings):
    """What is in force for one function: every value present."""

    enabled: bool = True
    mode: ModeSetting = Mode.DRY_RUN
    protected_targets: tuple[str, ...] = ()
    max_actions: int = 500
    cooldown: timedelta = timedelta(minutes=15)
    max_attempts: int = 3
    settle: timedelta = timedelta(0)
    ineffective_share: float = 0.01
    ineffective_for: timedelta = timedelta(hours=6)


class Policy(Settings):
    """Conservative by default: everything is a dry run until a person says otherwise."""

    mode: ModeSetting = Field(Mode.DRY_RUN, description="Cap for all functions; each may only be lower.")
    default: FunctionPolicy = FunctionPolicy()
    functions: dict[str, FunctionPolicy] = Field({}, description="Per function, by name: disk.free_space.")
    event_expiry: Duration = Field(timedelta(minutes=10), description="Older health events are counted and dropped.")
    future_tolerance: Duration = Field(
        timedelta(minutes=5), description="Events further in the future are dead letters."
    )
    ineffective_share: float = Field(
        0.01, ge=0, le=1, description="A rung that freed less than this share of the need is ineffective."
    )
    ineffective_for: Duration = Field(
        timedelta(hours=6), description="An ineffective rung is not tried again for this."
    )

    def of(self, function: str) -> EffectivePolicy:
        """The policy in force for *function*: its own values, then the default's, then the built-in ones. Pure."""
        values = {
            **self.default.model_dump(exclude_none=True),
            **self.functions.get(function, FunctionPolicy()).model_dump(exclude_none=True),
        }
        mode = min(self.mode, values.pop("mode", self.mode), key=lambda mode: mode.rank)
        return EffectivePolicy(
            mode=mode, ineffective_share=self.ineffective_share, ineffective_for=self.ineffective_for, **values
        )
