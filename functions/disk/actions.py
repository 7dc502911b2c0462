"""What is done through those who own the space: package managers, journald, logrotate, container engines."""

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Literal

from functions.core.plan import Action, result_of
from functions.core.ports import Tools
from functions.disk.file_actions import count
from schemas.remediation import ActionResult, Estimate, Risk
from schemas.text import PathText, Text, show_path
from schemas.units import show_size


class CleanPackageCache(Action):
    """Let a package manager clean its download cache."""

    risk: ClassVar[Risk] = Risk.REPRODUCIBLE
    undo: ClassVar[str] = "not taken back; what is needed is downloaded again"
    repeatable: ClassVar[bool] = True

    action: Literal["disk.clean_package_cache"] = "disk.clean_package_cache"
    manager: str
    mode: Literal["clean", "autoclean"]
    directory: PathText
    allocated: int
    """bytes that go"""
    files: int
    at_most: bool
    """the manager decides itself what goes, or blocks are shared"""

    def title(self) -> str:
        what = "all downloaded packages" if self.mode == "clean" else "packages that can't be downloaded any more"
        size = f"{'at most ' if self.at_most else ''}{show_size(self.allocated)}"
        return f"Let {self.manager} remove {what} from {show_path(self.directory)} ({size})"

    def estimates(self) -> tuple[Estimate, ...]:
        return (
            Estimate(amount=self.allocated, unit="bytes", exact=not self.at_most),
            Estimate(amount=self.files, unit="inodes", exact=not self.at_most),
        )

    def items(self) -> Sequence[str]:
        return [self.directory]

    def apply(self, tools: Tools) -> ActionResult:
        return result_of([tools.packages.clean(self.manager, self.mode, self.directory)])


class VacuumJournal(Action):
    """Rotate the journal, then drop its oldest archived files down to a size."""

    risk: ClassVar[Risk] = Risk.IRREVERSIBLE
    undo: ClassVar[str] = "there is no way back; the history that journal_keep asks for stays"
    repeatable: ClassVar[bool] = True

    action: Literal["disk.vacuum_journal"] = "disk.vacuum_journal"
    directory: PathText
    size: int
    """bytes, archived and active files together"""
    keep_since: datetime
    allocated: int
    """bytes that go at most: the active files that a rotation begins take some again"""

    def title(self) -> str:
        return f"Vacuum the journal to {show_size(self.size)} (at most {show_size(self.allocated)})"

    def estimates(self) -> tuple[Estimate, ...]:
        return (Estimate(amount=self.allocated, unit="bytes", exact=False),)

    def items(self) -> Sequence[str]:
        return [self.directory]

    def apply(self, tools: Tools) -> ActionResult:
        return result_of([tools.journal.vacuum(self.directory, self.size, self.keep_since)])


class RotateLogs(Action):
    """Let logrotate do what it finds due in one of its configuration files."""

    risk: ClassVar[Risk] = Risk.IRREVERSIBLE
    undo: ClassVar[str] = "not taken back; it is the rotation that was due anyway, and logrotate drops what it would"
    # Beginning again does nothing twice: only what logrotate itself still finds due is rotated.
    repeatable: ClassVar[bool] = True

    action: Literal["disk.rotate_logs"] = "disk.rotate_logs"
    configuration: PathText
    logs: tuple[PathText, ...]
    """absolute paths of the logs that are due"""
    allocated: int
    """bytes of those that are compressed when rotated"""

    def title(self) -> str:
        logs = count(self.logs, "log")
        return f"Let logrotate rotate {logs} of {show_path(self.configuration)} (at most {show_size(self.allocated)})"

    def estimates(self) -> tuple[Estimate, ...]:
        return (Estimate(amount=self.allocated, unit="bytes", exact=False),)

    def items(self) -> Sequence[str]:
        return self.logs

    def apply(self, tools: Tools) -> ActionResult:
        return result_of([tools.log_rotation.rotate(self.configuration)])


class RemoveImage(Action):
    """Remove one image that no container uses, by its id and without force."""

    risk: ClassVar[Risk] = Risk.REPRODUCIBLE
    undo: ClassVar[str] = "not taken back; a tagged image can be pulled again, a dangling one built again"
    repeatable: ClassVar[bool] = True

    action: Literal["disk.remove_image"] = "disk.remove_image"
    engine: str
    image: str
    tags: tuple[Text, ...]
    allocated: int
    """bytes of the layers that no other image has"""

    @property
    def name(self) -> str:
        return self.tags[0] if self.tags else self.image.removeprefix("sha256:")[:12]

    def title(self) -> str:
        what = "image" if self.tags else "dangling image"
        return f"Remove {self.engine} {what} {self.name} (at most {show_size(self.allocated)})"

    def estimates(self) -> tuple[Estimate, ...]:
        return (Estimate(amount=self.allocated, unit="bytes", exact=False),)

    def items(self) -> Sequence[str]:
        return [f"{self.name} {self.image}" if self.tags else self.image]

    def apply(self, tools: Tools) -> ActionResult:
        return result_of([tools.containers.remove_image(self.engine, self.image, self.tags)])
