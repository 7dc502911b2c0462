"""Replacing one rotated log by its verified gzip copy, and the way back."""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator

from infra.adapters.files import gzip_stream
from infra.adapters.files.drafts import copy_attributes, draft
from infra.adapters.files.gzip_stream import Damaged, TooLarge
from infra.adapters.files.items import NotDone, UseUnknown, opened, parent_of, require_name, require_same
from infra.adapters.files.locks import lease, lock, wanted_by_others
from schemas.facts.files import FileItem
from schemas.remediation import ItemResult, Outcome
from schemas.units import show_size

ROOM = 1.1
"""Times the estimated output that must be free: the estimate comes from samples."""

InUse = frozenset[tuple[int, int]] | None


def compress(root: int, item: FileItem, in_use: InUse) -> ItemResult:
    """Write `<name>.gz` next to the file, read it back, then unlink the file. Raises NotDone, UseUnknown, OSError.

    The output is estimated from three samples of 128 KiB: a fixed share would refuse what would fit, and promise
    what would not. Whatever goes wrong, the source is as it was and no new file is left.
    """
    with parent_of(root, item.path, locking=False) as (parent, name), opened(parent, name) as source:
        before = os.fstat(source)
        target = f"{name}.gz"
        require_same(before, item)
        _require_compressible(source, before, in_use)
        _require_free_name(parent, target)
        _require_room(parent, gzip_stream.ratio(source, before.st_size) * before.st_size)
        with draft(parent, before.st_ino) as copy:
            _write_copy(source, copy.fd, before)
            copied = os.fstat(copy.fd)
            with _published(parent, copy.publish, target, copied):
                _replace(parent, name, source, before, in_use)
        os.fsync(parent)
        freed = float((before.st_blocks - copied.st_blocks) * 512)
        return ItemResult(name=item.path, outcome=Outcome.DONE, freed={"bytes": freed})


def decompress(root: int, item: FileItem, in_use: InUse) -> ItemResult:
    """The way back: the copy is checked, written out, read back, named as before, then unlinked."""
    with parent_of(root, item.path, locking=False) as (parent, name):
        _require_free_name(parent, name)
        packed_name = f"{name}.gz"
        with opened(parent, packed_name) as packed:
            before = os.fstat(packed)
            if before.st_nlink != 1:
                raise NotDone("hard link")
            if not lock(packed):
                raise NotDone("locked")
            _require_room(parent, item.allocated)
            with draft(parent, before.st_ino) as original:
                _write_original(packed, original.fd, item)
                restored = os.fstat(original.fd)
                with _published(parent, original.publish, name, restored):
                    _replace(parent, packed_name, packed, before, in_use)
            os.fsync(parent)
        freed = float((before.st_blocks - restored.st_blocks) * 512)
        return ItemResult(name=item.path, outcome=Outcome.DONE, freed={"bytes": freed})


def _require_compressible(source: int, stat: os.stat_result, in_use: InUse) -> None:
    if stat.st_nlink != 1:
        raise NotDone("hard link")
    if not lock(source):
        raise NotDone("locked")
    with lease(source, fcntl.F_RDLCK) as closed:
        _require_closed(closed, stat, in_use)
    if gzip_stream.is_compressed(source):
        raise NotDone("compressed already")


def _require_closed(closed: bool | None, stat: os.stat_result, in_use: InUse) -> None:
    """Nobody writes to it. Where the kernel can't be asked that, nobody may have it open at all."""
    if closed is None and in_use is None:
        raise UseUnknown
    if closed is False or (closed is None and in_use is not None and (stat.st_dev, stat.st_ino) in in_use):
        raise NotDone("open for writing" if closed is False else "in use")


def _require_free_name(parent: int, name: str) -> None:
    if len(os.fsencode(name)) > os.fpathconf(parent, "PC_NAME_MAX"):
        raise NotDone("its name is too long for another suffix")
    with contextlib.suppress(FileNotFoundError):
        os.stat(name, dir_fd=parent, follow_symlinks=False)
        raise NotDone("there is a file of the new name already")


def _require_room(parent: int, needed: float) -> None:
    stat = os.fstatvfs(parent)
    free = stat.f_bavail * stat.f_frsize
    if free < ROOM * needed:
        raise NotDone(f"needs {show_size(ROOM * needed)} of free space first, {show_size(free)} are there")


def _write_copy(source: int, copy: int, before: os.stat_result) -> None:
    """Compress and read back. Raises NotDone when it does not shrink, changed meanwhile, or does not read back."""
    try:
        written = gzip_stream.compress(source, copy, before.st_size, before.st_blocks * 512)
    except TooLarge:
        raise NotDone("would not shrink") from None
    _require_unchanged(source, before)
    if written.size != before.st_size:
        raise NotDone("changed: it was written to meanwhile")
    copy_attributes(source, copy, before.st_mtime_ns)
    os.fsync(copy)
    if os.fstat(copy).st_blocks >= before.st_blocks:
        raise NotDone("would not shrink")
    try:
        read = gzip_stream.content_of_compressed(copy, before.st_size)
    except (Damaged, TooLarge) as error:
        raise NotDone(f"the copy does not read back ({error}); check the disk", Outcome.FAILED) from error
    if read != written:
        raise NotDone("the copy does not read back as it was written; check the disk", Outcome.FAILED)


def _write_original(packed: int, original: int, item: FileItem) -> None:
    try:
        written = gzip_stream.decompress(packed, original, item.size)
    except Damaged as error:
        raise NotDone(f"the compressed copy is damaged: {error}", Outcome.FAILED) from error
    except TooLarge:
        raise NotDone("the compressed copy holds more than was compressed", Outcome.FAILED) from None
    if written.size != item.size:
        raise NotDone("the compressed copy holds less than was compressed", Outcome.FAILED)
    copy_attributes(packed, original, item.mtime_ns)
    os.fsync(original)
    if gzip_stream.content(original, item.size) != written:
        raise NotDone("what was written does not read back; check the disk", Outcome.FAILED)


@contextlib.contextmanager
def _published(parent: int, publish: Callable[[str], None], name: str, made: os.stat_result) -> Iterator[None]:
    """The new file has its name, safely on the disk, inside the block; when that fails the name is taken away."""
    try:
        publish(name)
    except FileExistsError:
        raise NotDone("there is a file of the new name already") from None
    try:
        os.fsync(parent)
        yield
    except BaseException:
        with contextlib.suppress(OSError, NotDone):
            require_name(parent, name, (made.st_dev, made.st_ino))
            os.unlink(name, dir_fd=parent)
        raise


def _replace(parent: int, name: str, fd: int, before: os.stat_result, in_use: InUse) -> None:
    """Unlink the old file, if it is still the very same; a writer who comes now waits until it is decided."""
    with lease(fd, fcntl.F_RDLCK) as closed:
        _require_closed(closed, before, in_use)
        _require_unchanged(fd, before)
        require_name(parent, name, (before.st_dev, before.st_ino))
        if closed and wanted_by_others(fd, fcntl.F_RDLCK):
            raise NotDone("open for writing")
        os.unlink(name, dir_fd=parent)


def _require_unchanged(fd: int, before: os.stat_result) -> None:
    """The change time counts as well: mtime can be set back."""
    now = os.fstat(fd)
    if (now.st_size, now.st_mtime_ns, now.st_ctime_ns) != (before.st_size, before.st_mtime_ns, before.st_ctime_ns):
        raise NotDone("changed: it was written to meanwhile")
