"""Report services that failed, flap, do not come up, or ended though nobody stopped them."""

from collections.abc import Iterator
from datetime import datetime
from time import monotonic
from typing import NamedTuple

from pydantic import AwareDatetime, Field

from collectors.core.collector import Collector, Memory
from collectors.core.levels import Standing, stand
from schemas.facts.endings import ending
from schemas.facts.files import Fact
from schemas.facts.units import STOPPING, Unit
from schemas.health import Health, Level
from schemas.probes import Probes
from schemas.services import ServiceState
from schemas.settings.services import ServiceMonitoring
from schemas.text import Text
from schemas.units import show_duration

KIND = "unit"

START_TIMEOUT = STOP_TIMEOUT = 90.0
"""Seconds that systemd gives a service unless it is told otherwise; taken where it is told to wait for ever."""


class Reading(NamedTuple):
    units: list[Unit]
    at: float
    """seconds of the monotonic clock, which systemd's times are told in"""


class Restarts(Fact):
    """Restarts by systemd, noticed between two looks."""

    at: AwareDatetime
    count: int


class UnitMemory(Fact):
    """What is remembered of one unit."""

    standing: Standing | None = None
    active: str = ""
    since: AwareDatetime
    """when it was first seen in that state"""
    invocation: str = ""
    result: Text = ""
    """how it had failed, until it runs again or is stopped by somebody"""
    ran: bool = False
    """it ran or tried to, as far as we saw or systemd still knew"""
    restarts: int = 0
    recent: tuple[Restarts, ...] = ()


class StateMemory(Memory):
    units: dict[str, UnitMemory] = Field(default_factory=dict)


def read(settings: ServiceMonitoring, probes: Probes, memory: StateMemory) -> Reading:
    """Every unit that is watched. One that is known is asked for by its name: stopped, systemd soon forgets it.

    Raises ProbeError where systemd does not run, or does not answer.
    """
    at = monotonic()
    units = probes.units.services([*settings.units, *memory.units])
    return Reading([unit for unit in units if settings.watches(*unit.names) and not unit.masked], at)


def judge(
    settings: ServiceMonitoring, reading: Reading, memory: StateMemory, now: datetime
) -> tuple[list[Health], StateMemory]:
    """An event for each unit. Those that are gone, masked or ignored by now are forgotten."""
    failed = frozenset(unit.name for unit in reading.units if unit.failed)
    events: list[Health] = []
    units: dict[str, UnitMemory] = {}
    for unit in reading.units:
        known = _remember(memory.units.get(unit.name), unit, settings, now)
        case = _Case(settings, unit, known, reading.at, now, failed)
        standing = stand(
            known.standing, case.level, case.eased, now, confirm=1, recent=3 * settings.every
        )  # what settles is waited for: no second sample is needed
        units[unit.name] = known.model_copy(update={"standing": standing})
        events.append(_event(case, standing.level))
    return events, memory.model_copy(update={"units": units})


def target_name(unit: str) -> str:
    return f"{KIND}:{unit}"


# ── what is remembered ────────────────────────────────────────────────────────────────────────────────────────────────


def _remember(known: UnitMemory | None, unit: Unit, settings: ServiceMonitoring, now: datetime) -> UnitMemory:
    ran = unit.running or unit.failed or unit.active_since is not None
    if known is None:
        return UnitMemory(
            active=unit.active, since=now, invocation=unit.invocation, restarts=unit.restarts, ran=ran,
            result=unit.result if unit.failed else "",
        )  # fmt: skip
    forgotten = not (unit.running or unit.failed) and not unit.invocation  # systemd lets go of what has stopped
    same = known.active == unit.active and (known.invocation == unit.invocation or forgotten)
    another_run = unit.running or unit.invocation not in {"", known.invocation}
    result = unit.result if unit.failed else "" if another_run else known.result
    return known.model_copy(
        update={
            "active": unit.active, "since": known.since if same and known.since <= now else now,
            "invocation": unit.invocation or known.invocation, "result": result, "ran": ran or known.ran,
            "restarts": unit.restarts, "recent": _recent(known, unit, settings, now),
        }
    )  # fmt: skip


