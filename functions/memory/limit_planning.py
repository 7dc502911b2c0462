"""The plan for the limits of one service: lift what strangles it, then set what is missing. Pure."""

from collections.abc import Iterator
from fnmatch import fnmatchcase

from functions.core.plan import Action, Plan, Rung
from functions.core.remedy import Case
from functions.memory import limit_notices as notices
from functions.memory.limit_actions import LimitContainer, LimitControlGroup, LimitUnit, ReleaseHigh
from functions.memory.limits import (
    LimitsFound,
    LimitsSeen,
    Missing,
    companion,
    least,
    missing,
    no_high,
    strangled,
    strangling,
)
from functions.memory.permission import OWN_CONTAINERS
from schemas.facts.containers import Container
from schemas.facts.units import Unit
from schemas.remediation import Finding
from schemas.settings.memory import MemoryMonitoring
from schemas.settings.services import PROTECTED_UNITS

RELEASE, LIMIT = "release_high", "limit"

SWAP = 2
"""× the maximum is what an engine gives for memory and swap together when it is told the maximum only (docker run)."""


def plan(case: Case[MemoryMonitoring], seen: LimitsSeen, found: LimitsFound) -> Plan:
    """One action for what strangles, and one for all that is missing."""
    return _Planner(case, seen, found).plan()


class _Planner:
    def __init__(self, case: Case[MemoryMonitoring], seen: LimitsSeen, found: LimitsFound) -> None:
        self._case = case
        self._target = case.target
        self._settings = case.settings.of(case.target)
        self._seen = seen
        self._found = found
        self._need = missing(case, seen)

    def plan(self) -> Plan:
        forbidden = list(self._forbidden())
        if forbidden:
            return Plan(findings=(*self._found.findings, *forbidden))
        rungs = tuple(rung for rung in (self._release(), self._limit()) if rung is not None)
        return Plan(rungs=rungs, findings=(*self._found.findings, *self._told()))

    # ── rungs ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _release(self) -> Rung | None:
        if not strangled(self._case, self._seen) or RELEASE in self._case.skip_rungs:
            return None
        unit, high = self._found.unit, self._seen.high or 0
        if unit is not None:
            action = ReleaseHigh(
                unit=unit.name, invocation=unit.invocation, high_before=high, maximum=unit.memory_max
            )  # fmt: skip
        else:
            action = ReleaseHigh(group=self._found.group, high_before=high, maximum=self._seen.maximum)
        return Rung(name=RELEASE, title="Lift a MemoryHigh that strangles", actions=(action,))

    def _limit(self) -> Rung | None:
        if not self._need.amount or self._too_small() or LIMIT in self._case.skip_rungs:
            return None
        return Rung(
            name=LIMIT, title="Hold the service to its limits", actions=(self._action(),),
            unknown_effects="how the service fares when it is slowed, or when an allocation fails",
        )  # fmt: skip

    def _too_small(self) -> bool:
        """A maximum so near that it would be met at once; a high that is, is none that is missing."""
        return self._need.maximum is not None and self._need.maximum < least(self._case, self._seen)

    def _action(self) -> Action:
        """Held to what is missing; the other limit stays as it is."""
        if self._found.unit is not None:
            return self._unit(self._found.unit)
        if self._found.container is not None:
            return self._container(self._found.container)
        need, seen = self._need, self._seen
        return LimitControlGroup(
            target=self._target, group=self._found.group, instance=seen.instance, closes=need.amount,
            high=_new(need.high, seen.high), high_before=seen.high,
            maximum=_new(need.maximum, seen.maximum), maximum_before=seen.maximum,
        )  # fmt: skip

    def _unit(self, unit: Unit) -> LimitUnit:
        """Both are written: one that systemd does not know of, but the kernel has, would be gone."""
        need, seen = self._need, self._seen
        return LimitUnit(
            unit=unit.name, invocation=unit.invocation, closes=need.amount,
            high=_new(need.high, _new(unit.memory_high, seen.high)), high_before=unit.memory_high,
            maximum=_new(need.maximum, _new(unit.memory_max, seen.maximum)), maximum_before=unit.memory_max,
        )  # fmt: skip

    def _container(self, container: Container) -> LimitContainer:
        maximum, swap = self._need.maximum, container.memory_swap_limit
        assert maximum is not None  # it has no high, so that is what is missing
        return LimitContainer(
            engine=container.engine, container=container.id, name=container.name, closes=self._need.amount,
            maximum=maximum, maximum_before=container.memory_limit,
            swap=swap if swap is not None and swap >= maximum else SWAP * maximum, swap_before=swap,
        )  # fmt: skip

    # ── what is told ──────────────────────────────────────────────────────────────────────────────────────────────

    def _forbidden(self) -> Iterator[Finding]:
        """Why nothing at all is touched."""
        target, unit, container = self._target, self._found.unit, self._found.container
        if self._found.instance != self._seen.instance:
            yield notices.not_held(target, "it was restarted just now")
        if self._found.ours:
            yield notices.not_held(target, "it is what looks after it", "limit it in its unit file")
        if unit is not None:
            yield from _unit_forbids(target, unit)
        elif container is not None:
            yield from _container_forbids(target, container)
        else:
            yield from _group_forbids(target, self._found)

    def _told(self) -> Iterator[Finding]:
        case, seen, need, high = self._case, self._seen, self._need, self._settings.high
        if strangled(case, seen):
            yield Finding(title=f"{self._target}: {strangling(seen)}")
        why = no_high(case, seen)
        if high is not None and why and not (seen.high is not None and seen.high <= high):
            yield notices.without_high(self._target, high, why)
        if need.maximum is not None and self._too_small():
            yield notices.too_small(self._target, need.maximum, seen, least(case, seen))
        elif need.amount and LIMIT in case.skip_rungs:
            yield notices.in_vain(self._target)
        elif need.amount:
            yield from notices.smaller(self._target, need, seen)
            yield from notices.after_a_kill(self._target, self._found)
            yield from notices.to_keep(self._kept(), self._found)

    def _kept(self) -> Missing:
        """What would be kept: the settings', without a high that can't be held, with the maximum that goes with one."""
        wanted = self._settings
        high = None if no_high(self._case, self._seen) else wanted.high
        return Missing(high, companion(high) if high is not None and wanted.maximum is None else wanted.maximum)


