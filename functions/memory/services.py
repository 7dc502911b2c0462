"""One service through the probes: a unit of systemd, a container, or processes that match. Raises ProbeError."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import NamedTuple

from functions.core.remedy import Case, is_glob
from functions.memory.facts import Seen, State
from functions.memory.judgement import heard_of
from schemas.facts.cgroups import ControlGroupMemory
from schemas.facts.containers import Container
from schemas.facts.endings import ending
from schemas.facts.instances import instance_of_container, instance_of_processes, instance_of_unit
from schemas.facts.processes import ProcessIdentity
from schemas.facts.units import Unit
from schemas.health import Level
from schemas.probes import Absent, ProbeError, Probes
from schemas.settings.memory import MemoryMonitoring

RUNNING = frozenset({"active", "reloading", "refreshing"})
CHANGING = frozenset({"activating", "deactivating"})

HOST = "host"

STABLE = timedelta(seconds=60)
"""A replica that runs for less can't carry on alone: a unit is active long before it serves."""


def targets(settings: MemoryMonitoring, probes: Probes) -> list[str]:
    """The services that the settings watch and that are here now.

    A host may lack systemd, or containers. Raises ProbeError when nothing at all could be found, since one is silent.
    """
    found: list[str] = []
    problems: list[str] = []
    for source in (_units, _containers, _matches):
        try:
            found += [target for target in source(settings, probes) if settings.watches(target)]
        except Absent:
            continue
        except ProbeError as error:
            problems.append(str(error))
    if problems and not found:
        raise ProbeError("; ".join(problems))
    return sorted(set(found))


def _units(settings: MemoryMonitoring, probes: Probes) -> Iterable[str]:
    return [f"unit:{unit.name}" for unit in probes.units.services(settings.units) if unit.active != "inactive"]


def _containers(_: MemoryMonitoring, probes: Probes) -> Iterable[str]:
    return [f"container:{container.name}" for container in probes.containers.running()]


def _matches(settings: MemoryMonitoring, probes: Probes) -> Iterable[str]:
    return [
        f"process:{name}"
        for name, match in settings.processes.items()
        if probes.processes.matching(match.command, match.user)
    ]


def observe(case: Case[MemoryMonitoring], probes: Probes) -> Seen:
    """What it holds now, and which run of it that is."""
    kind, _, name = case.target.partition(":")
    look = _LOOKS.get(kind)
    if look is None or not name:
        raise ProbeError(
            f"{case.target!r} is no target of memory.contain_leak; they look like unit:app.service, container:web or"
            " process:worker"
        )
    seen = look(case, name, probes)
    heard, _ = heard_of(case)
    same = heard is not None and heard.instance == seen.instance
    return seen.model_copy(update={"level": heard.level}) if heard is not None and same else seen


def unit_of(name: str, probes: Probes) -> Unit:
    unit = probes.units.unit(name)
    if unit is None or unit.load == "not-found":
        raise ProbeError(f"systemd knows no unit {name}; systemctl list-units shows those it knows")
    return unit


def matching(case: Case[MemoryMonitoring], name: str, probes: Probes) -> list[ProcessIdentity]:
    match = case.settings.processes.get(name)
    if match is None:
        raise ProbeError(f"memory_monitoring.processes has no {name!r}")
    return probes.processes.matching(match.command, match.user)


def _unit(_: Case[MemoryMonitoring], name: str, probes: Probes) -> Seen:
    unit = unit_of(name, probes)
    if unit.active in CHANGING:
        return Seen(state=State.CHANGING, reason=f"{name} is {unit.active} ({unit.sub})", level=Level.UNKNOWN)
    if unit.failed:
        advice = f"see journalctl --unit={name}, mend what is wrong, then run systemctl restart {name}"
        return Seen(state=State.FAILED, reason=f"{name} failed and holds no memory: {ending(unit)}; {advice}")
    if unit.active not in RUNNING or not unit.control_group:
        advice = f"if nobody meant to stop it, run systemctl start {name}"
        return Seen(state=State.STOPPED, reason=f"{name} does not run ({unit.active}, {unit.sub}); {advice}")
    return _of_group(instance_of_unit(unit), unit.control_group, None, probes)


def _container(_: Case[MemoryMonitoring], name: str, probes: Probes) -> Seen:
    container = probes.containers.container(name)
    if container is None:
        reason = f"no container {name} runs; if nobody meant to stop it, start it again, as with docker start {name}"
        return Seen(state=State.STOPPED, reason=reason)
    return _of_group(instance_of_container(container), group_of_container(container), container.memory_limit, probes)


def group_of_container(container: Container) -> str:
    """Raises ProbeError where it is not known: the number that the engine tells may be another process's here."""
    if not container.control_group:
        raise ProbeError(
            f"the control group of the container {container.name} could not be found: what it uses is not known"
        )
    return container.control_group


