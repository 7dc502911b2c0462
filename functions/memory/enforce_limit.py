"""Hold services to the memory limits that the settings give them, through whoever owns their control groups."""

import os
import re
from collections.abc import Callable, Iterable

from functions.core.remedy import Case, Remedy
from functions.memory import notices, services
from functions.memory.facts import State
from functions.memory.limit_actions import LimitContainer, LimitControlGroup, LimitUnit, ReleaseHigh
from functions.memory.limit_planning import plan
from functions.memory.limits import LimitsFound, LimitsSeen, limits_gap
from schemas.facts.cgroups import ControlGroupMemory, HostMemory, Pressure
from schemas.facts.containers import Container
from schemas.facts.endings import ending
from schemas.facts.instances import instance_of_container, instance_of_processes, instance_of_unit
from schemas.facts.processes import ProcessIdentity
from schemas.memory import MemoryTrend
from schemas.probes import ProbeError, Probes
from schemas.remediation import Finding
from schemas.settings.memory import MemoryMonitoring

UNITS = re.compile(r"/([^/]+\.(?:service|scope|slice))(?=/|$)")
ENGINES = re.compile(
    r"^/(?:docker|podman|libpod|libpod_parent|kubepods|crio|buildkit|lxc(?:\.[a-z.]+)?|machine|garden)(?:/|$)"
    r"|[0-9a-f]{64}"
)
"""How container engines name the groups that they make: by themselves, or by a container's id."""


def targets(settings: MemoryMonitoring, probes: Probes) -> list[str]:
    """The watched services that are here and for which a limit is configured. Raises ProbeError."""
    if not any(settings.limits(glob) for glob in settings.services):
        return []
    return [target for target in services.targets(settings, probes) if settings.limits(target)]


def observe(case: Case[MemoryMonitoring], probes: Probes) -> LimitsSeen:
    """What it uses, and the limits that the kernel holds it to. Raises ProbeError."""
    kind, _, name = case.target.partition(":")
    look = _LOOKS.get(kind)
    if look is None or not name:
        raise ProbeError(
            f"{case.target!r} is no target of memory.enforce_limit; they look like unit:app.service, container:web or"
            " process:worker"
        )
    if not case.settings.limits(case.target):
        reason = f"memory_monitoring.services gives {case.target} neither high nor maximum"
        return LimitsSeen(state=State.RUNNING, reason=reason)
    return look(case, name, probes)


def _unit(_: Case[MemoryMonitoring], name: str, probes: Probes) -> LimitsSeen:
    unit = services.unit_of(name, probes)
    if unit.active in services.CHANGING:
        return LimitsSeen(state=State.CHANGING, reason=f"{name} is {unit.active} ({unit.sub})")
    if unit.failed:
        return LimitsSeen(state=State.FAILED, reason=f"{name} failed, so it can't be held to a limit: {ending(unit)}")
    if unit.active not in services.RUNNING or not unit.control_group:
        return LimitsSeen(state=State.STOPPED, reason=f"{name} does not run ({unit.active}, {unit.sub})")
    return _of_group(instance_of_unit(unit), unit.control_group, probes)


def _container(_: Case[MemoryMonitoring], name: str, probes: Probes) -> LimitsSeen:
    container = probes.containers.container(name)
    if container is None:
        return LimitsSeen(state=State.STOPPED, reason=f"no container {name} runs")
    return _of_group(instance_of_container(container), services.group_of_container(container), probes)


def _process(case: Case[MemoryMonitoring], name: str, probes: Probes) -> LimitsSeen:
    found = services.matching(case, name, probes)
    if not found:
        return LimitsSeen(state=State.STOPPED, reason=f"no process matches memory_monitoring.processes.{name}")
    return _of_group(instance_of_processes(found), _group_of(found, probes), probes)


_LOOKS: dict[str, Callable[[Case[MemoryMonitoring], str, Probes], LimitsSeen]] = {
    "unit": _unit, "container": _container, "process": _process,
}  # fmt: skip


def _group_of(processes: Iterable[ProcessIdentity], probes: Probes) -> str:
    """Where the oldest is; those elsewhere are then not held to a limit."""
    oldest = min(processes, key=lambda process: (process.started, process.pid))
    return probes.memory.control_group_of(oldest.pid)


