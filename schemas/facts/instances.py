"""Which run of a service: a restart begins another one. The one home of that rule. Pure."""

import hashlib
from collections.abc import Collection

from schemas.facts.containers import Container
from schemas.facts.processes import ProcessIdentity
from schemas.facts.units import Unit

LONGEST = 128
"""Characters, as in the events that carry one."""

SHORT_ID = 12
"""Characters of a container's id, as engines show it."""


def instance_of_unit(unit: Unit) -> str:
    """Its InvocationID; empty when it has not run since it was loaded."""
    return _fitting(unit.invocation)


def instance_of_container(container: Container) -> str:
    """`0123456789ab@2026-03-01T12:00:00+00:00`: a restart keeps the id and changes the time."""
    started = container.started.isoformat() if container.started is not None else ""
    return _fitting(f"{container.id[:SHORT_ID]}@{started}")


def instance_of_processes(processes: Collection[ProcessIdentity]) -> str:
    """`pid@started` of the oldest; of several that began in one clock tick all, joined by commas; empty without any.

    Workers come and go below the oldest process, and that is no restart.
    """
    first = min((process.started for process in processes), default=0)
    oldest = sorted(process.pid for process in processes if process.started == first)
    return _fitting(",".join(f"{pid}@{first}" for pid in oldest))


def _fitting(instance: str) -> str:
    return instance if len(instance) <= LONGEST else hashlib.sha256(instance.encode()).hexdigest()
