"""What every watched service instance holds: units of systemd, containers, and configured matches of processes."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from time import monotonic
from typing import NamedTuple

from schemas.facts.cgroups import ControlGroupMemory
from schemas.facts.containers import Container
from schemas.facts.files import Fact
from schemas.facts.instances import instance_of_container, instance_of_processes, instance_of_unit
from schemas.facts.processes import ProcessMemory
from schemas.facts.units import Unit
from schemas.probes import ProbeError, Probes
from schemas.settings.memory import MemoryMonitoring, ProcessMatch
from schemas.text import PathText, plain

READ_SHARE = 0.4
"""Of the read's deadline, after which no other instance is begun; the one that is, may take the rest."""

NOT_WATCHED = frozenset({"inactive", "failed", "activating", "maintenance"})
"""Active states without a service to watch: it does not run, or not yet; a oneshot that is activating is a job."""

KILLED = "oom-kill"
"""systemd's Result of a unit that the kernel, or systemd-oomd, killed for lack of memory."""

HOST = "host"

EASE = 1.5
"""What its high strangled is strangled until it waits this much less."""


class Known(NamedTuple):
    """What the collector remembers of a target that was there at the last look."""

    failing: bool
    sampled_at: float
    """seconds since the epoch, 0 for never"""
    closely: bool = False
    """its processes are looked at one by one"""


NEVER = Known(failing=False, sampled_at=0.0)


class Limit(NamedTuple):
    """What an instance can come to: what it has, and what is left of the tightest limit."""

    size: int
    """bytes"""
    at: str
    """the control group that has the limit, or `host`"""
    shared: bool
    """others take from it too"""


class Holding(Fact):
    """What an instance holds, in bytes."""

    held: int
    """what no pressure frees"""
    working_set: int
    shared: int = 0
    limit: Limit | None = None
    out_of_memory_kills: int | None = None
    """by the kernel, in its control group"""
    high: int | None = None
    """above it the kernel slows it"""
    waited: float = 0.0
    """percent of the last minute in which all of its tasks waited for memory"""
    strangled: bool = False
    """by that high"""
    nearly_strangled: bool = False
    group: PathText = ""
    """in the hierarchy that carries memory; empty when it was measured by its processes"""
    notes: tuple[str, ...] = ()
    """what the figures leave open"""


class Instance(Fact):
    """One run of a service: what it holds, or why that could not be read, or that it was killed."""

    target: str
    name: str = ""
    """of the run, see `schemas.facts.instances`"""
    holding: Holding | None = None
    killed: bool = False
    """it does not run: it was ended for lack of memory"""
    processes: tuple[ProcessMemory, ...] = ()
    """one by one, where that was asked for or costs nothing"""
    restarts_itself: bool = True
    """somebody starts it again when the kernel kills it"""
    error: str = ""
    left_out: bool = False
    """not its own fault: others took the time"""


class _Candidate(NamedTuple):
    """A target, and how it is read; the answer is none when it has ended meanwhile."""

    target: str
    read: Callable[[], Instance | None]


def read_all(settings: MemoryMonitoring, probes: Probes, known: Mapping[str, Known]) -> list[Instance]:
    """Each instance by itself: one that can't be read does not hide the others.

    Those sampled longest ago come first, those that could not be read the last time come last, and when much time is
    gone the rest is left out. A source that is not there (no systemd, no engine) has no instances; one that does not
    answer although it did makes those that it had unknown.
    """
    began, budget = monotonic(), READ_SHARE * settings.read_timeout.total_seconds()
    limits = _Limits(probes)
    candidates = [
        *_from("unit", lambda: _units(settings, probes, limits, known), known),
        *_from("container", lambda: _containers(settings, probes, limits), known),
        *(_Candidate(plain(f"process:{name}"), partial(_process_match, name, match, probes, limits))
          for name, match in settings.processes.items()),
    ]  # fmt: skip
    watched = {each.target: each for each in candidates if settings.watches(each.target)}
    found = []
    for candidate in sorted(watched.values(), key=lambda each: known.get(each.target, NEVER)):
        spent = monotonic() - began
        if spent < budget:
            closely = known.get(candidate.target, NEVER).closely
            found.append(_with_processes(_read(candidate), probes) if closely else _read(candidate))
        else:
            error = f"no time was left, others took {spent:.1f} s"
            found.append(Instance(target=candidate.target, error=error, left_out=True))
    return _without_nested([each for each in found if each is not None])


def _read(candidate: _Candidate) -> Instance | None:
    try:
        return candidate.read()
    except ProbeError as error:
        return Instance(target=candidate.target, error=str(error))


