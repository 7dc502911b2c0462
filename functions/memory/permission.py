"""What speaks against restarting a service: each obstacle with the setting or the command that removes it. Pure."""

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from functions.core.remedy import Case
from functions.memory.facts import Found, Seen
from schemas.facts.containers import Container
from schemas.facts.units import Unit
from schemas.memory import MemoryTrend
from schemas.remediation import Finding
from schemas.settings.memory import MemoryMonitoring
from schemas.settings.services import PROTECTED_UNITS
from schemas.units import show_duration

KEEPERS = (
    "postgres*", "pgbouncer*", "mysql*", "mariadb*", "percona*", "mongo*", "redis*", "valkey*", "keydb*", "memcached*",
    "cassandra*", "scylla*", "cockroach*", "clickhouse*", "elasticsearch*", "opensearch*", "influxdb*", "couchdb*",
    "neo4j*", "etcd*", "consul*", "zookeeper*", "oracle*", "mssql*", "slapd*", "rabbitmq*", "kafka*", "redpanda*",
    "pulsar*", "activemq*", "artemis*", "mosquitto*", "emqx*", "beanstalkd*", "*backup*", "restic*", "borg*",
)  # fmt: skip
"""Globs of databases, queues and backups: a restart may take minutes of recovery, or lose work. Each must be permitted
by its own name."""

OWN_CONTAINERS = ("nats*", "ansai*")
"""Globs of images and names: the bus, and us."""


def group_of(target: str, settings: MemoryMonitoring) -> str:
    """The group whose members are not restarted at once; empty for a service that stands alone.

    Containers of one name and different numbers are one, as those of compose are.
    """
    explicit = settings.of(target).replicas
    if explicit:
        return explicit
    numbered = re.fullmatch(r"(container:.+[-_])\d+", target)
    return f"{numbered[1]}*" if numbered else ""


def obstacles(case: Case[MemoryMonitoring], seen: Seen, found: Found, heard: MemoryTrend) -> list[Finding]:
    """What forbids a restart, gravest first; without any it is permitted, but for the configuration check."""
    if found.unit is not None:
        own = _of_unit(case, found.unit, heard)
    elif found.container is not None:
        own = _of_container(found.container)
    else:
        detail = "it is no unit and no container: make it one, or restart it by hand"
        return [_not(case.target, "nobody but who started it knows how to start it again", detail)]
    forbidden = [*_never(case, found), *own, *_not_permitted(case, found), *_replicas(case, found)]
    if found.instance != seen.instance:
        forbidden.append(_not(case.target, "it was restarted just now"))
    return forbidden


def _not(target: str, why: str, detail: str = "", command: tuple[str, ...] = ()) -> Finding:
    return Finding(title=f"{target} is not restarted: {why}", detail=detail, command=command)


def _never(case: Case[MemoryMonitoring], found: Found) -> Iterator[Finding]:
    if found.ours:
        yield _not(case.target, "it is what looks after it", "restart it by hand")
    for name in names_of(case.target, found):
        glob = _first(name, PROTECTED_UNITS if found.unit is not None else OWN_CONTAINERS)
        if glob:
            yield _not(case.target, f"{name} is protected ({glob})", "no setting permits it; restart it by hand")
            return


def names_of(target: str, found: Found) -> list[str]:
    """Every name by which it could be known: a unit's alias and its Id, a container's name and its image's."""
    names = [target.partition(":")[2]]
    if found.unit is not None:
        names.append(found.unit.name)
    if found.container is not None:
        names += [found.container.name, _image_name(found.container.image)]
    return list(dict.fromkeys(name for name in names if name))


