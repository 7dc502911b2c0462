"""Unlinking one planned file."""

import fcntl
import os

from infra.adapters.files.items import NotDone, UseUnknown, opened, parent_of, require_name, require_same
from infra.adapters.files.locks import lease, lock, wanted_by_others
from schemas.facts.files import FileItem
from schemas.remediation import ItemResult, Outcome


def remove(root: int, item: FileItem, in_use: frozenset[tuple[int, int]] | None) -> ItemResult:
    """Unlink it, if it is still the planned one and nobody has it open or locked. Directories stay.

    The last checks and the unlink happen under a lease: whoever opens the file meanwhile waits, and if somebody
    began to, the file stays. *in_use* is asked where there are no leases; UseUnknown is raised without it.
    """
    with parent_of(root, item.path, locking=True) as (parent, name), opened(parent, name) as fd:
        require_same(os.fstat(fd), item)
        if not lock(fd):
            raise NotDone("locked")
        with lease(fd, fcntl.F_WRLCK) as alone:
            if alone is None and in_use is None:
                raise UseUnknown
            if alone is False or (alone is None and in_use is not None and (item.device, item.inode) in in_use):
                raise NotDone("in use")
            stat = os.fstat(fd)
            require_same(stat, item)
            require_name(parent, name, (item.device, item.inode))
            if alone and wanted_by_others(fd, fcntl.F_WRLCK):
                raise NotDone("in use")
            os.unlink(name, dir_fd=parent)
        last = stat.st_nlink == 1
        freed = {"bytes": float(stat.st_blocks * 512), "inodes": 1.0} if last else {}
        return ItemResult(name=item.path, outcome=Outcome.DONE, freed=freed)