def _with_processes(instance: Instance | None, probes: Probes) -> Instance | None:
    """Who can't be read is not told: what the service holds as a whole is."""
    if instance is None or instance.processes or instance.holding is None or not instance.holding.group:
        return instance
    try:
        pids = probes.memory.processes(instance.holding.group)
        return instance.model_copy(update={"processes": tuple(probes.processes.memory(pids))})
    except ProbeError:
        return instance


def _from(kind: str, source: Callable[[], Iterator[_Candidate]], known: Mapping[str, Known]) -> list[_Candidate]:
    try:
        return list(source())
    except ProbeError as error:
        silent = [Instance(target=target, error=str(error)) for target in known if target.startswith(f"{kind}:")]
        return [_Candidate(each.target, partial(_as_is, each)) for each in silent]


def _as_is(instance: Instance) -> Instance:
    return instance


class _Limits:
    """What is left for an instance: of its own limit, of one that it shares, and of the host's memory.

    What is common to several instances is read once.
    """

    def __init__(self, probes: Probes) -> None:
        self._probes = probes
        self._groups: dict[str, ControlGroupMemory | None] = {}
        try:
            self._available: int | None = probes.memory.host().available
        except ProbeError:  # memory.pressure tells it; here what has no limit of its own then has none
            self._available = None

    def of_group(self, group: ControlGroupMemory) -> Limit | None:
        """Of a service that has a control group of its own."""
        if group.limit is not None and group.limit_at in ("", group.path):
            own = Limit(group.limit, group.limit_at or group.path, shared=False)
            return self._tightest(group.working_set, own)
        return self._tightest(group.working_set, self._shared(group.working_set, group))

    def of_processes(self, working_set: int, path: str, maximum: int | None = None) -> Limit | None:
        """Of processes that live in the group *path*, with others perhaps, and may have a *maximum* of their own."""
        own = Limit(maximum, path, shared=False) if maximum is not None else None
        return self._tightest(working_set, own, self._shared(working_set, self._group(path)))

    def _tightest(self, working_set: int, *limits: Limit | None) -> Limit | None:
        host = Limit(working_set + self._available, HOST, shared=True) if self._available is not None else None
        return min((limit for limit in (*limits, host) if limit is not None), key=lambda each: each.size, default=None)

    def _shared(self, working_set: int, group: ControlGroupMemory | None) -> Limit | None:
        """That of *group*, or of one above it, whose other members leave only the rest."""
        if group is None or group.limit is None:
            return None
        whole = self._group(group.limit_at) or group
        return Limit(max(0, working_set + group.limit - whole.working_set), group.limit_at, shared=True)

    def _group(self, path: str) -> ControlGroupMemory | None:
        if path and path not in self._groups:
            try:
                self._groups[path] = self._probes.memory.control_group(path)
            except ProbeError:  # then nothing is known of a limit there
                self._groups[path] = None
        return self._groups.get(path)


def _units(
    settings: MemoryMonitoring, probes: Probes, limits: _Limits, known: Mapping[str, Known]
) -> Iterator[_Candidate]:
    """Those that run, and known ones that were killed and that nobody has started again. Raises ProbeError."""
    for unit in probes.units.services(settings.units):
        target = plain(f"unit:{unit.name}")
        if unit.active not in NOT_WATCHED and unit.control_group:
            yield _Candidate(target, partial(_unit, target, unit, probes, limits))
        elif unit.result == KILLED and target in known:
            killed = Instance(target=target, name=instance_of_unit(unit), killed=True, restarts_itself=unit.comes_back)
            yield _Candidate(target, partial(_as_is, killed))


def _unit(target: str, unit: Unit, probes: Probes, limits: _Limits) -> Instance | None:
    try:
        holding = _of_group_at(unit.control_group, probes, limits)
    except ProbeError:
        now = probes.units.unit(unit.name)
        if now is None or now.active in NOT_WATCHED or now.invocation != unit.invocation:
            return None
        raise
    if holding is None:
        return None
    return Instance(target=target, name=instance_of_unit(unit), holding=holding, restarts_itself=unit.comes_back)


def _of_group_at(path: str, probes: Probes, limits: _Limits, maximum: int | None = None) -> Holding | None:
    """What a control group holds; None when nothing runs in it. Raises ProbeError when it is gone.

    Where its memory is not counted (MemoryAccounting=no, a kernel without the controller) its processes are.
    """
    try:
        group = probes.memory.control_group(path)
    except ProbeError:
        return _of_processes(_memory_of(probes.memory.processes(path), probes), limits, maximum)
    if not group.processes:
        return None
    return Holding(
        held=group.held, working_set=group.working_set, shared=group.shared, limit=limits.of_group(group),
        out_of_memory_kills=group.out_of_memory_kills, high=group.high,
        waited=group.pressure.full60 if group.pressure is not None else 0.0, strangled=group.strangled(),
        nearly_strangled=group.strangled(EASE), group=group.path,
    )  # fmt: skip


