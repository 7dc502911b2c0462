"""The connection to a container engine: Docker's API over a socket of this machine, which podman speaks as well."""

import math
import os
import re
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from functions.core.ports import ToolError
from schemas.probes import ProbeError
from schemas.text import plain, show_path

SOCKETS = ("/run/docker.sock", "/var/run/docker.sock", "/run/podman/podman.sock")
"""Where engines listen, in the order in which they are tried."""

REACH = 5.0
"""Seconds in which an engine takes a connection."""

TIMEOUT = 120.0
"""Seconds for one request; `system/df` measures every volume."""

NEWEST_API = "1.51"
"""The newest version of the API whose `system/df` is known to be as read here."""

UNLIMITED, UNLIMITED_WITH_SWAP = 2**62, 2**63 - 4096
"""Bytes that say "no limit" in an update: Docker takes 0 for unchanged, ignores -1 for swap and refuses it for memory.

They differ, for in control groups of version 2 the difference is what may be swapped.
"""

Error = type[ProbeError] | type[ToolError]


def local_socket(base_url: str | None, environment: Mapping[str, str], error: Error) -> str | None:
    """The path of the engine's socket; None when there is none, found out without asking anybody.

    *base_url*, else DOCKER_HOST, must name a socket of this machine, for disks of others are not ours to free.
    """
    url = base_url or environment.get("DOCKER_HOST", "")
    if url:
        scheme, _, path = url.partition("://")
        if scheme not in {"unix", "http+unix"} or not path.startswith("/"):
            raise error(
                f"the engine {plain(url)} is no socket of this machine;"
                " give one like unix:///run/docker.sock, or unset DOCKER_HOST"
            )
        return path if _is_socket(path) else None
    return next((path for path in SOCKETS if _is_socket(path)), None)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _reach(path: str, error: Error) -> None:
    """Whether anybody listens there; said more clearly than the client does, which leaves its socket open besides."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(REACH)
        try:
            probe.connect(path)
        except OSError as problem:
            advice = "; run as root, or in the socket's group" if isinstance(problem, PermissionError) else ""
            reason = problem.strerror or str(problem)
            raise error(f"reach the container engine at {show_path(path)}: {reason}{advice}") from problem


@contextmanager
def connected(path: str, error: Error) -> "Iterator[Engine]":
    """An engine that answers. All trouble with it, also later, is raised as *error*, in one line."""
    try:
        from docker import APIClient
        from docker.errors import DockerException
        from requests.exceptions import RequestException
    except ImportError as missing:
        raise error(f"{show_path(path)} needs Docker's client; pip install 'ansai[containers]'") from missing
    _reach(path, error)
    try:
        client = APIClient(base_url=f"unix://{path}", version="auto", timeout=int(TIMEOUT))
        try:
            if _version(client.api_version) > _version(NEWEST_API):
                client.close()
                client = APIClient(base_url=f"unix://{path}", version=NEWEST_API, timeout=int(TIMEOUT))
            yield Engine(client)
        finally:
            client.close()
    except (DockerException, RequestException) as problem:
        raise error(f"ask the container engine at {show_path(path)}: {said(problem)}") from problem


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def said(problem: Exception) -> str:
    """What an engine, or the connection to it, says; one line."""
    explanation = getattr(problem, "explanation", None)
    return plain(" ".join(str(explanation or problem).split()))


class Engine:
    """What is asked of an engine. Methods raise what the client raises; `connected` turns that into one line."""

    def __init__(self, client: Any) -> None:
        """*client* is a `docker.APIClient`, which is typed in part only."""
        self._client = client
        version: dict[str, Any] = client.version()
        components = " ".join(str(part.get("Name", "")) for part in version.get("Components") or ())
        self.name = "podman" if "podman" in components.lower() else "docker"
        self.version = str(version.get("Version", ""))

    def info(self) -> dict[str, Any]:
        answer: dict[str, Any] = self._client.info()
        return answer

    def usage(self) -> dict[str, Any]:
        """Images, volumes and layers with their sizes: `system/df`."""
        answer: dict[str, Any] = self._client.df()
        return answer

    def layers(self) -> int:
        """Bytes of all layers, each counted once; engines from API 1.42 measure nothing else for this."""
        client = self._client
        response = client.get(f"{client.base_url}/v{client.api_version}/system/df", params={"type": "image"})
        response.raise_for_status()
        return layers_size(response.json())

    def image(self, reference: str) -> dict[str, Any] | None:
        """None when there is no such image."""
        from docker.errors import ImageNotFound, NotFound

        try:
            answer: dict[str, Any] = self._client.inspect_image(reference)
        except (ImageNotFound, NotFound):
            return None
        return answer

    def parents(self) -> set[str]:
        """Ids of the images from which others were built."""
        return {image["ParentId"] for image in self._client.images(all=True) if image.get("ParentId")}

    def containers(self) -> list[dict[str, Any]]:
        """All of them, stopped ones too."""
        answer: list[dict[str, Any]] = self._client.containers(all=True)
        return answer

    def running(self) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = self._client.containers()
        return answer

    def container(self, reference: str) -> dict[str, Any] | None:
        """None when there is no such container."""
        from docker.errors import NotFound

        try:
            answer: dict[str, Any] = self._client.inspect_container(reference)
        except NotFound:
            return None
        return answer

    def statistics(self, container_id: str) -> dict[str, Any]:
        """One look, without the wait for a second one that rates are made of."""
        answer: dict[str, Any] = self._client.stats(container_id, stream=False, one_shot=True)
        return answer

    def restart(self, container_id: str, grace: float) -> None:
        self._client.restart(container_id, timeout=max(1, math.ceil(grace)))

    def limit_memory(self, container_id: str, memory: int | None, memory_and_swap: int | None) -> None:
        """In bytes, none for no limit."""
        self._client.update_container(
            container_id,
            mem_limit=UNLIMITED if memory is None else memory,
            memswap_limit=UNLIMITED_WITH_SWAP if memory_and_swap is None else memory_and_swap,
        )

    def services(self) -> list[dict[str, Any]]:
        """Services of the swarm that this engine manages; none when it manages none."""
        if not (self.info().get("Swarm") or {}).get("ControlAvailable"):
            return []
        answer: list[dict[str, Any]] = self._client.services()
        return answer

    def remove(self, reference: str) -> None:
        """Remove an image by its id, or only one of its names; never by force, and its untagged parents with it."""
        self._client.remove_image(reference, force=False, noprune=False)

    def tag(self, image_id: str, name: str) -> None:
        repository, _, tag = name.rpartition(":")
        self._client.tag(image_id, repository, tag)


def layers_size(usage: Mapping[str, Any]) -> int:
    return int(usage.get("LayersSize") or 0)


def moment(text: str | None) -> datetime | None:
    """None for Go's zero time, and for what is no time. Fractions beyond microseconds are cut off."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,6})?\d*(Z|[+-]\d\d:\d\d)", text or "")
    if match is None or match[1].startswith("0001-"):
        return None
    fraction = (match[2] or "").ljust(7, "0") if match[2] else ""
    return datetime.fromisoformat(match[1] + fraction + match[3].replace("Z", "+00:00"))