def _process(case: Case[MemoryMonitoring], name: str, probes: Probes) -> Seen:
    found = matching(case, name, probes)
    if not found:
        return Seen(state=State.STOPPED, reason=f"no process matches memory_monitoring.processes.{name}")
    return _of_processes(instance_of_processes(found), [each.pid for each in found], None, probes)


_LOOKS: dict[str, Callable[[Case[MemoryMonitoring], str, Probes], Seen]] = {
    "unit": _unit, "container": _container, "process": _process,
}  # fmt: skip


def _of_group(instance: str, path: str, maximum: int | None, probes: Probes) -> Seen:
    """What a control group holds; what its processes hold, where its memory is not counted."""
    try:
        group = probes.memory.control_group(path)
    except ProbeError:
        return _of_processes(instance, probes.memory.processes(path), maximum, probes)
    limit = _limit(group, group.working_set, probes)
    return Seen(
        state=State.RUNNING, instance=instance, held=group.held, working_set=group.working_set, limit=limit.size,
        limit_at=limit.at, processes=group.processes,
    )  # fmt: skip


def _of_processes(instance: str, pids: Iterable[int], maximum: int | None, probes: Probes) -> Seen:
    found = probes.processes.memory(list(pids))
    if not found:
        raise ProbeError("none of its processes can be read: they ended just now, or it takes root")
    held = sum(each.memory for each in found)
    path = min(found, key=lambda each: each.identity.started).cgroup
    try:
        group = probes.memory.control_group(path) if path else None
    except ProbeError:
        group = None
    limit = _limit(group, held, probes)
    if maximum is not None and maximum < limit.size:
        limit = Limit(maximum, path)
    return Seen(
        state=State.RUNNING, instance=instance, held=held, working_set=held, limit=limit.size, limit_at=limit.at,
        processes=tuple(each.identity.pid for each in found),
    )  # fmt: skip


class Limit(NamedTuple):
    """Bytes to which a service can grow before the kernel kills, and whose limit that is."""

    size: int
    at: str


def _limit(group: ControlGroupMemory | None, working_set: int, probes: Probes) -> Limit:
    """The smaller one of what the host has available, and what *group*, or one above it, leaves."""
    host = Limit(working_set + probes.memory.host().available, HOST)
    if group is None or group.limit is None:
        return host
    used = group.working_set
    if group.limit_at not in ("", group.path):
        try:
            used = probes.memory.control_group(group.limit_at).working_set
        except ProbeError:  # it can't be seen how much the others of that slice take: the limit is as if alone
            used = group.working_set
    own = Limit(max(0, working_set + group.limit - used), group.limit_at or group.path)
    return min(own, host, key=lambda limit: limit.size)


def replicas_of(group: str, target: str, settings: MemoryMonitoring, probes: Probes) -> dict[str, str]:
    """The other services of the same *group* → why one can't carry on alone; empty when it can."""
    globs = [glob for glob, each in settings.services.items() if each.replicas == group]
    members = {glob: "it does not run" for glob in globs if not is_glob(glob)}
    units = [glob.removeprefix("unit:") for glob in globs if glob.startswith("unit:")]
    if units:
        now = monotonic()
        members |= {f"unit:{unit.name}": _down(unit, now) for unit in probes.units.services(units)}
    if any(glob.startswith("container:") for glob in globs):
        members |= _containers_that_run(probes)
    if any(glob.startswith("process:") for glob in globs):
        members |= dict.fromkeys(_matches(settings, probes), "")
    return {each: why for each, why in members.items() if each != target and settings.of(each).replicas == group}


def _down(unit: Unit, now: float) -> str:
    """*now* in seconds of the monotonic clock, as systemd reckons."""
    if unit.active not in RUNNING:
        return f"it is {unit.active}"
    if unit.active_since is not None and now - unit.active_since < STABLE.total_seconds():
        return "it was started just now"
    return "something is being done with it" if unit.job else ""


def _containers_that_run(probes: Probes) -> dict[str, str]:
    now = datetime.now(UTC)
    return {f"container:{each.name}": _ailing(each, now) for each in probes.containers.running()}


def siblings_of(container: Container, probes: Probes) -> dict[str, str]:
    """The other containers of the same service of a compose project, as `replicas_of`."""
    if not container.service:
        return {}
    now = datetime.now(UTC)
    return {
        f"container:{each.name}": _ailing(each, now)
        for each in probes.containers.running()
        if (each.project, each.service) == (container.project, container.service) and each.id != container.id
    }


def _ailing(container: Container, now: datetime) -> str:
    if container.health in {"unhealthy", "starting"}:
        return f"it is {container.health}"
    if container.started is not None and abs(now - container.started) < STABLE:
        return "it was started just now"
    return ""