def _new(wanted: int | None, held: int | None) -> int | None:
    return held if wanted is None else wanted


def _unit_forbids(target: str, unit: Unit) -> Iterator[Finding]:
    names = {unit.name, target.partition(":")[2]}
    glob = next((glob for glob in PROTECTED_UNITS if any(fnmatchcase(name, glob) for name in names)), "")
    if glob:
        yield notices.not_held(target, f"it is protected ({glob})", "limit it in its unit file")
    if unit.delegated:
        yield notices.not_held(
            target, "its control groups are managed by itself (Delegate=)", "limit what runs in it, there",
            ("systemctl", "cat", unit.name),
        )  # fmt: skip
    if unit.masked:
        yield notices.not_held(target, "it is masked: somebody forbade it to run")
    if unit.job:
        yield notices.not_held(target, "something else is being done with it", "", ("systemctl", "list-jobs"))


def _container_forbids(target: str, container: Container) -> Iterator[Finding]:
    glob = next((glob for glob in OWN_CONTAINERS if fnmatchcase(container.name, glob)), "")
    if glob:
        yield notices.not_held(target, f"it is protected ({glob})", "limit it when it is created")
    if not container.engine:
        yield notices.not_held(target, "its engine does not tell its name")


def _group_forbids(target: str, found: LimitsFound) -> Iterator[Finding]:
    if found.manager:
        yield notices.not_held(target, f"its control group is managed by {found.manager}", "limit that instead")
    elif found.strangers:
        yield notices.not_held(
            target, f"{found.strangers} processes of others are in its control group, and would be limited with it",
            "match them as well in memory_monitoring.processes, or run it in a group of its own, such as a unit",
        )  # fmt: skip
