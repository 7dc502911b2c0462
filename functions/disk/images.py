"""Which images of a container engine may go. Pure."""

from collections import defaultdict
from datetime import datetime
from typing import NamedTuple

from schemas.facts.containers import Engine, Image
from schemas.settings.disk import AutoCleanup


class Removable(NamedTuple):
    """Oldest first; and why others that nobody uses stay."""

    dangling: list[Image]
    unused: list[Image]
    kept: dict[str, int]
    """reason → how many"""


def removable(engine: Engine, settings: AutoCleanup, now: datetime) -> Removable:
    """Sort the images that no container, running or stopped, and no service uses."""
    newest = _newest_of_each_repository(engine, settings.images_kept_per_repository)
    dangling: list[Image] = []
    unused: list[Image] = []
    kept: dict[str, int] = defaultdict(int)
    for image in sorted(engine.images, key=lambda image: (image.created, image.id)):
        if image.used_by:
            continue
        reason = _kept_because(image, image.id in newest, settings, now)
        if reason:
            kept[reason] += 1
        else:
            (dangling if image.dangling else unused).append(image)
    return Removable(dangling, unused, dict(kept))


def _kept_because(image: Image, newest: bool, settings: AutoCleanup, now: datetime) -> str:
    if settings.image_keep_label in image.labels:
        return f"labelled {settings.image_keep_label}"
    if now - max(image.created, image.last_tagged or image.created) < settings.image_min_age:
        return "younger than image_min_age"
    if image.dangling:
        return ""
    if image.last_tagged is None:
        return "not known when it was last tagged"  # an old image may have been pulled a minute ago
    if not image.digests or any(tag.startswith("localhost/") for tag in image.tags):
        return "made here, no registry has it"
    return "among the newest of its repository" if newest else ""


def repository(tag: str) -> str:
    """The repository of a tag: `registry:5000/app:1.2` is in `registry:5000/app`."""
    name = tag.partition("@")[0]
    head, colon, tail = name.rpartition(":")
    return head if colon and "/" not in tail else name


def _newest_of_each_repository(engine: Engine, count: int) -> set[str]:
    repositories: dict[str, dict[str, Image]] = defaultdict(dict)
    for image in engine.images:
        for tag in image.tags:
            repositories[repository(tag)][image.id] = image
    newest: set[str] = set()
    for images in repositories.values():
        ranked = sorted(images.values(), key=lambda image: (image.created, image.id), reverse=True)
        newest.update(image.id for image in ranked[:count])
    return newest
