"""What can be changed. Only the engine holds these tools; `infra.adapters` implements them.

Every method blocks and runs in a thread. Each checks, immediately before it acts, that an item is still
the one that was planned; one that changed is skipped, not failed. None retries.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from schemas.facts.files import FileItem, Root
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
        """The way back of `compress`: items name the original files; their `.gz` is replaced by the original again."""
        ...


class PackageTools(Protocol):
    def clean(self, manager: str, mode: str, directory: str) -> ItemResult:
        """Run the manager's own clean (`mode` clean or autoclean). Deferred when a package lock is held."""
        ...


class JournalTools(Protocol):
    def vacuum(self, directory: str, size: int, keep_since: datetime) -> ItemResult:
        """Rotate, then remove archived files, oldest first, down to *size* bytes, none with entries after *keep_since*."""
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
