"""Bring the streams and buckets of a server up to the table in `bus.streams`, as often as one likes."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from bus.outbox import ApiRefusal, Denied, Outbox
from bus.port import Rejected
from bus.streams import MINIMUM_SERVER, StreamSpec, incompatibility, older_than_minimum, update

logger = logging.getLogger(__name__)

_NAME_TAKEN = 10058
_BEING_DELETED = 10049
_OVERLAP = 10065
_JETSTREAM_OFF = (10039, 10076)
_NO_ROOM = (10023, 10047, 10028)


def refuse_old_server(version: str, url: str) -> None:
    """Raise Rejected when the server is older than we can work with."""
    if older_than_minimum(version):
        wanted = ".".join(map(str, MINIMUM_SERVER))
        raise Rejected(
            f"{url} runs nats-server {version}; {wanted} or newer is needed: upgrade it, or use another server"
        )


async def provision(outbox: Outbox, specs: Iterable[StreamSpec], url: str) -> dict[str, int]:
    """Create or update what *specs* ask for; return the replicas of each stream that could be looked at.

    A client that may not create streams is content when they exist. Raises Rejected when one is missing and can't
    be created, or exists and can't be used; Unavailable.
    """
    return {spec.name: replicas for spec in specs if (replicas := await _provide(outbox, spec, url)) is not None}


async def _provide(outbox: Outbox, spec: StreamSpec, url: str) -> int | None:
    try:
        existing = await stream_configuration(outbox, spec.name)
    except Denied:
        logger.info("%s: may not look at stream %s; taking it as it is", url, spec.name)
        return None
    except ApiRefusal as error:
        if error.code in _JETSTREAM_OFF:
            raise Rejected(f"{url} has no JetStream; start nats-server with -js, or use: ansai up") from error
        raise
    if existing is None:
        existing = await _create(outbox, spec, url)
    reason = incompatibility(spec, existing)
    if reason is not None:
        raise Rejected(f"{url}: stream {spec.name} exists and can't be used: {reason}; remove or rename it there")
    changed = update(spec, existing)
    if changed is not None:
        await _change(outbox, spec, changed, url)
    return int(existing.get("num_replicas", 1))


async def stream_configuration(outbox: Outbox, name: str) -> dict[str, Any] | None:
    """The stream's configuration as the server has it, or None when there is no such stream."""
    try:
        configuration: dict[str, Any] = (await outbox.api(f"STREAM.INFO.{name}"))["config"]
    except ApiRefusal as error:
        if error.stream_missing:
            return None
        raise
    return configuration


async def _create(outbox: Outbox, spec: StreamSpec, url: str) -> dict[str, Any]:
    try:
        return await _request_creation(outbox, spec)
    except Denied as error:
        raise Rejected(
            f"{url} has no stream {spec.name} and we may not create it; start ansai once with an administrator's role"
        ) from error
    except ApiRefusal as error:
        if error.code == _NAME_TAKEN and (existing := await stream_configuration(outbox, spec.name)) is not None:
            return existing  # somebody else was faster, with other settings
        if error.code == _OVERLAP:
            raise Rejected(
                f"{url}: another stream takes some of {', '.join(spec.subjects)}, which {spec.name} needs;"
                " find it with: nats stream find --subject ansai.x.y, and remove it"
            ) from error
        if error.code in _NO_ROOM:
            raise Rejected(
                f"{url}: no room for stream {spec.name} ({error}); give JetStream more space,"
                " or lower bus.audit_max_size in ansai.yaml"
            ) from error
        raise


async def _request_creation(outbox: Outbox, spec: StreamSpec) -> dict[str, Any]:
    tries_left = 3
    while True:
        try:
            created: dict[str, Any] = (await outbox.api(f"STREAM.CREATE.{spec.name}", spec.configuration()))["config"]
            return created
        except ApiRefusal as error:
            tries_left -= 1
            if error.code != _BEING_DELETED or tries_left == 0:
                raise
            await asyncio.sleep(0.5)  # the last stream of this name is still being removed from the disk


async def _change(outbox: Outbox, spec: StreamSpec, changed: dict[str, Any], url: str) -> None:
    try:
        await outbox.api(f"STREAM.UPDATE.{spec.name}", changed)
    except Denied:
        logger.info("%s: stream %s is used as it is; we may not update it", url, spec.name)
        return
    except ApiRefusal as error:
        raise Rejected(f"{url}: stream {spec.name} exists and can't be updated: {error}") from error
    logger.info("%s: updated stream %s", url, spec.name)
