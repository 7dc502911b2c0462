"""What a tree looks like, so that a test can tell that nothing was written."""

import os
from pathlib import Path


def snapshot(top: Path) -> dict[str, tuple[int, ...]]:
    """Every path below *top* with what any write would change: mode, inode, size, times of contents and of itself."""
    seen: dict[str, tuple[int, ...]] = {}
    for directory, directories, files in os.walk(top):
        for name in (".", *directories, *files):
            path = os.path.join(directory, name)
            stat = os.lstat(path)
            seen[path] = (stat.st_mode, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_nlink)
    return seen


def allocated(*paths: Path) -> int:
    return sum(os.lstat(path).st_blocks * 512 for path in paths)