def _recent(known: UnitMemory, unit: Unit, settings: ServiceMonitoring, now: datetime) -> tuple[Restarts, ...]:
    """When somebody started the unit, those before are no sign of flapping any more.

    systemd's own restarts count one up with each run; somebody's begins the count anew, or leaves it as it is.
    """
    counted_anew = unit.restarts < known.restarts
    more = unit.restarts if counted_anew else unit.restarts - known.restarts
    another_run = unit.invocation not in {"", known.invocation}
    before = () if counted_anew or (another_run and not more) else known.recent
    within = tuple(each for each in before if now - settings.flap_within < each.at <= now)
    return (*within, Restarts(at=now, count=more)) if more else within


# ── how one unit is judged ────────────────────────────────────────────────────────────────────────────────────────────


class _Case:
    """One unit, all that is known of it, and what follows."""

    def __init__(
        self, settings: ServiceMonitoring, unit: Unit, known: UnitMemory, at: float, now: datetime,
        failed: frozenset[str],
    ) -> None:  # fmt: skip
        self.settings = settings
        self.unit = unit
        self.known = known
        self.at = at
        self.now = now
        self.failed_units = failed
        self.settle = settings.settle.total_seconds()
        self.level, self.reason = self._judged()

    @property
    def recent(self) -> int:
        return sum(each.count for each in self.known.recent)

    @property
    def flaps(self) -> bool:
        return self.recent >= self.settings.flap_restarts

    @property
    def stopped_on_purpose(self) -> bool:
        """It ran or had failed, and now it is down without being failed: a stop, or a reset, is somebody's word.

        So is a stop at which it did not end in order.
        """
        unit = self.unit
        if unit.failed_when_stopped:
            return True
        down = unit.active == "inactive" and self.known.ran and not unit.occasional
        return down and (bool(self.known.result) or not (unit.ended_by_itself or unit.sockets))

    @property
    def eased(self) -> Level:
        """A unit counts as back when it has run for a while, and as given up when it is down without being failed.

        Until then its level stays.
        """
        stable = self.unit.running and self._age(self.unit.active_since) >= self.settings.stable_for.total_seconds()
        given_up = self.unit.active == "inactive" or self.unit.failed_when_stopped
        return self.level if stable or given_up else Level.CRITICAL

    def _age(self, since: float | None) -> float:
        """Seconds, by systemd's word, or since it was first seen like this: the longer of both."""
        seen = (self.now - self.known.since).total_seconds()
        return max(seen, self.at - since if since is not None else 0.0)

    def _judged(self) -> tuple[Level, str]:
        unit = self.unit
        if unit.failed:
            return self._failed()
        if self.flaps:
            within = show_duration(self.settings.flap_within)
            return Level.WARNING, f"{unit.name} flaps: systemd restarted it {self.recent} times within {within}"
        if unit.running:
            return Level.OK, f"{unit.name} runs"
        if unit.active == "inactive":
            return self._inactive()
        return self._between()

    def _failed(self) -> tuple[Level, str]:
        down, unit = self._age(self.unit.inactive_since), self.unit
        if unit.failed_when_stopped:
            return self._failed_when_stopped(down)
        reason = f"{unit.name} failed {show_duration(down)} ago: {ending(unit)}"
        if down < self.settle:
            return Level.OK, f"{reason}; it is told as failed after {show_duration(self.settle)}"
        if unit.occasional:
            return Level.WARNING, f"{reason}; it runs on occasion only, so it is not restarted"
        return Level.CRITICAL, reason

    def _failed_when_stopped(self, down: float) -> tuple[Level, str]:
        """One that can announce its end to systemd may have done so by itself, before it failed."""
        unit = self.unit
        reason = f"{unit.name} was stopped {show_duration(down)} ago, and only did not end in order: {ending(unit)}"
        if unit.type.startswith("notify"):
            return Level.WARNING, f"{reason}; unless it gave up by itself, all is well"
        return Level.OK, reason

    def _inactive(self) -> tuple[Level, str]:
        unit, down = self.unit, self._age(self.unit.inactive_since)
        if self.known.result:
            return Level.OK, f"{unit.name} had failed and was reset: it is down until somebody starts it"
        if unit.ended_by_itself and unit.enabled.startswith("enabled") and not (unit.occasional or unit.sockets):
            reason = f"{unit.name} is enabled and ended in order {show_duration(down)} ago, though nobody stopped it"
            return (Level.WARNING if down >= self.settle else Level.OK), reason
        if unit.occasional:
            return Level.OK, f"{unit.name} waits for its time"
        if self.stopped_on_purpose:
            return Level.OK, f"{unit.name} was stopped on purpose"
        if self.known.ran:
            return Level.OK, f"{unit.name} ended in order"
        return Level.OK, f"{unit.name} does not run, and did not since it is watched"

    def _between(self) -> tuple[Level, str]:
        """activating, deactivating, and what later versions may bring."""
        unit = self.unit
        if unit.type == "oneshot" and not unit.restarting:
            return Level.OK, f"{unit.name} is at work"
        stopping = unit.active in STOPPING
        if unit.restarting:
            what, limit = "waits to be restarted by systemd", self.settle + unit.restart_delay
        elif stopping:
            what, limit = "is being stopped", self.settle + (unit.stop_timeout or STOP_TIMEOUT)
        else:
            what, limit = "is being started", self.settle + (unit.start_timeout or START_TIMEOUT)
        age = (self.now - self.known.since).total_seconds()
        reason = f"{unit.name} {what} since {show_duration(age)}"
        return (Level.WARNING, f"{reason}, which is too long") if age >= limit else (Level.OK, reason)