def _image_name(image: str) -> str:
    """`registry:5000/library/postgres:16@sha256:…` is postgres."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


def _first(name: str, globs: Iterable[str]) -> str:
    return next((glob for glob in globs if fnmatchcase(name, glob)), "")


def _keeper(names: Iterable[str]) -> str:
    return next((glob for name in names if (glob := _first(name, KEEPERS))), "")


def _not_permitted(case: Case[MemoryMonitoring], found: Found) -> Iterator[Finding]:
    settings, target = case.settings, case.target
    permits = f'memory_monitoring: {{services: {{"{target}": {{restart: true}}}}}} permits it'
    by_name = target in settings.services and settings.services[target].restart is True
    keeper = _keeper(names_of(target, found))
    if keeper and not by_name:
        why = f"databases, queues and backups ({keeper}) must be permitted by name"
        yield _not(target, why, permits)
    elif not settings.may_restart(target):
        own = settings.of(target).restart is False
        where = "memory_monitoring.services says restart: false of it" if own else "memory_monitoring.restart is false"
        yield _not(target, where, permits)


def _of_unit(case: Case[MemoryMonitoring], unit: Unit, heard: MemoryTrend) -> Iterator[Finding]:
    target, name = case.target, unit.name
    if unit.masked or unit.load != "loaded":
        state = "masked" if unit.masked else unit.load
        yield _not(target, f"it is {state}", command=("systemctl", "status", name))
    if not name.endswith(".service"):
        yield _not(target, "only services can be started again")
    if unit.scheduled:
        yield _not(target, "it does a piece of work and ends; a restart would begin that anew")
    if not (unit.can_start and unit.can_stop) or unit.refuses_manual_start or unit.refuses_manual_stop:
        yield _not(target, "its unit file does not let anybody stop or start it", command=("systemctl", "cat", name))
    if unit.reload_needed:
        why = "its unit file changed, and a restart would apply the change"
        yield _not(target, why, "look at the change, then reload", ("systemctl", "daemon-reload"))
    if unit.job:
        yield _not(target, "something else is being done with it", command=("systemctl", "list-jobs", name))
    yield from _start_limit(case, unit, heard)
    yield from _dependants(case, unit)


def _start_limit(case: Case[MemoryMonitoring], unit: Unit, heard: MemoryTrend) -> Iterator[Finding]:
    """After StartLimitBurst= starts systemd refuses the next; we leave at least half of them to others.

    A run that is older than the interval began before it. How many starts a younger one had is known only of those
    by systemd itself, and there was the one that began it.
    """
    burst, interval = unit.start_limit_burst, unit.start_limit_interval
    age = (case.now - heard.series_since).total_seconds() if heard.series_since is not None else 0.0
    if burst <= 0 or interval <= 0 or age >= interval:
        return
    starts = unit.restarts + 1
    if starts + 1 > max(1, burst // 2):
        limit = f"{burst} in {show_duration(interval)}"
        yield _not(case.target, f"it was started {starts} times lately, and systemd gives up after {limit}")


def _dependants(case: Case[MemoryMonitoring], unit: Unit) -> Iterator[Finding]:
    """They stop together with it: what must not be restarted, must not be restarted along either."""
    for name in unit.dependants:
        target, settings = f"unit:{name}", case.settings
        protected = _first(name, PROTECTED_UNITS)
        permitted = target in settings.services and settings.services[target].restart is True
        keeper = "" if permitted else _keeper([name])
        if protected or keeper:
            why = f"{name} would restart with it, which is {'protected' if protected else 'not permitted'}"
            hint = "" if protected else f'memory_monitoring: {{services: {{"{target}": {{restart: true}}}}}} permits it'
            yield _not(case.target, f"{why} ({protected or keeper})", hint)


def _of_container(container: Container) -> Iterator[Finding]:
    target = f"container:{container.name}"
    if container.started is None or not container.engine:
        yield _not(target, "its engine does not tell when it was started")
    if container.health == "starting":
        yield _not(target, "it is still starting")


def _replicas(case: Case[MemoryMonitoring], found: Found) -> Iterator[Finding]:
    """One at a time, and the others must run."""
    ailing = [f"{each.target}: {each.problem}" for each in found.replicas if each.problem]
    if ailing:
        yield _not(case.target, "another replica could not carry on alone", "; ".join(ailing))
