"""How much one plan may take, and how its files are cut into actions. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from functions.core.plan import batches
from schemas.facts.files import FileItem, Usage
from schemas.settings.disk import AutoCleanup

PORTIONS = 10
"""The way to the target is measured at least this often: rungs before may have freed more than surely known."""

MARGIN = 2
"""Times the need up to which the pieces stay small: others may write meanwhile, or less come free than foretold."""


@dataclass
class Budget:
    """What one plan may take: so many files, and so much of the filesystem. Each file is taken once."""

    files: int
    bytes: float
    inodes: float
    taken: set[tuple[int, int]] = field(default_factory=set)

    @classmethod
    def of(cls, usage: Usage, settings: AutoCleanup) -> "Budget":
        share = settings.max_percent / 100
        return cls(
            files=settings.max_files, bytes=usage.total * share,
            inodes=usage.inodes_total * share if usage.inodes_total else float("inf"),
        )  # fmt: skip

    def has(self, file: FileItem) -> bool:
        return (file.device, file.inode) in self.taken

    def limit(self, file: FileItem, removes: bool) -> str:
        """The setting that forbids to take *file* as well; empty when none does."""
        if self.files < 1:
            return "max_files"
        return "max_percent" if removes and (self.bytes < file.allocated or self.inodes < 1) else ""

    def take(self, file: FileItem, removes: bool) -> None:
        self.taken.add((file.device, file.inode))
        self.files -= 1
        if removes:
            self.bytes -= file.allocated
            self.inodes -= 1


def portions(
    files: Sequence[FileItem], worth: Callable[[FileItem], float], need: float, most: int
) -> Iterator[list[FileItem]]:
    """Cut *files* where their worth first reaches *need*; on the way there, and as far beyond, into small pieces.

    Live measures after each piece, so it stops soon when a rung before freed more than was surely known, and does
    not go too far when a little is still missing.
    """
    step, done = need / PORTIONS, 0.0
    for batch in batches(files, worth, need, most):
        if done >= MARGIN * need:
            yield batch
        else:
            yield from _pieces(batch, worth, step)
            done += sum(worth(file) for file in batch)


def _pieces(files: list[FileItem], worth: Callable[[FileItem], float], step: float) -> Iterator[list[FileItem]]:
    """Runs of files that are together worth at most *step*; what is worth more stands alone."""
    piece: list[FileItem] = []
    size = 0.0
    for file in files:
        if piece and size + worth(file) > step:
            yield piece
            piece, size = [], 0.0
        piece.append(file)
        size += worth(file)
    if piece:
        yield piece
