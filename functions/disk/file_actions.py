"""What is done to files: remove, compress, and decompress as its way back."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from functions.core.plan import Action, result_of
from functions.core.ports import Tools
from schemas.facts.files import FileItem, Root
from schemas.remediation import ActionResult, Estimate, Outcome, Risk
from schemas.text import show_path
from schemas.units import show_size

COMPRESSED_SHARE = 0.25
"""What is left of a log after gzip, at a cautious guess: text mostly shrinks to a tenth or less."""


class FileAction(Action):
    """Something done to each of some files below one directory."""

    root: Root
    files: tuple[FileItem, ...]

    @property
    def allocated(self) -> int:
        return sum(file.allocated for file in self.files)

    @property
    def place(self) -> str:
        return f"below {show_path(self.root.path)}"

    def items(self) -> Sequence[str]:
        base = self.root.path.rstrip("/")
        return [f"{base}/{file.path}" for file in self.files]


class RemoveFiles(FileAction):
    """Unlink files; each is checked to be the one that was planned."""

    risk: ClassVar[Risk] = Risk.IRREVERSIBLE
    undo: ClassVar[str] = "there is no way back; the audit trail keeps the name of every file"
    repeatable: ClassVar[bool] = True

    action: Literal["disk.remove_files"] = "disk.remove_files"
    kind: Literal["temporary file", "rotated log"]
    shares_blocks: bool = False
    """the filesystem may share blocks between files, so that less is freed than they hold"""

    def title(self) -> str:
        size = show_size(self.allocated)
        return f"Remove {count(self.files, self.kind)} {self.place} ({'at most ' if self.shares_blocks else ''}{size})"

    def estimates(self) -> tuple[Estimate, ...]:
        single = [file for file in self.files if file.links == 1]
        exact = len(single) == len(self.files)
        return (
            Estimate(
                amount=sum(file.allocated for file in single), unit="bytes", exact=exact and not self.shares_blocks
            ),
            Estimate(amount=len(single), unit="inodes", exact=exact),
        )

    def apply(self, tools: Tools) -> ActionResult:
        return result_of(tools.files.remove(self.root, self.files))


class CompressLogs(FileAction):
    """Replace rotated logs by their verified gzip copies."""

    risk: ClassVar[Risk] = Risk.REVERSIBLE
    undo: ClassVar[str] = "each log is decompressed again, with its owner, mode and times"
    repeatable: ClassVar[bool] = True

    action: Literal["disk.compress_logs"] = "disk.compress_logs"

    def title(self) -> str:
        freed = show_size(self.allocated * (1 - COMPRESSED_SHARE))
        return f"Compress {count(self.files, 'rotated log')} {self.place} (about {freed})"

    def estimates(self) -> tuple[Estimate, ...]:
        return (Estimate(amount=self.allocated * (1 - COMPRESSED_SHARE), unit="bytes", exact=False),)

    def apply(self, tools: Tools) -> ActionResult:
        results = tools.files.compress(self.root, self.files)
        done = {item.name for item in results if item.outcome is Outcome.DONE}
        base = self.root.path.rstrip("/")
        kept = {
            show_path(f"{base}/{file.path}"): show_path(f"{base}/{file.path}.gz")
            for file in self.files
            if file.path in done
        }
        return result_of(results).model_copy(update={"kept": kept})

    def inverse(self, result: ActionResult | None) -> "DecompressLogs | None":
        """Only what this action compressed: a `.gz` that was there before is somebody else's."""
        not_done = set() if result is None else {item.name for item in result.not_done}
        files = tuple(file for file in self.files if file.path not in not_done)
        if not files or (result is not None and result.not_done_more):
            return None
        return DecompressLogs(root=self.root, files=files)


class DecompressLogs(FileAction):
    """The way back of `CompressLogs`. The files named are the originals."""

    risk: ClassVar[Risk] = Risk.REVERSIBLE
    undo: ClassVar[str] = "the logs can be compressed again"
    repeatable: ClassVar[bool] = True

    action: Literal["disk.decompress_logs"] = "disk.decompress_logs"

    def title(self) -> str:
        return f"Decompress {count(self.files, 'log')} {self.place} again"

    def estimates(self) -> tuple[Estimate, ...]:
        return (Estimate(amount=-self.allocated * (1 - COMPRESSED_SHARE), unit="bytes", exact=False),)

    def apply(self, tools: Tools) -> ActionResult:
        return result_of(tools.files.decompress(self.root, self.files))


def count(things: Sequence[object], singular: str) -> str:
    """`1 rotated log`, `3 rotated logs`."""
    return f"{len(things)} {singular}{'' if len(things) == 1 else 's'}"