def _of_processes(processes: Collection[ProcessMemory], limits: _Limits, maximum: int | None = None) -> Holding | None:
    if not processes:
        return None
    held = sum(process.memory for process in processes)
    oldest = min(processes, key=lambda process: process.identity.started)
    rough = sum(not process.exact for process in processes)
    note = f"{rough} of its {len(processes)} processes are measured by their resident set, which is less exact"
    return Holding(
        held=held, working_set=held, limit=limits.of_processes(held, oldest.cgroup, maximum),
        notes=(note,) if rough else (),
    )  # fmt: skip


def _memory_of(pids: Collection[int], probes: Probes) -> list[ProcessMemory]:
    """Of those that can be read. Raises ProbeError when there are some, and none can."""
    found = probes.processes.memory(pids) if pids else []
    if pids and not found:
        raise ProbeError(f"none of its {len(pids)} processes can be read: they ended just now, or it takes root")
    return found


def _containers(settings: MemoryMonitoring, probes: Probes, limits: _Limits) -> Iterator[_Candidate]:
    """Those that no watched unit runs inside of its own control group. Raises ProbeError."""
    for container in probes.containers.running():
        owner = container.owner  # who restarts it restarts that unit, so the unit is what is told
        if not (owner and settings.watches(f"unit:{owner}") and f"/{owner}/" in f"{container.control_group}/"):
            target = plain(f"container:{container.name}")
            yield _Candidate(target, partial(_container, target, container, probes, limits))


def _container(target: str, container: Container, probes: Probes, limits: _Limits) -> Instance | None:
    try:
        holding = _of_container(container, probes, limits)
    except ProbeError:
        now = probes.containers.container(container.name)
        if now is None or instance_of_container(now) != instance_of_container(container):
            return None
        raise
    if holding is None:
        return None
    return Instance(
        target=target, name=instance_of_container(container), holding=holding,
        restarts_itself=container.restart_policy not in {"", "no"},
    )  # fmt: skip


def _of_container(container: Container, probes: Probes, limits: _Limits) -> Holding | None:
    if not container.control_group:
        raise ProbeError("its control group could not be found, and its process may be another one's number here")
    return _of_group_at(container.control_group, probes, limits, container.memory_limit)


def _process_match(name: str, match: ProcessMatch, probes: Probes, limits: _Limits) -> Instance | None:
    matching = probes.processes.matching(match.command, match.user)
    processes = _memory_of([each.pid for each in matching], probes)
    holding = _of_processes(processes, limits)
    if holding is None:
        return None
    return Instance(
        target=plain(f"process:{name}"), name=instance_of_processes(matching), holding=holding,
        processes=tuple(processes),
    )  # fmt: skip


def _without_nested(found: Collection[Instance]) -> list[Instance]:
    """What is told by itself is not counted again in the group around it. Pure.

    A unit to which its group is delegated may hold containers, the manager of a user holds that user's units. Of a
    unit and a container in one group the unit is told.
    """
    groups: dict[str, Instance] = {}
    for each in sorted(found, key=lambda each: not each.target.startswith("unit:")):
        if each.holding is not None and each.holding.group:
            groups.setdefault(each.holding.group, each)
    inside: defaultdict[str, list[Holding]] = defaultdict(list)
    for path, each in groups.items():
        around = next((above for above in _above(path) if above in groups), None)
        if around is not None and each.holding is not None:
            inside[around].append(each.holding)
    told = []
    for each in found:
        if each.holding is None or not each.holding.group:
            told.append(each)
        elif groups[each.holding.group] is each:
            told.append(each.model_copy(update={"holding": _less(each.holding, inside[each.holding.group])}))
    return told


def _above(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def _less(outer: Holding, inner: Collection[Holding]) -> Holding:
    if not inner:
        return outer
    working_set = min(outer.working_set, sum(each.working_set for each in inner))
    limit = outer.limit
    return outer.model_copy(
        update={
            "held": max(0, outer.held - sum(each.held for each in inner)),
            "working_set": outer.working_set - working_set,
            "shared": max(0, outer.shared - sum(each.shared for each in inner)),
            "limit": limit._replace(size=max(0, limit.size - working_set)) if limit is not None else None,
            "out_of_memory_kills": None,  # those inside are counted in it, also when they are gone
        }
    )