# ── the events ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _event(case: _Case, level: Level) -> ServiceState:
    unit, reason = case.unit, case.reason
    if level.rank > case.level.rank:
        reason = f"{reason}; it counts as back when it has run for {show_duration(case.settings.stable_for)}"
    return ServiceState(
        target=target_name(unit.name), level=level, reason=reason, observed_at=case.now, unit=unit.name,
        active=unit.active, sub=unit.sub, result=unit.result, exit_status=unit.exit_status, restarts=unit.restarts,
        recent_restarts=case.recent, invocation=unit.invocation, enabled=unit.enabled,
        stopped_on_purpose=case.stopped_on_purpose, findings=tuple(_findings(case, level)),
    )  # fmt: skip


def _findings(case: _Case, level: Level) -> Iterator[str]:
    unit = case.unit
    if level is Level.OK:
        return
    if unit.result == "oom-kill":
        yield "memory ran out: memory.contain_leak tells whether it grows, and what could be done"
    for name in unit.requires:
        if name in case.failed_units:
            yield f"{name}, which it needs, has failed too"
    if unit.reload_needed:
        yield f"its unit file changed on disk and is not in force: systemctl daemon-reload, then see {unit.fragment}"
    if case.settings.protects(*unit.names):
        yield "it is protected: nothing is done about it by itself"


def unknown(_memory: StateMemory, target: str, reason: str, now: datetime) -> ServiceState:
    """The event about a unit of which nothing is known now."""
    kind, _, name = target.partition(":")
    return ServiceState(
        target=target, level=Level.UNKNOWN, reason=reason, observed_at=now, unit=name if kind == KIND else ""
    )


COLLECTOR = Collector(
    name="services.state",
    title="Services of systemd that failed, flap, or do not come up",
    section_name="service_monitoring",
    section=ServiceMonitoring,
    health=ServiceState,
    memory=StateMemory,
    read=read,
    judge=judge,
    unknown=unknown,
)
