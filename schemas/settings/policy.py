"""The `policy` section: how far each function may go."""

import hashlib
import json
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from schemas.remediation import Mode, Risk
from schemas.settings.base import Settings
from schemas.settings.bus import state_directory
from schemas.settings.windows import MaintenanceWindow
from schemas.units import Duration, Size

SYSTEM_FREEZE_FILE = Path("/etc/ansai/freeze")
"""Looked at besides `policy.freeze_file`, whoever runs the function."""


def _mode(value: object) -> object:
    if value is False or value == "off":
        raise ValueError(
            "mode can't be off (YAML reads a bare off as false); to switch a function off write enabled: false"
        )
    return value


ModeSetting = Annotated[Mode, BeforeValidator(_mode)]


class Confirmation(Settings):
    """No action on a single sample: so many of the latest looks must have found the target unhealthy."""

    needed: int = Field(3, ge=1, le=20, description="Looks that found it unhealthy. The event that came counts as one.")
    of: int = Field(4, ge=1, le=20, description="Among this many latest looks.")
    every: Duration = Field(
        timedelta(seconds=10), le=timedelta(days=1), description="Between two looks of the function's own."
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.needed > self.of:
            raise ValueError(f"needed is {self.needed} of {self.of} looks, which can never be")
        return self


class Flapping(Settings):
    """A target that goes to and fro is left alone. 6 and 3 of 21 looks are the 30 % and 15 % of Nagios."""

    begin: int = Field(6, ge=2, le=20, description="Changes between healthy and unhealthy within the time: it flaps.")
    end: int = Field(3, ge=0, description="So few of them: it does no longer.")
    within: Duration = timedelta(hours=1)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.end >= self.begin:
            raise ValueError("end must be below begin, else the flapping itself would flap")
        return self


class Budget(Settings):
    """Attempts that may be begun; one attempt carries out one plan."""

    per_function: int = Field(6, ge=0, description="In an hour, by one function on one host.")
    per_host: int = Field(20, ge=0, description="In an hour, by all functions of one host.")
    irreversible: int = Field(2, ge=0, description="In 24 hours, by one function on one host, with irreversible parts.")


class FleetLimits(Settings):
    """What holds among the hosts of one group."""

    share: float = Field(0.10, ge=0, le=1, description="Of the hosts may act at once; rounded down, at least one.")
    storm_share: float = Field(0.40, ge=0, le=1, description="More unhealthy ones than this share: nobody acts.")
    storm_least: int = Field(3, ge=2, description="Fewer unhealthy ones are no storm, however small the group.")
    gather: Duration = Field(timedelta(seconds=10), description="Between telling the group and acting; not when alone.")
    healthy_peers: float = Field(
        0.5, ge=0, le=1, description="Of the other hosts must be healthy before something restarts; rounded up."
    )


class FunctionPolicy(Settings):
    """The limits of one function. What is left out comes from `policy.default`, also inside of its parts."""

    enabled: bool | None = Field(None, description="false: the function does not even observe.")
    mode: ModeSetting | None = Field(None, description="observe (no plan), dry_run, approve, or auto.")
    risk_modes: dict[Risk, ModeSetting] | None = Field(None, description="Caps by the risk of an action.")
    protected_targets: tuple[str, ...] | None = Field(None, description="Globs of targets never acted on.")
    confirmation: Confirmation | None = None
    second_source: bool | None = Field(None, description="What restarts or destroys needs two independent looks.")
    flapping: Flapping | None = None
    cooldown: Duration | None = Field(None, description="After an attempt; doubles with each one, up to max_cooldown.")
    max_cooldown: Duration | None = None
    max_attempts: int | None = Field(None, ge=1, description="Attempts in one incident before a person must look.")
    max_fixes: int | None = Field(
        None, ge=1, le=20, description="Heals of one target in 24 hours; more cure a symptom only."
    )
    max_actions: int | None = Field(None, ge=1, description="Actions in one incident's attempt.")
    max_items: int | None = Field(None, ge=1, description="Files, rows, images … that one attempt may need to change.")
    max_amounts: dict[str, Size] | None = Field(None, description="Unit → most that one attempt may need to change.")
    plan_expiry: Duration | None = Field(None, description="An older plan is made anew.")
    approval_expiry: Duration | None = Field(None, description="Without an answer for this long: refused.")
    budget: Budget | None = None
    fleet: FleetLimits | None = None
    maintenance_windows: tuple[MaintenanceWindow, ...] | None = Field(
        None, description="When what `window_from` says may be done; none given: at any time."
    )
    window_from: Risk | None = Field(None, description="Actions of this risk or a graver one need an open window.")
    settle: Duration | None = Field(None, description="Between an action and its measurement.")


class EffectivePolicy(Settings):
    """What is in force for one function on one host: every value present. Sources of the defaults: docs/guard.md."""

    enabled: bool = True
    mode: ModeSetting = Mode.DRY_RUN
    risk_modes: dict[Risk, ModeSetting] = {Risk.IRREVERSIBLE: Mode.APPROVE}
    protected_targets: tuple[str, ...] = ()
    confirmation: Confirmation = Confirmation()
    second_source: bool = True
    flapping: Flapping = Flapping()
    cooldown: timedelta = timedelta(minutes=15)
    max_cooldown: timedelta = timedelta(hours=6)
    max_attempts: int = 3
    max_fixes: int = 3
    max_actions: int = 500
    max_items: int = 20_000
    max_amounts: dict[str, int] = {"bytes": 200 * 1024**3}
    plan_expiry: timedelta = timedelta(minutes=10)
    approval_expiry: timedelta = timedelta(hours=24)
    budget: Budget = Budget()
    fleet: FleetLimits = FleetLimits()
    maintenance_windows: tuple[MaintenanceWindow, ...] = ()
    window_from: Risk = Risk.AVAILABILITY
    settle: timedelta = timedelta(0)
    ineffective_share: float = 0.01
    ineffective_for: timedelta = timedelta(hours=6)
    clock_tolerance: timedelta = timedelta(minutes=5)

    def mode_for(self, risk: Risk) -> Mode:
        """How far an action of *risk* may go: the lower of the function's mode and the risk's cap."""
        return min(self.mode, self.risk_modes.get(risk, Mode.AUTO), key=lambda mode: mode.rank)

    @cached_property
    def version(self) -> str:
        """Equal policies have equal versions: the first 12 hexadecimal digits of the SHA-256 of all values."""
        values = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(values.encode()).hexdigest()[:12]


class HostPolicy(Settings):
    """A cap for the hosts whose name a glob matches."""

    mode: ModeSetting = Field(description="Functions on these hosts go no further.")


class Policy(Settings):
    """Conservative by default: everything is a dry run until a person says otherwise."""

    mode: ModeSetting = Field(Mode.DRY_RUN, description="Cap for all functions; each may only be lower.")
    group: str = Field(
        "default", pattern="^[A-Za-z0-9_-]{1,63}$", description="Hosts of one group share the fleet limits."
    )
    hosts: dict[str, HostPolicy] = Field({}, description="Caps by host: web-1, or a glob like db-*.")
    default: FunctionPolicy = FunctionPolicy()
    functions: dict[str, FunctionPolicy] = Field({}, description="Per function, by name: disk.free_space.")
    freeze_file: Path = Field(
        default_factory=lambda: state_directory() / "freeze", description="While it exists nothing is changed here."
    )
    event_expiry: Duration = Field(timedelta(minutes=10), description="Older health events are counted and dropped.")
    future_tolerance: Duration = Field(
        timedelta(minutes=5), description="Events further in the future are dead letters; clocks may jump by this."
    )
    ineffective_share: float = Field(
        0.01, ge=0, le=1, description="A rung that freed less than this share of the need is ineffective."
    )
    ineffective_for: Duration = Field(
        timedelta(hours=6), description="An ineffective rung is not tried again for this."
    )

    @model_validator(mode="after")
    def _of_every_function(self) -> Self:
        """What each function's own values and the default's make together must be possible, too."""
        for function in self.functions:
            try:
                self.of(function)
            except ValidationError as error:
                first = error.errors(include_url=False, include_input=False)[0]
                where, why = ".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ")
                raise ValueError(f"functions.{function}, with what it takes from default: {where}: {why}") from error
        return self

    def of(self, function: str, host: str = "") -> EffectivePolicy:
        """The policy in force for *function* on *host*. Pure.

        Its own values, then the default's, then the built-in ones; its mode is the lowest of all that apply.
        """
        own = self.functions.get(function, FunctionPolicy())
        values: dict[str, Any] = {}
        for layer in (BUILT_IN, self.default, own):
            values = _over(values, _said(layer))
        caps = [self.mode, values.pop("mode", self.mode)]
        caps += [each.mode for pattern, each in self.hosts.items() if fnmatchcase(host, pattern)]
        return EffectivePolicy(
            mode=min(caps, key=lambda mode: mode.rank), ineffective_share=self.ineffective_share,
            ineffective_for=self.ineffective_for, clock_tolerance=self.future_tolerance, **values,
        )  # fmt: skip


BUILT_IN = FunctionPolicy(
    risk_modes=EffectivePolicy.model_fields["risk_modes"].default,
    max_amounts=EffectivePolicy.model_fields["max_amounts"].default,
)
"""Of what a policy can say in part; the rest of the built-in values are the defaults of `EffectivePolicy`."""


def _said(settings: Settings) -> dict[str, Any]:
    """The values that were given, and of their parts only those that were."""
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    return {
        name: _said(value) if isinstance(value, Settings) else value
        for name, value in given.items()
        if value is not None
    }


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """*above* where it says something, else *below*; part by part. A limit can't get lost by naming another."""
    merged = dict(below)
    for name, value in above.items():
        under = below.get(name)
        merged[name] = _over(under, value) if isinstance(value, dict) and isinstance(under, dict) else value
    return merged
