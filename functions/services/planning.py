"""The ladder for one unit: what is in its way, then what brings it back. Pure."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from functions.core.plan import Action, Plan, Rung
from functions.core.remedy import Case
from functions.services import notices
from functions.services.actions import EndStaleProcesses, RemoveStaleFiles, RestartUnit, StartAnew, StartUnit
from functions.services.facts import Found, Holder, Seen
from functions.services.judgement import flaps
from schemas.facts.units import Unit
from schemas.remediation import Finding
from schemas.settings.services import ServiceMonitoring

PATIENCE = 10.0
"""Seconds beyond the unit's own timeouts: systemd is to end a job that hangs, not we."""

UNLIMITED = 90.0
"""Seconds that are waited for a job of a unit without a timeout of its own; it then goes on without us."""

WHETHER_IT_STAYS = "whether it stays up, which only time shows"

ANEW = "start_anew"
"""Rung that clears systemd's count of starts. It frees nothing for sure, so when it is of no help the engine leaves it
out of the next attempts: it is not cleared twice soon."""

PACEMAKER = "/50-pacemaker.conf"
"""Drop-in that Pacemaker puts beside each unit while it runs it."""


def plan(case: Case[ServiceMonitoring], seen: Seen, found: Found) -> Plan:
    """Empty, with the reason as a finding, when the unit is not to be touched now."""
    unit = seen.unit
    if unit is None or unit.masked or unit.failed_when_stopped:
        return Plan()
    told = (*notices.why(unit), *found.findings, *notices.what_to_do(unit))
    held = list(_obstacles(case, seen, unit, found)) or list(_too_often(case, unit, seen.at))
    if held:
        return Plan(findings=(*held, *told))
    stale, others = _sorted(unit, found.holders)
    rungs = tuple(_rungs(case, unit, seen.at, found, stale))
    return Plan(rungs=rungs, findings=(*notices.held_by_others(unit, others), *told))


# ── what stands in the way ────────────────────────────────────────────────────────────────────────────────────────────


def _obstacles(case: Case[ServiceMonitoring], seen: Seen, unit: Unit, found: Found) -> Iterator[Finding]:
    """Why nothing may be done with it, all reasons."""
    settings = case.settings
    if not unit.failed and not flaps(case, seen):
        yield notices.was_reset(unit)
    if settings.protects(*unit.names):
        yield notices.protected(unit.name)
    if not settings.may_restart(*unit.names):
        yield notices.not_permitted(unit.name)
    if found.ours:
        yield notices.ours(unit)
    if any(path.endswith(PACEMAKER) for path in unit.drop_ins):
        yield notices.managed(unit)
    if unit.failure_action != "none":
        yield notices.endangers(unit)
    if unit.occasional:
        yield notices.occasional(unit)
    if unit.job:
        yield notices.busy(unit)
    if _refuses(unit):
        yield notices.refuses(unit)
    if unit.reload_needed:
        yield notices.reload_needed(unit)
    yield from _ties(settings, unit, found)
    if found.check is not None and not found.check.passed:
        yield notices.check_failed(unit, found.check)


def _refuses(unit: Unit) -> bool:
    start = unit.refuses_manual_start or not unit.can_start
    return start or (not unit.failed and (unit.refuses_manual_stop or not unit.can_stop))


def _ties(settings: ServiceMonitoring, unit: Unit, found: Found) -> Iterator[Finding]:
    """Units that are to be healed first, or that it would start, stop or restart along though that is not to be."""
    for other in found.others:
        required = other.name in unit.requires
        if required and other.failed and not other.failed_when_stopped:
            yield notices.needs(unit, other)
        elif _meant_to_be_down(settings, other, required=required):
            yield notices.would_start(unit, other)
    if found.stopped_along:
        yield notices.would_stop(unit, found.stopped_along)
    if not unit.failed:
        protected = [name for name in found.restarted_along if settings.protects(name)]
        if protected:
            yield notices.touches_protected(unit, protected)


def _meant_to_be_down(settings: ServiceMonitoring, other: Unit, *, required: bool) -> bool:
    if other.masked:
        return required  # one that is only wanted is passed by
    if other.failed_when_stopped:
        return True
    if other.failed:
        return other.occasional or settings.protects(*other.names) or not settings.may_restart(*other.names)
    ran = other.active_since is not None
    return ran and other.type != "oneshot" and not other.ended_by_itself and not other.sockets


