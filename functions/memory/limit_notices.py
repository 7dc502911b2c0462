"""What a person is told beside the plan for a limit: why one is not set, what it will mean, how to keep it. Pure."""

import re
from collections.abc import Iterator

from functions.memory.limits import LimitsFound, LimitsSeen, Missing, smaller_above
from schemas.facts.containers import Container
from schemas.facts.units import Unit
from schemas.remediation import Finding
from schemas.text import show_path
from schemas.units import show_size

COMPOSE_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*", re.ASCII)
"""Labels may say anything; what is told to be written into a file is a name, as compose allows it."""


def not_held(target: str, why: str, detail: str = "", command: tuple[str, ...] = ()) -> Finding:
    return Finding(title=f"{target} is not held to its limits: {why}", detail=detail, command=command)


def too_small(target: str, maximum: int, seen: LimitsSeen, need: int) -> Finding:
    return Finding(
        title=f"{target} is not held to MemoryMax {show_size(maximum)}: it uses {show_size(seen.working_set)}, and the"
        " kernel would kill it now",
        detail=f"it can be set from {show_size(need)} on, or right after a restart; or give it a larger maximum in"
        " memory_monitoring.services",
        amount=seen.working_set, unit="bytes",
    )  # fmt: skip


def without_high(target: str, high: int, why: str) -> Finding:
    return Finding(title=f"{target} is not held to MemoryHigh {show_size(high)}: {why}")


def in_vain(target: str) -> Finding:
    return not_held(target, "that did not help lately, and was taken back")


def smaller(target: str, need: Missing, seen: LimitsSeen) -> Iterator[Finding]:
    """A limit above it that is met first."""
    above = smaller_above(need.maximum, seen)
    if above and seen.limit is not None:
        yield Finding(
            title=f"{target} meets the limit of {above} first: {show_size(seen.limit)}, with all others there",
            amount=seen.limit, unit="bytes",
        )  # fmt: skip


def after_a_kill(target: str, found: LimitsFound) -> Iterator[Finding]:
    """What follows when it meets its maximum, where that is not a restart."""
    if found.unit is not None:
        yield from _unit_after_a_kill(found.unit)
    elif found.container is not None and found.container.restart_policy in {"", "no"}:
        name = found.container.name
        yield Finding(
            title=f"container {name} stays down when the kernel kills it at its limit: it has no restart policy",
            command=(found.container.engine, "update", "--restart=on-failure", name),
        )
    elif found.group:
        yield Finding(title=f"{target} stays down when the kernel kills it at its limit: nobody starts it again")


def _unit_after_a_kill(unit: Unit) -> Iterator[Finding]:
    if not unit.comes_back:
        yield Finding(
            title=f"{unit.name} stays down when the kernel kills it at its limit: Restart={unit.restart_policy}",
            detail="in a drop-in:\n[Service]\nRestart=on-failure", command=("systemctl", "edit", unit.name),
        )  # fmt: skip
    if unit.oom_policy == "continue":
        yield Finding(
            title=f"when the kernel kills a process of {unit.name} at its limit, the others go on: OOMPolicy=continue",
            detail="with OOMPolicy=stop or kill the whole unit ends, and Restart= holds",
        )


def to_keep(kept: Missing, found: LimitsFound) -> Iterator[Finding]:
    """What we set is gone with the next boot, with the container, or with the group: how a person makes it last."""
    if found.unit is not None:
        lines = ["[Service]", *(f"{name}={size}" for name, size in _named(kept) if size is not None)]
        yield Finding(
            title=f"the limits of {found.unit.name} last until the next boot; to keep them, put them into a drop-in",
            detail="\n".join(lines), command=("systemctl", "edit", found.unit.name),
        )  # fmt: skip
    elif found.container is not None and kept.maximum is not None:
        yield _container_to_keep(kept.maximum, found.container)
    elif found.group:
        yield Finding(
            title=f"the limits last as long as the control group {show_path(found.group)}; to keep them, run it as a"
            " unit of systemd with MemoryHigh= and MemoryMax="
        )


def _container_to_keep(maximum: int, container: Container) -> Finding:
    title = f"the limit lasts as long as this container {container.name}; to keep it for the next one, "
    if COMPOSE_NAME.fullmatch(container.project) and COMPOSE_NAME.fullmatch(container.service):
        where = f"set it in the compose file of {container.project}"
        return Finding(title=title + where, detail=f"services:\n  {container.service}:\n    mem_limit: {maximum}")
    return Finding(title=title + f"create that with --memory={maximum}")


def _named(kept: Missing) -> tuple[tuple[str, int | None], ...]:
    return ("MemoryHigh", kept.high), ("MemoryMax", kept.maximum)
