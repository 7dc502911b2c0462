"""A container engine's images and volumes."""

from datetime import datetime

from schemas.facts.files import Fact
from schemas.text import PathText, Text


class Image(Fact):
    id: str
    tags: tuple[Text, ...]
    digests: tuple[Text, ...]
    """references under which a registry can give it again; none means it can't be pulled"""
    created: datetime
    last_tagged: datetime | None = None
    unique: int
    """bytes of the layers that no other image shares: what removing it frees"""
    labels: dict[str, str] = {}
    used_by: tuple[Text, ...] = ()
    """containers, running or stopped, and services that refer to it"""

    @property
    def dangling(self) -> bool:
        return not self.tags


class Volume(Fact):
    name: Text
    anonymous: bool
    created: datetime | None
    size: int | None
    used_by: tuple[Text, ...] = ()


class Engine(Fact):
    """The engine's data root and what lies in it."""

    name: str
    """docker or podman"""
    version: str
    root: PathText
    device: int
    images: tuple[Image, ...]
    volumes: tuple[Volume, ...]
    layers: int
    """bytes of all layers, each counted once"""