def _too_often(case: Case[ServiceMonitoring], unit: Unit, at: float) -> Iterator[Finding]:
    """Our start is one more that systemd counts: it must leave half of them, unless the time for counting is over."""
    wait = _counted_for(unit, at)
    if wait <= 0:
        return
    if unit.out_of_starts:
        if ANEW in case.skip_rungs:
            yield notices.start_limit(unit, wait)
    elif 2 * (unit.restarts + 2) > unit.start_limit_burst:  # the first start, systemd's, and ours
        yield notices.start_limit(unit, wait)


def _counted_for(unit: Unit, at: float) -> float:
    """Seconds for which systemd still counts the unit's latest start, at most; 0 when it does not count."""
    if unit.start_limit_burst <= 0 or unit.start_limit_interval <= 0:
        return 0.0
    moments = (unit.active_since, unit.main_ended if unit.failed else None, unit.inactive_since)
    latest = max((moment for moment in moments if moment is not None), default=None)
    return 0.0 if latest is None else latest + unit.start_limit_interval - at


# ── what is done ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _rungs(
    case: Case[ServiceMonitoring], unit: Unit, at: float, found: Found, stale: Sequence[Holder]
) -> Iterator[Rung]:
    """A unit that is down waits for no maintenance window: what a start would prevent has come already."""
    due = None if unit.running else case.now
    if stale:
        yield _rung("end_stale_processes", "Processes that outlived it", _end(case, unit, stale), due)
    if found.stale_files:
        files = RemoveStaleFiles(unit=unit.name, files=found.stale_files, groups=(own_group(unit),))
        yield _rung("remove_stale_files", "Files that it left behind", files, due)
    run: dict[str, Any] = {"unit": unit.name, "invocation": unit.invocation}
    if not unit.failed:
        timeout = _start_time(unit) + _stop_time(unit)
        restart = RestartUnit(**run, dependants=found.restarted_along, timeout=timeout)
        yield _rung("restart", "Restart it", restart, due, WHETHER_IT_STAYS)
    elif unit.out_of_starts and _counted_for(unit, at) > 0:
        anew = StartAnew(**run, timeout=_start_time(unit))
        yield _rung(ANEW, "Start it, though systemd gave up", anew, due, WHETHER_IT_STAYS)
    else:
        yield _rung("start", "Start it", StartUnit(**run, timeout=_start_time(unit)), due, WHETHER_IT_STAYS)


def _rung(name: str, title: str, action: Action, due: datetime | None, unknown_effects: str = "") -> Rung:
    return Rung(name=name, title=title, actions=(action,), unknown_effects=unknown_effects, due=due)


def _start_time(unit: Unit) -> float:
    return (UNLIMITED if unit.start_timeout is None else unit.start_timeout) + PATIENCE


def _stop_time(unit: Unit) -> float:
    return UNLIMITED if unit.stop_timeout is None else unit.stop_timeout


def _end(case: Case[ServiceMonitoring], unit: Unit, stale: Sequence[Holder]) -> EndStaleProcesses:
    return EndStaleProcesses(
        unit=unit.name, processes=tuple({holder.process.pid: holder.process for holder in stale}.values()),
        ports=tuple(sorted({holder.port for holder in stale})), grace=case.settings.stop_grace.total_seconds(),
    )  # fmt: skip


def _sorted(unit: Unit, holders: Sequence[Holder]) -> tuple[list[Holder], list[Holder]]:
    """Those that are left of the unit, and those of others; while a run of it is under way, none is left over.

    systemd puts each process of a service into the service's control group, where it stays: who is elsewhere is
    another's, or was started by hand, however much its command looks like ours.
    """
    group = own_group(unit)
    stale = [
        holder
        for holder in holders
        if unit.at_rest
        and (holder.group == group or holder.group.startswith(f"{group}/"))
        and notices.unit_of(holder.group) == unit.name
    ]
    return stale, [holder for holder in holders if holder not in stale]


def own_group(unit: Unit) -> str:
    """Where its processes are, or would be: below its slices, each of which is named after those above it."""
    if unit.control_group:
        return unit.control_group
    parts = (unit.slice or "system.slice").removesuffix(".slice").strip("-").split("-")
    slices = ["-".join(parts[: number + 1]) for number in range(len(parts)) if parts != [""]]
    return "".join(f"/{name}.slice" for name in slices) + f"/{unit.name}"