def _of_group(instance: str, path: str, probes: Probes) -> LimitsSeen:
    group = probes.memory.control_group(path)
    pressure = group.pressure or Pressure()
    return LimitsSeen(
        state=State.RUNNING, instance=instance, version=group.version, usage=group.usage,
        working_set=group.working_set, high=group.high, maximum=group.maximum, limit=group.limit,
        limit_at=group.limit_at, high_events=group.high_events, swap_free=_swap_free(group, probes.memory.host()),
        full60=pressure.full60, pressed=group.strangled(),
    )  # fmt: skip


def _swap_free(group: ControlGroupMemory, host: HostMemory) -> int:
    """Bytes that it can still be swapped out to: those of the host, as far as it may have them."""
    own = host.swap_free if group.swap_limit is None else group.swap_limit - group.swap
    return max(0, min(host.swap_free, own))


# ── a closer look ─────────────────────────────────────────────────────────────────────────────────────────────────────


def survey(case: Case[MemoryMonitoring], _: LimitsSeen, probes: Probes) -> LimitsFound:
    """Who would hold it to a limit. Raises ProbeError."""
    kind, name = case.target.split(":", 1)
    if kind == "unit":
        unit = services.unit_of(name, probes)
        ours = _ours(probes, unit.control_group)
        return LimitsFound(instance=instance_of_unit(unit), unit=unit, ours=ours)
    if kind == "container":
        container = probes.containers.container(name)
        if container is None:
            raise ProbeError(f"no container {name} runs any more")
        ours = _ours(probes, container.control_group)
        return LimitsFound(instance=instance_of_container(container), container=container, ours=ours)
    return _survey_group(services.matching(case, name, probes), probes)


def _ours(probes: Probes, path: str) -> bool:
    return bool(path) and os.getpid() in probes.memory.processes(path)


def _survey_group(processes: list[ProcessIdentity], probes: Probes) -> LimitsFound:
    if not processes:
        raise ProbeError("none of its processes runs any more")
    path, findings = _group_of(processes, probes), []
    inside = probes.memory.processes(path)
    try:
        containers = probes.containers.running()
    except ProbeError as error:  # their groups are known by their names as well
        containers = []
        findings.append(notices.unreadable("containers", str(error)))
    return LimitsFound(
        instance=instance_of_processes(processes), group=path, manager=manager_of(path, containers),
        strangers=len(set(inside) - {process.pid for process in processes}), ours=os.getpid() in inside,
        findings=(*findings, *_elsewhere(processes, inside)),
    )  # fmt: skip


def _elsewhere(processes: list[ProcessIdentity], inside: Iterable[int]) -> list[Finding]:
    outside = {process.pid for process in processes} - set(inside)
    title = f"{len(outside)} of its processes are in other control groups, and not held to these limits"
    return [Finding(title=title)] if outside else []


def manager_of(path: str, containers: Iterable[Container]) -> str:
    """Who manages a control group, by its path: also one below another's, which that one has delegated. Pure."""
    if path in {"", "/"}:
        return "nobody but the kernel: it is the topmost one, of all processes"
    around = next((each for each in containers if each.control_group and _is_below(path, each.control_group)), None)
    if around is not None:
        return f"container:{around.name}"
    units = UNITS.findall(path)
    if units:
        return f"systemd, as {units[-1]}"
    return "a container engine" if ENGINES.search(path) else ""


def _is_below(path: str, top: str) -> bool:
    return f"{path}/".startswith(f"{top.rstrip('/')}/")


REMEDY = Remedy(
    name="memory.enforce_limit",
    title="Hold services to their configured memory limits",
    section_name="memory_monitoring",
    section=MemoryMonitoring,
    listens=(MemoryTrend,),
    actions=(LimitUnit, LimitContainer, LimitControlGroup, ReleaseHigh),
    targets=targets,
    observe=observe,
    gap=limits_gap,
    survey=survey,
    plan=plan,
    resources=lambda case: (f"service:{case.target}",),
    plans_ahead=False,
    extras=("containers",),
    privileges=(
        "root, or the right to manage units (polkit), to set their properties",
        "access to the container engine's socket, to see containers and set their limits",
        "root, to write limits of control groups that nobody manages",
    ),
)
