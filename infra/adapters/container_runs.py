"""Containers that run: what they are, restarting one, and limiting its memory."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from infra.adapters.cgroups import MARGIN
from infra.adapters.engine_client import UNLIMITED, moment, said
from infra.adapters.engine_client import Engine as Client
from schemas.facts.containers import Container
from schemas.facts.instances import SHORT_ID
from schemas.probes import MemoryProbe, ProbeError
from schemas.remediation import ItemResult, Outcome
from schemas.text import plain

PROJECTS = ("com.docker.compose.project", "io.podman.compose.project")
SERVICE = "com.docker.compose.service"
"""Labels that compose sets; podman's writes this one as well."""


def running(client: Client, groups: MemoryProbe) -> list[Container]:
    """Those that end meanwhile are left out."""
    told = (client.container(each["Id"]) for each in client.running())
    return [_container(client.name, each, groups) for each in told if each is not None and _runs(each)]


def found(client: Client, name: str, groups: MemoryProbe) -> Container | None:
    """By its name, not by the beginning of its id, which engines take as well."""
    told = client.container(name)
    return _container(client.name, told, groups) if told is not None and _name(told) == name and _runs(told) else None


def _container(engine: str, told: Mapping[str, Any], groups: MemoryProbe) -> Container:
    state, host = told["State"], told.get("HostConfig") or {}
    configuration = told.get("Config") or {}
    labels = configuration.get("Labels") or {}
    health = (state.get("Health") or {}).get("Status") or ""
    return Container(
        id=told["Id"], name=_name(told), image=configuration.get("Image") or "", started=moment(state.get("StartedAt")),
        pid=state["Pid"], control_group=_control_group(told["Id"], state["Pid"], groups), labels=labels,
        health="" if health == "none" else health,
        restart_policy=(host.get("RestartPolicy") or {}).get("Name") or "",
        memory_limit=_limit(host.get("Memory")), memory_swap_limit=_limit(host.get("MemorySwap")),
        project=next((labels[label] for label in PROJECTS if label in labels), ""), service=labels.get(SERVICE, ""),
        engine=engine,
    )  # fmt: skip


def _name(told: Mapping[str, Any]) -> str:
    return str(told.get("Name") or "").lstrip("/")


def _runs(told: Mapping[str, Any]) -> bool:
    state = told.get("State") or {}
    return bool(state.get("Running")) and int(state.get("Pid") or 0) > 0


def _limit(size: int | None) -> int | None:
    """Engines write no limit as 0, when none was ever set, as -1, or as we set it."""
    return size if size is not None and 0 < size < UNLIMITED else None


def _control_group(container_id: str, pid: int, groups: MemoryProbe) -> str:
    """The group that was made for the container, on the path to that of its first process.

    A service manager inside moves itself into one below. An engine in another PID namespace tells numbers that are
    others' processes here: their groups don't carry the id.
    """
    try:
        path = groups.control_group_of(pid)
    except ProbeError:
        return ""
    names = path.split("/")
    place = next((place for place, name in enumerate(names) if container_id in name), None)
    return "/".join(names[: place + 1]) if place is not None else ""


# ── changing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def restart(client: Client, container_id: str, started: datetime, timeout: float) -> ItemResult:
    """Skipped when it is gone, stopped, or another run than planned. In progress when the engine takes too long."""
    from docker.errors import APIError
    from requests.exceptions import Timeout

    told = client.container(container_id)
    name = _shown(told, container_id)
    if told is None or told["Id"] != container_id:
        return ItemResult(name=name, outcome=Outcome.SKIPPED, reason="it is gone")
    if not _runs(told):
        return ItemResult(name=name, outcome=Outcome.SKIPPED, reason="it does not run")
    before = moment(told["State"].get("StartedAt"))
    if before != started:
        return ItemResult(name=name, outcome=Outcome.SKIPPED, reason=f"it was started again, at {before}")
    trouble = ""
    try:
        client.restart(container_id, timeout)
    except APIError as refusal:
        trouble = f": {said(refusal)}"
    except Timeout:
        return ItemResult(name=name, outcome=Outcome.IN_PROGRESS, reason="the engine has not restarted it yet")
    now = client.container(container_id)
    if now is None or not _runs(now):
        return ItemResult(name=name, outcome=Outcome.FAILED, reason=f"it is down now, and should run{trouble}")
    if moment(now["State"].get("StartedAt")) == before:
        return ItemResult(name=name, outcome=Outcome.FAILED, reason=f"the engine did not restart it{trouble}")
    return ItemResult(name=name, outcome=Outcome.DONE)


def limit_memory(client: Client, container_id: str, limit: int | None, swap_limit: int | None) -> ItemResult:
    """Both at once, since the second may never be less than the first; read back.

    Skipped when it is gone or does not run. Refused when the limit goes down to less than `MARGIN` × what is in use.
    """
    from docker.errors import APIError

    told = client.container(container_id)
    name = _shown(told, container_id)
    if told is None or told["Id"] != container_id or not _runs(told):
        return ItemResult(name=name, outcome=Outcome.SKIPPED, reason="it is gone, or does not run")
    before = _limit((told.get("HostConfig") or {}).get("Memory"))
    if limit is not None and (before is None or limit < before):
        used = working_set(client.statistics(container_id))
        if used is None or limit < used * MARGIN:
            seen = "what it uses is not known" if used is None else f"{used} are in use"
            reason = f"{limit} bytes are too little: {seen}, and a limit must be at least {MARGIN} times that"
            return ItemResult(name=name, outcome=Outcome.REFUSED, reason=reason)
    try:
        client.limit_memory(container_id, limit, swap_limit)
    except APIError as refusal:
        return ItemResult(name=name, outcome=Outcome.FAILED, reason=f"the engine refuses: {said(refusal)}")
    now = _limit(((client.container(container_id) or {}).get("HostConfig") or {}).get("Memory"))
    if now != limit:
        reason = f"its limit is {now or 'none'} after it was set to {limit or 'none'}"
        return ItemResult(name=name, outcome=Outcome.FAILED, reason=reason)
    return ItemResult(name=name, outcome=Outcome.DONE)


def working_set(statistics: Mapping[str, Any]) -> int | None:
    """Bytes in use without the inactive file cache, by an engine's statistics; None without them. Pure."""
    memory = statistics.get("memory_stats") or {}
    detail = memory.get("stats") or {}
    inactive = detail.get("total_inactive_file", detail.get("inactive_file", 0))
    return max(0, int(memory["usage"]) - int(inactive)) if memory.get("usage") else None


def _shown(told: Mapping[str, Any] | None, container_id: str) -> str:
    return (_name(told) if told is not None else "") or plain(container_id[:SHORT_ID])
