"""Bring back a unit that failed or flaps: clear what keeps it down, check its configuration, start it."""

from time import monotonic

from functions.core.remedy import Case, Remedy
from functions.services.actions import EndStaleProcesses, RemoveStaleFiles, RestartUnit, StartAnew, StartUnit
from functions.services.facts import Seen
from functions.services.judgement import gap
from functions.services.planning import plan
from functions.services.survey import survey
from schemas.probes import ProbeError, Probes
from schemas.services import ServiceState
from schemas.settings.services import ServiceMonitoring

KIND = "unit"


def targets(settings: ServiceMonitoring, probes: Probes) -> list[str]:
    """Every unit that is watched and not masked. Raises ProbeError."""
    units = probes.units.services(settings.units)
    return [f"{KIND}:{unit.name}" for unit in units if settings.watches(*unit.names) and not unit.masked]


def observe(case: Case[ServiceMonitoring], probes: Probes) -> Seen:
    """What systemd says of it. Raises ProbeError."""
    kind, _, name = case.target.partition(":")
    if kind != KIND or not name:
        raise ProbeError(f"{case.target!r} is no target of services.restart_failed; they look like unit:nginx.service")
    at = monotonic()
    return Seen(unit=probes.units.unit(name), at=at)


REMEDY = Remedy(
    name="services.restart_failed",
    title="Bring back units that failed or flap, unless somebody stopped them",
    section_name="service_monitoring",
    section=ServiceMonitoring,
    listens=(ServiceState,),
    actions=(EndStaleProcesses, RemoveStaleFiles, StartUnit, StartAnew, RestartUnit),
    targets=targets,
    observe=observe,
    gap=gap,
    survey=survey,
    plan=plan,
    plans_ahead=False,
    resources=lambda case: (f"service:{case.target}",),  # whoever restarts or limits this service does so alone
    privileges=(
        "root, or polkit's leave, to start, restart and reset units",
        "root, to see who holds a port, to end what is left of a unit, and to remove its pid and lock files",
        "root, to check the configuration of services that only root may read",
    ),
)
