"""Changing files: remove, compress, and decompress as its way back."""

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from functions.core.ports import ToolError
from infra.adapters.files import compressing, descriptors, removing
from infra.adapters.files.items import NotDone, UseUnknown, trouble
from infra.adapters.files.open_files import OpenFiles
from infra.adapters.files.roots import Roots
from schemas.facts.files import FileItem, Root
from schemas.probes import ProbeError
from schemas.remediation import ItemResult, Outcome
from schemas.text import show_path

InUse = frozenset[tuple[int, int]] | None
Act = Callable[[int, FileItem, InUse], ItemResult]

USE_FRESH = 2.0
"""Seconds for which the list of open files is believed where leases can't be had."""


class MachineFileTools:
    """Implements `functions.core.ports.FileTools`. *own* are the pack's own directories, which are never touched.

    Directories are never removed: an empty one takes a block, and a service may expect it to exist.
    """

    def __init__(self, proc: str = "/proc", sys: str = "/sys", own: Iterable[str] = ()) -> None:
        self._roots = Roots(own)
        self._open = OpenFiles(proc, sys)

    def remove(self, root: Root, items: Sequence[FileItem]) -> list[ItemResult]:
        """See the port. Freed: bytes by blocks, and inodes, of files whose last name went."""
        return self._each(root, items, removing.remove)

    def compress(self, root: Root, items: Sequence[FileItem]) -> list[ItemResult]:
        """See the port. Freed: bytes by blocks, the copy's taken off. Done is `<name>` → `<name>.gz`."""
        return self._each(root, items, compressing.compress)

    def decompress(self, root: Root, items: Sequence[FileItem]) -> list[ItemResult]:
        """See the port. Freed is negative. An item whose original is still there is skipped."""
        return self._each(root, items, compressing.decompress)

    def _each(self, root: Root, items: Sequence[FileItem], act: Act) -> list[ItemResult]:
        """Raises ToolError when the root is another one, or read-only before anything was done.

        When it turns read-only in between, what was done is told as done and the rest as failed.
        """
        results: list[ItemResult] = []
        batch = _Batch(self._open)
        with self._opened(root) as fd:
            for item in items:
                try:
                    results.append(batch.run(act, fd, item))
                except NotDone as reason:
                    results.append(_not_done(item, reason))
                except OSError as error:
                    if error.errno == errno.EROFS:
                        return results + _rest(root, items[len(results) :], results)
                    results.append(_not_done(item, trouble(error)))
        return results

    @contextlib.contextmanager
    def _opened(self, root: Root) -> Iterator[int]:
        with contextlib.ExitStack() as stack:
            try:
                fd = stack.enter_context(self._roots.open(root))
            except ProbeError as error:
                raise ToolError(str(error)) from error
            if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
                raise _read_only(root)
            yield fd


class _Batch:
    """The items of one call. The list of open files is made only where the kernel can't be asked file by file."""

    def __init__(self, open_files: OpenFiles) -> None:
        self._open = open_files
        self._in_use: InUse = None
        self._read_at = float("-inf")

    def run(self, act: Act, root: int, item: FileItem) -> ItemResult:
        if self._in_use is None:
            try:
                return act(root, item, None)
            except UseUnknown:
                pass  # its descriptor is closed again, so that it is not found in the list by ourselves
        return act(root, item, self._list())

    def _list(self) -> frozenset[tuple[int, int]]:
        if self._in_use is None or time.monotonic() - self._read_at > USE_FRESH:
            try:
                self._in_use = self._open.in_use()
            except ProbeError as error:
                raise NotDone(f"it is not known whether it is in use: {error}") from error
            self._read_at = time.monotonic()
        return self._in_use


def _not_done(item: FileItem, reason: NotDone) -> ItemResult:
    return ItemResult(name=item.path, outcome=reason.outcome, reason=str(reason))


def _read_only(root: Root) -> ToolError:
    return ToolError(
        f"change files below {show_path(root.path)}: {descriptors.describe(OSError(errno.EROFS, ''))}; "
        "look into the kernel's log why, then remount it"
    )


def _rest(root: Root, items: Sequence[FileItem], results: Sequence[ItemResult]) -> list[ItemResult]:
    if not any(result.outcome is Outcome.DONE for result in results):
        raise _read_only(root)
    reason = "not done: the filesystem became read-only"
    return [ItemResult(name=item.path, outcome=Outcome.FAILED, reason=reason) for item in items]
