"""The `memory_monitoring` section: whose memory is watched, when growth is a leak, and what may be done about it.

Read by `collectors.memory` and `functions.memory`; the only home of their thresholds.
"""

import re
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, TypeAdapter, model_validator

from schemas.settings.base import Settings
from schemas.settings.custom import Arguments
from schemas.settings.services import UnitGlob
from schemas.units import Duration, Percent, Size

_UNIT_GLOB: TypeAdapter[str] = TypeAdapter(UnitGlob)


def _target_glob(glob: str) -> str:
    """`unit:app` is `unit:app.service`, as everywhere: what it says would else hold for nothing."""
    kind, colon, name = glob.partition(":")
    if kind not in ("unit", "container", "process") or not colon or not name:
        raise ValueError(f"{glob!r} is no service; write unit:, container: or process: and a name or glob")
    return f"unit:{_UNIT_GLOB.validate_python(name)}" if kind == "unit" else glob


ServiceGlob = Annotated[str, AfterValidator(_target_glob)]
"""`unit:app.service`, `container:web-*`, `process:worker`"""


def _expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None
    return text


class ProcessMatch(Settings):
    """Processes that make up one service without being a unit or a container."""

    command: Annotated[str, AfterValidator(_expression)] = Field(
        min_length=1,
        description="Regular expression, searched for in the arguments joined by spaces; of more than 8,192 characters"
        " in the first and the last half of so many.",
    )
    user: str | None = Field(None, description="Only processes of this user.")


class GarbageCollection(Settings):
    """How a service is asked to collect garbage: exactly one way."""

    signal: Literal["SIGUSR1", "SIGUSR2", "SIGHUP", "SIGWINCH", "SIGURG"] | None = Field(
        None, description="Sent to the main process, only when it has a handler for it."
    )
    http: str | None = Field(
        None, pattern=r"^http://(127\.0\.0\.1|\[::1\]|localhost)(:\d+)?/", description="URL on loopback that is asked."
    )
    method: Literal["GET", "POST"] = "POST"
    command: Arguments | None = Field(None, description="Program and arguments; {pid} as a whole argument is replaced.")
    jcmd: bool = Field(False, description="jcmd <pid> GC.run, as the process's own user.")
    timeout: Duration = Field(
        timedelta(seconds=30), description="For an answer. A signal has none: its effect is measured after this long."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = sum((self.signal is not None, self.http is not None, self.command is not None, self.jcmd))
        if ways != 1:
            raise ValueError("give exactly one of signal, http, command and jcmd: true")
        return self


class ServiceMemory(Settings):
    """What is known of one service, or of all that a glob matches."""

    restart: bool | None = Field(None, description="May it be restarted? Left out: as memory_monitoring.restart says.")
    garbage_collection: GarbageCollection | None = Field(None, description="How it is asked, if it can be.")
    replicas: str = Field("", description="Name of a group of replicas: no two of them are restarted at once.")
    high: Size | None = Field(
        None, ge=2**20, description="MemoryHigh to hold it to: above, it is slowed and reclaimed."
    )
    maximum: Size | None = Field(None, ge=2**20, description="MemoryMax to hold it to: above, the kernel kills it.")
    check: Arguments | None = Field(None, description="Configuration check before a restart: status 0 is fine.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.high is not None and self.maximum is not None and self.high >= self.maximum:
            raise ValueError("high must be below maximum, or it never slows anything")
        return self


class MemoryMonitoring(Settings):
    """Services whose memory grows without end, and hosts that run out of it."""

    units: tuple[UnitGlob, ...] = Field(("*.service",), description="Globs of the units that are watched.")
    containers: tuple[str, ...] = Field(("*",), description="Globs of names of the containers that are watched.")
    processes: dict[str, ProcessMatch] = Field({}, description="Name → processes that are watched as one service.")
    ignore: tuple[ServiceGlob, ...] = Field((), description="Globs of services that are not watched.")
    restart: bool = Field(
        False, description="Services may be restarted before they run out, unless one says otherwise."
    )
    services: dict[ServiceGlob, ServiceMemory] = Field({}, description="Glob → what is known of such services.")

    every: Duration = Field(timedelta(seconds=60), description="Between two samples.")
    steady_every: Duration = Field(timedelta(minutes=5), description="Between two events of an unchanged service.")
    read_timeout: Duration = Field(timedelta(seconds=20), description="A read that takes longer is told as unknown.")
    minimum_growth: Size = Field(64 * 2**20, description="In the slow detector's window; less is noise.")
    minimum_growth_percent: Percent = Field(10, description="Likewise, of the size at its beginning.")
    alert_within: Duration = Field(timedelta(minutes=30), description="At the limit sooner than this: exhausting.")
    act_within: Duration = Field(
        timedelta(minutes=10), description="At the limit sooner than this: it is restarted now, window or not."
    )
    limit_percent: Percent = Field(80, description="Of the limit, below which nothing is exhausting.")
    act_percent: Percent = Field(95, description="Of the limit, at which a growing service is restarted at once.")
    verify_for: Duration = Field(
        timedelta(minutes=15),
        description="After an action growth is watched for so long before it counts as contained.",
    )
    restart_grace: Duration = Field(
        timedelta(minutes=2), description="Between the alert and a restart, if time is left."
    )
    available_percent: Percent = Field(10, description="Of the host's memory available: below, pressure is a warning.")
    available_critical_percent: Percent = Field(5, description="Below this it is critical.")
    pressure_percent: Percent = Field(20, description="Time in which all tasks waited for memory, of ten seconds.")
    pressure_critical_percent: Percent = Field(50, description="Likewise, critical.")
    cgroup_root: str = Field("/sys/fs/cgroup", pattern="^/", description="Where control groups are mounted.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.act_within >= self.alert_within:
            raise ValueError("act_within must be shorter than alert_within: people hear of it before anything is done")
        if self.limit_percent >= self.act_percent:
            raise ValueError("limit_percent must be below act_percent")
        if self.available_critical_percent >= self.available_percent:
            raise ValueError("available_critical_percent must be below available_percent")
        if self.pressure_percent >= self.pressure_critical_percent:
            raise ValueError("pressure_percent must be below pressure_critical_percent")
        return self

    def of(self, target: str) -> ServiceMemory:
        """What is known of *target*: its own name, or else the longest of the globs that match, gives all. Pure."""
        if target in self.services:
            return self.services[target]
        matching = [glob for glob in self.services if fnmatchcase(target, glob)]
        return self.services[max(matching, key=len)] if matching else ServiceMemory()

    def may_restart(self, target: str) -> bool:
        own = self.of(target).restart
        return self.restart if own is None else own

    def permits_by_name(self, target: str) -> bool:
        """Whether it may be restarted by its own name, and not only by a glob. Pure."""
        return target in self.services and self.services[target].restart is True

    def limits(self, target: str) -> bool:
        """Whether it is to be held to a limit. Pure."""
        own = self.of(target)
        return own.high is not None or own.maximum is not None

    def watches(self, target: str) -> bool:
        """Whether *target* is one of those that the settings name. Pure."""
        kind, _, name = target.partition(":")
        globs = {"unit": self.units, "container": self.containers, "process": tuple(self.processes)}.get(kind, ())
        named = name in globs if kind == "process" else any(fnmatchcase(name, glob) for glob in globs)
        return named and not any(fnmatchcase(target, glob) for glob in self.ignore)
