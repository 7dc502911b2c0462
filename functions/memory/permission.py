"""What speaks against restarting a service: each obstacle with the setting or the command that removes it. Pure."""

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from functions.core.remedy import Case
from functions.memory.facts import Dependant, Found, Seen
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
by its own name. They are looked for from each word of a name on: `shop-redis`, `cp-kafka`."""

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
        own = [*_of_unit(case, found.unit, heard), *_dependants(case, found.dependants)]
    elif found.container is not None:
        own = list(_of_container(found.container))
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
        glob = _first(name, PROTECTED_UNITS) if found.unit is not None else _first_word(name, OWN_CONTAINERS)
        if glob:
            yield _not(case.target, f"{name} is protected ({glob})", "no setting permits it; restart it by hand")
            return


def names_of(target: str, found: Found) -> list[str]:
    """Every name by which it could be known: all of a unit, a container's name and its image's."""
    names = [target.partition(":")[2]]
    if found.unit is not None:
        names += found.unit.names
    if found.container is not None:
        names += [found.container.name, _image_name(found.container.image)]
    return list(dict.fromkeys(name for name in names if name))


def _image_name(image: str) -> str:
    """`registry:5000/library/postgres:16@sha256:…` is library/postgres."""
    path = image.partition("@")[0]
    first, slash, rest = path.partition("/")
    is_registry = bool(slash) and (first == "localhost" or "." in first or ":" in first)
    return (rest if is_registry else path).partition(":")[0]


def _programs(found: Found) -> Iterator[str]:
    """What runs in it: a unit or an image of any name may be a database."""
    identities = (found.main, *(process.identity for process in found.processes))
    for identity in identities:
        if identity is not None:
            yield identity.command.partition(" ")[0].rstrip(":").rpartition("/")[2]


def _first(name: str, globs: Iterable[str]) -> str:
    return next((glob for glob in globs if fnmatchcase(name, glob)), "")


def _first_word(name: str, globs: Iterable[str]) -> str:
    """The first glob that matches from the beginning of some word of *name* on."""
    tails = [name[match.start() :] for match in re.finditer(r"[A-Za-z0-9]+", name)]
    return next((glob for glob in globs if any(fnmatchcase(tail.lower(), glob) for tail in tails)), "")


def _keeper(names: Iterable[str]) -> str:
    return next((glob for name in names if (glob := _first_word(name, KEEPERS))), "")


def _not_permitted(case: Case[MemoryMonitoring], found: Found) -> Iterator[Finding]:
    settings, target = case.settings, case.target
    permits = _permits(target)
    keeper = _keeper([*names_of(target, found), *_programs(found)])
    if keeper and not settings.permits_by_name(target):
        why = f"databases, queues and backups ({keeper}) must be permitted by name"
        yield _not(target, why, permits)
    elif not settings.may_restart(target):
        own = settings.of(target).restart is False
        where = "memory_monitoring.services says restart: false of it" if own else "memory_monitoring.restart is false"
        yield _not(target, where, permits)


def _permits(target: str) -> str:
    return f'memory_monitoring: {{services: {{"{target}": {{restart: true}}}}}} permits it'


def _of_unit(case: Case[MemoryMonitoring], unit: Unit, heard: MemoryTrend) -> Iterator[Finding]:
    target, name = case.target, unit.name
    if unit.masked or unit.load != "loaded":
        state = "masked" if unit.masked else unit.load
        yield _not(target, f"it is {state}", command=("systemctl", "status", name))
    if not name.endswith(".service"):
        yield _not(target, "only services can be started again")
    if unit.occasional:
        yield _not(target, "it does a piece of work and ends; a restart would begin that anew")
    if not (unit.can_start and unit.can_stop) or unit.refuses_manual_start or unit.refuses_manual_stop:
        yield _not(target, "its unit file does not let anybody stop or start it", command=("systemctl", "cat", name))
    if unit.reload_needed:
        why = "its unit file changed, and a restart would apply the change"
        yield _not(target, why, "look at the change, then reload", ("systemctl", "daemon-reload"))
    if unit.job:
        yield _not(target, "something else is being done with it", command=("systemctl", "list-jobs", name))
    yield from _start_limit(case, unit, heard)


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


def _dependants(case: Case[MemoryMonitoring], dependants: Iterable[Dependant]) -> Iterator[Finding]:
    """They stop together with it: what must not be restarted, must not be restarted along either."""
    for each in dependants:
        target, names = f"unit:{each.name}", (each.name, *each.aliases)
        along = f"{each.name} would restart with it, which"
        keeper = _keeper(names)
        if glob := next((glob for name in names if (glob := _first(name, PROTECTED_UNITS))), ""):
            yield _not(case.target, f"{along} is protected ({glob})")
        elif case.settings.of(target).restart is False:
            yield _not(case.target, f"{along} memory_monitoring.services forbids", _permits(target))
        elif keeper and not case.settings.permits_by_name(target):
            yield _not(case.target, f"{along} is not permitted ({keeper})", _permits(target))
        elif each.busy:
            yield _not(case.target, f"{along} {each.busy}")


def _of_container(container: Container) -> Iterator[Finding]:
    target = f"container:{container.name}"
    if container.started is None or not container.engine:
        yield _not(target, "its engine does not tell when it was started")
    if container.health == "starting":
        yield _not(target, "it is still starting")
    if container.owner:
        why = f"the unit {container.owner} runs it, and would take its end for a failure"
        yield _not(target, why, "what is configured for that unit counts; restart it there")


def _replicas(case: Case[MemoryMonitoring], found: Found) -> Iterator[Finding]:
    """One at a time, and the others must run."""
    ailing = [f"{each.target}: {each.problem}" for each in found.replicas if each.problem]
    if ailing:
        yield _not(case.target, "another replica could not carry on alone", "; ".join(ailing))
