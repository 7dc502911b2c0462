"""How one unit is, from what was read and what its collector said of its past. Pure."""

from datetime import timedelta

from functions.core.remedy import Case
from functions.services.facts import Seen
from schemas.facts.endings import ending
from schemas.facts.units import STOPPING, Unit
from schemas.health import Level
from schemas.remediation import Gap
from schemas.services import ServiceState
from schemas.settings.services import ServiceMonitoring
from schemas.units import show_duration

UNITS = "units"

STOPPED = STOPPING | {"inactive"}


def gap(case: Case[ServiceMonitoring], seen: Seen) -> Gap:
    """1 for a unit that is to be brought back. One that runs, but not for long yet, is healthy for now only."""
    unit = seen.unit
    if unit is None:
        return _healthy(f"systemd knows no unit {case.target.partition(':')[2]}")
    if unit.masked:
        return _healthy(f"{unit.name} is masked: somebody forbade it to run")
    if unit.failed_when_stopped:
        return _healthy(f"{unit.name} was stopped, and only did not end in order: {ending(unit)}")
    if unit.failed:
        return _broken(f"{unit.name} failed: {ending(unit)}")
    if flaps(case, seen):
        return _broken(f"{unit.name} flaps: systemd restarted it {unit.restarts} times since somebody started it")
    if unit.running:
        return _running(case, unit, seen.at)
    if unit.active == "inactive":
        if was_reset(case, unit):
            return _broken(f"{unit.name} failed, and its failure was cleared; it was not started since")
        return _healthy(f"{unit.name} does not run and has not failed: it was stopped on purpose, or ended in order")
    return _healthy(f"{unit.name} is {unit.active} ({unit.sub}): systemd is at it", provisional=True)


def _running(case: Case[ServiceMonitoring], unit: Unit, at: float) -> Gap:
    """By when this very run began: one more restart begins another."""
    runs, wanted = at - (unit.active_since if unit.active_since is not None else at), case.settings.stable_for
    if runs < wanted.total_seconds():
        reason = f"{unit.name} runs since {show_duration(max(0.0, runs))}, and is back after {show_duration(wanted)}"
        return _healthy(reason, provisional=True)
    return _healthy(f"{unit.name} runs since {show_duration(runs)}")


def _healthy(reason: str, *, provisional: bool = False) -> Gap:
    return Gap(amount=0, unit=UNITS, reason=reason, provisional=provisional)


def _broken(reason: str) -> Gap:
    return Gap(amount=1, unit=UNITS, reason=reason)


def flaps(case: Case[ServiceMonitoring], seen: Seen) -> bool:
    """What no single read can tell is believed of the collector, unless somebody started the unit since it spoke, or
    systemd itself counts fewer restarts.

    One that is down, or about to be, was stopped by somebody, however often it was restarted before. One that runs for
    longer than it may between two restarts has calmed down.
    """
    settings, unit = case.settings, seen.unit
    heard = _heard(case, settings.flap_within)
    if heard is None or unit is None or unit.active in STOPPED:
        return False
    calm = max(settings.stable_for, settings.flap_within / settings.flap_restarts)
    if unit.running and unit.active_since is not None and seen.at - unit.active_since >= calm.total_seconds():
        return False
    recent = min(heard.recent_restarts, unit.restarts)
    return recent >= settings.flap_restarts and not _started_since(unit, heard)


def _started_since(unit: Unit, heard: ServiceState) -> bool:
    """By somebody: systemd's own restarts count one up with each run, and a start may begin the count anew."""
    another_run = unit.invocation not in {"", heard.invocation}
    return unit.restarts < heard.restarts or (another_run and unit.restarts == heard.restarts)


def was_reset(case: Case[ServiceMonitoring], unit: Unit) -> bool:
    """It failed when it was heard of last, and now is merely down: systemctl reset-failed, ours or somebody's.

    Somebody's is heard of with the collector's next look, which then says that it is meant to be down.
    """
    heard = _heard(case, 2 * case.settings.steady_every)
    if heard is None or unit.active != "inactive":
        return False
    told = heard.active == "failed" and heard.level.rank >= Level.WARNING.rank
    return told and unit.invocation in {"", heard.invocation}


def _heard(case: Case[ServiceMonitoring], within: timedelta) -> ServiceState | None:
    heard = case.heard
    if not isinstance(heard, ServiceState) or heard.target != case.target or case.now - heard.observed_at > within:
        return None
    return heard
