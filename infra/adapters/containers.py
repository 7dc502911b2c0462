"""A container engine: its images, volumes and running containers, and changing those."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from functions.core.ports import ToolError
from infra.adapters import container_runs
from infra.adapters.cgroups import ControlGroups
from infra.adapters.engine_client import Engine as Client
from infra.adapters.engine_client import connected, layers_size, local_socket, moment, said
from infra.adapters.image_users import container_name, names, users
from schemas.facts.containers import Container, Engine, Image, Volume
from schemas.probes import MemoryProbe, ProbeError
from schemas.remediation import ItemResult, Outcome
from schemas.text import plain, show_path

ANONYMOUS_LABEL = "com.docker.volume.anonymous"
"""Set by Docker from 23.0 on volumes that it named itself."""


class Containers:
    """The engine of this machine; reads only.

    *base_url* is `unix://` and a socket's path; without, DOCKER_HOST of *environment*, then the usual places. In
    *groups* the containers' control groups are found.
    """

    def __init__(
        self,
        base_url: str | None = None,
        environment: Mapping[str, str] | None = None,
        groups: MemoryProbe | None = None,
    ) -> None:
        self._base_url = base_url
        self._environment = os.environ if environment is None else environment
        self._groups = groups if groups is not None else ControlGroups()

    def engine(self) -> Engine | None:
        """None when there is no engine's socket. Raises ProbeError when there is one and it can't be read."""
        with self._client() as client:
            return _read(client) if client is not None else None

    def running(self) -> list[Container]:
        """None when there is no engine's socket. Raises ProbeError when there is one and it can't be asked."""
        with self._client() as client:
            return container_runs.running(client, self._groups) if client is not None else []

    def container(self, name: str) -> Container | None:
        with self._client() as client:
            return container_runs.found(client, name, self._groups) if client is not None else None

    @contextmanager
    def _client(self) -> Iterator[Client | None]:
        path = local_socket(self._base_url, self._environment, ProbeError)
        if path is None:
            yield None
            return
        with connected(path, ProbeError) as client:
            yield client


def _read(client: Client) -> Engine:
    root = str(client.info().get("DockerRootDir", ""))
    try:
        device = os.stat(root).st_dev
    except OSError as error:
        raise ProbeError(
            f"{client.name} keeps its data in {show_path(root)}, which can't be seen from here: {error.strerror}"
        ) from error
    usage = client.usage()
    containers, services = client.containers(), client.services()
    images = (_image(client, told, containers, services) for told in usage.get("Images") or ())
    return Engine(
        name=client.name, version=client.version, root=root, device=device,
        images=tuple(image for image in images if image is not None),
        volumes=tuple(_volume(told, containers) for told in usage.get("Volumes") or ()),
        layers=layers_size(usage),
    )  # fmt: skip


def _image(
    client: Client,
    told: Mapping[str, Any],
    containers: Sequence[Mapping[str, Any]],
    services: Sequence[Mapping[str, Any]],
) -> Image | None:
    """None for one that vanished meanwhile. Its own bytes are those that it shares with no other image."""
    inspected = client.image(told["Id"])
    if inspected is None:
        return None
    return Image(
        id=told["Id"],
        tags=names(inspected.get("RepoTags")),
        digests=names(inspected.get("RepoDigests")),
        created=datetime.fromtimestamp(told.get("Created") or 0, UTC),
        last_tagged=moment((inspected.get("Metadata") or {}).get("LastTagTime")),
        unique=max(0, int(told.get("Size") or 0) - max(0, int(told.get("SharedSize") or 0))),
        labels=told.get("Labels") or {},
        used_by=users(inspected, containers, services),
    )  # fmt: skip


def _volume(told: Mapping[str, Any], containers: Sequence[Mapping[str, Any]]) -> Volume:
    name, labels = told["Name"], set(told.get("Labels") or ())
    size = (told.get("UsageData") or {}).get("Size", -1)
    return Volume(
        name=name,
        anonymous=re.fullmatch(r"[0-9a-f]{64}", name) is not None and labels <= {ANONYMOUS_LABEL},
        created=moment(told.get("CreatedAt")),
        size=size if size >= 0 else None,
        used_by=tuple(
            container_name(container)
            for container in containers
            if any(mount.get("Name") == name for mount in container.get("Mounts") or ())
        ),
    )  # fmt: skip


class ContainerCleaner:
    """Removes images, restarts containers and limits them. The parameters are those of `Containers`."""

    def __init__(self, base_url: str | None = None, environment: Mapping[str, str] | None = None) -> None:
        self._base_url = base_url
        self._environment = os.environ if environment is None else environment

    def remove_image(self, engine: str, image_id: str, tags: Sequence[str]) -> ItemResult:
        """Delete one image by its id, without force.

        Skipped when it is gone, has other tags than planned, is used by a container or a service, or others were built
        from it. Freed is by how much the layers of all images shrank. Raises ToolError when the engine can't be asked.
        """
        name = tags[0] if tags else image_id
        with self._client(engine, f"remove the image {plain(name)}") as client:
            reason = self._why_not(client, image_id, tags)
            if reason:
                return ItemResult(name=name, outcome=Outcome.SKIPPED, reason=reason)
            before = client.layers()
            trouble = self._remove(client, image_id, tags)
            if client.image(image_id) is not None:
                outcome = Outcome.SKIPPED if trouble else Outcome.FAILED
                return ItemResult(name=name, outcome=outcome, reason=trouble or "the engine still has it")
            freed = {"bytes": max(0, before - client.layers())}
            return ItemResult(name=name, outcome=Outcome.DONE, freed=freed)

    def restart(self, engine: str, container_id: str, started: datetime, timeout: float) -> ItemResult:
        with self._client(engine, f"restart the container {plain(container_id)}") as client:
            return container_runs.restart(client, container_id, started, timeout)

    def limit_memory(self, engine: str, container_id: str, limit: int | None, swap_limit: int | None) -> ItemResult:
        with self._client(engine, f"limit memory of the container {plain(container_id)}") as client:
            return container_runs.limit_memory(client, container_id, limit, swap_limit)

    @contextmanager
    def _client(self, engine: str, what: str) -> Iterator[Client]:
        """Raises ToolError when no engine, or another one, answers."""
        path = local_socket(self._base_url, self._environment, ToolError)
        if path is None:
            raise ToolError(f"{what}: no container engine listens here; start {plain(engine)}")
        with connected(path, ToolError) as client:
            if client.name != engine:
                raise ToolError(f"{what}: {show_path(path)} is {client.name}, not {plain(engine)}")
            yield client

    def _why_not(self, client: Client, image_id: str, tags: Sequence[str]) -> str:
        image = client.image(image_id)
        if image is None or image["Id"] != image_id:
            return "it is gone"
        now = names(image.get("RepoTags"))
        if set(now) != set(tags):
            return f"its tags are {', '.join(now) or 'none'} by now"
        using = self._users(client, image)
        if using:
            return f"used by {', '.join(using[:3])}" + (f" and {len(using) - 3} more" if len(using) > 3 else "")
        return "another image was built from it" if image_id in client.parents() else ""

    def _users(self, client: Client, image: Mapping[str, Any]) -> tuple[str, ...]:
        return users(image, client.containers(), client.services())

    def _remove(self, client: Client, image_id: str, tags: Sequence[str]) -> str:
        """By id an engine removes what has a single name: the others are taken away before.

        When it refuses then, since a container came up meanwhile, the image gets its names back. Returns the refusal.
        """
        from docker.errors import APIError

        taken: list[str] = []
        try:
            for extra in _extra_names(client.image(image_id) or {}):
                if (client.image(extra) or {}).get("Id") != image_id:
                    continue  # the name went to another image meanwhile, which is not ours to remove
                client.remove(extra)
                taken.append(extra)
            client.remove(image_id)
        except APIError as refusal:
            if refusal.status_code not in {404, 409}:
                raise
            self._name_again(client, image_id, [name for name in taken if name in tags])
            return f"the engine refuses: {said(refusal)}"
        return ""

    def _name_again(self, client: Client, image_id: str, taken: Sequence[str]) -> None:
        if client.image(image_id) is not None:
            for name in taken:
                client.tag(image_id, name)


def _extra_names(image: Mapping[str, Any]) -> list[str]:
    """All names but one, and but the digests that go with the tags of their repository."""
    tags, digests = names(image.get("RepoTags")), names(image.get("RepoDigests"))
    repositories = {tag.rpartition(":")[0] for tag in tags}
    alone = [digest for digest in digests if digest.partition("@")[0] not in repositories]
    if not tags:
        return alone[1:]
    return [*alone, *tags[1:]]
