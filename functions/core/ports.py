"""What the engine holds: the tools that change things, and where it remembers and tells.

`infra.adapters` implements the tools, `infra.hosts` the ledger, the leases and the story.

Every method of a tool blocks and runs in a thread. Each checks, immediately before it acts, that an item is still
the one that was planned; one that changed is skipped, not failed. None retries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from schemas.alert import Alert
from schemas.audit import ActionEvent
from schemas.facts.files import FileItem, Root
from schemas.incident import Incident
from schemas.remediation import ItemResult


class ToolError(Exception):
    """Expected trouble: what was tried, what was seen, what to do next, in one line for the operator."""


class FileTools(Protocol):
    def remove(self, root: Root, items: Sequence[FileItem]) -> list[ItemResult]:
        """Unlink regular files below *root*, by descriptors.

        Raises ToolError when the root itself is another one or read-only.
        """
        ...

    def compress(self, root: Root, items: Sequence[FileItem]) -> list[ItemResult]:
        """Replace each file by a verified `<name>.gz` with its mode, owner, attributes and mtime.

        An item is skipped when it grew, is open for writing, is compressed already, or the filesystem
        lacks 1.1 × the estimated output. Any failure leaves the source as it was.
        """
        ...

    def decompress(self, root: Root, items: Sequence[FileItem]) -> list[ItemResult]:
        """The way back of `compress`: items name the originals; each `.gz` becomes the original again."""
        ...


class PackageTools(Protocol):
    def clean(self, manager: str, mode: str, directory: str) -> ItemResult:
        """Run the manager's own clean (`mode` clean or autoclean). Deferred when a package lock is held."""
        ...


class JournalTools(Protocol):
    def vacuum(self, directory: str, size: int, keep_since: datetime) -> ItemResult:
        """Rotate, then remove archived files, oldest first, down to *size* bytes; keep entries after *keep_since*."""
        ...


class LogRotationTools(Protocol):
    def rotate(self, configuration: str) -> ItemResult:
        """Run logrotate for one configuration file; deferred when another logrotate runs."""
        ...


class ContainerTools(Protocol):
    def remove_image(self, engine: str, image_id: str, tags: Sequence[str]) -> ItemResult:
        """Delete by id without force; skipped when its tags changed or a container uses it by now."""
        ...


class Tools(Protocol):
    """All writing ports; one that isn't used is never built."""

    @property
    def files(self) -> FileTools: ...
    @property
    def packages(self) -> PackageTools: ...
    @property
    def journal(self) -> JournalTools: ...
    @property
    def log_rotation(self) -> LogRotationTools: ...
    @property
    def containers(self) -> ContainerTools: ...


class NotStored(Exception):
    """The audit record could not be stored. No audit, no action."""


class LedgerConflict(Exception):
    """Somebody else wrote the incident first: what we knew is old."""


@dataclass(frozen=True)
class Remembered:
    """An incident and the revision at which it was read; revision 0 when there is none yet."""

    incident: Incident | None
    revision: int


class Ledger(Protocol):
    """The incidents of one function: durable, replaced by compare-and-set."""

    def is_open(self, target: str) -> bool:
        """From a local mirror, without asking the bus; may lag by moments."""
        ...

    def open_incidents(self) -> list[Incident]:
        """From the mirror."""
        ...

    async def load(self, target: str) -> Remembered: ...
    async def save(self, incident: Incident, revision: int) -> int:
        """Store, return the new revision. Raises LedgerConflict, NotStored."""
        ...


class Held(Protocol):
    """A lease that is ours until it is lost."""

    @property
    def token(self) -> int:
        """The acquisition revision: rises with every new holder of the same target."""
        ...

    @property
    def lost(self) -> bool: ...
    async def release(self) -> None: ...


class Leases(Protocol):
    async def acquire(self, target: str) -> Held | None:
        """The lease, renewed in the background; None while somebody else holds it. Raises NotStored."""
        ...


class Story(Protocol):
    """What is told. Each call returns when the message is stored."""

    async def audit(self, correlation: str, **fields: object) -> None:
        """Append one audit record (the fields of `schemas.audit.AuditRecord`). Raises NotStored."""
        ...

    async def action(self, correlation: str, event: ActionEvent) -> None:
        """Tell followers. Never raises: a follower is no condition for acting."""
        ...

    async def alert(self, correlation: str, alert: Alert) -> bool:
        """Tell people; False when it could not be stored by now."""
        ...
