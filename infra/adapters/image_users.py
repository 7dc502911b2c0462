"""Who uses an image: containers, running or not, and the services of a swarm. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any


def names(values: Iterable[str] | None) -> tuple[str, ...]:
    """Tags or digests as an engine tells them, without its words for none."""
    return tuple(value for value in values or () if not value.startswith("<none>"))


def users(
    image: Mapping[str, Any], containers: Iterable[Mapping[str, Any]], services: Iterable[Mapping[str, Any]]
) -> tuple[str, ...]:
    """Names of all that refer to *image*, as told by an inspection or a list of images."""
    using = [container_name(container) for container in containers if container.get("ImageID") == image["Id"]]
    known = {plain_reference(name) for name in (*names(image.get("RepoTags")), *names(image.get("RepoDigests")))}
    for service in services:
        specification = service.get("Spec") or {}
        reference = ((specification.get("TaskTemplate") or {}).get("ContainerSpec") or {}).get("Image", "")
        if known & set(references(reference)):
            using.append(f"service {specification.get('Name', service.get('ID', ''))}")
    return tuple(using)


def container_name(container: Mapping[str, Any]) -> str:
    given = container.get("Names") or ()
    return str(given[0]).lstrip("/") if given else str(container.get("Id", ""))[:12]


def references(reference: str) -> list[str]:
    """The names by which `app:1@sha256:…` can be known: `app:1` and `app@sha256:…`."""
    name, at, digest = reference.partition("@")
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = name, ""
    found = [f"{repository}:{tag or 'latest'}"]
    if at:
        found.append(f"{repository}@{digest}")
    return [plain_reference(one) for one in found]


def plain_reference(name: str) -> str:
    """`docker.io/library/app:1` is `app:1`."""
    return name.removeprefix("docker.io/").removeprefix("library/")
