"""A container engine's images, volumes and containers."""

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


OWNING_UNIT = "PODMAN_SYSTEMD_UNIT"
"""Label of a container that a unit of systemd runs."""


class Container(Fact):
    """One container that runs."""

    id: str
    name: Text
    engine: str = ""
    """docker or podman"""
    image: Text = ""
    started: datetime | None = None
    """with the id what tells this run from the next"""
    pid: int = 0
    """of its first process, as the host counts"""
    control_group: PathText = ""
    """below the hierarchy that carries memory; empty when it could not be found"""
    labels: dict[str, str] = {}
    health: str = ""
    """healthy, unhealthy, starting; empty without a health check"""
    restart_policy: str = ""
    memory_limit: int | None = None
    """bytes"""
    memory_swap_limit: int | None = None
    """bytes, memory and swap together"""
    project: Text = ""
    """of compose, whose services are replicas of each other"""
    service: Text = ""

    @property
    def owner(self) -> str:
        """The unit that runs it; empty for one that its engine alone looks after."""
        return self.labels.get(OWNING_UNIT, "")
