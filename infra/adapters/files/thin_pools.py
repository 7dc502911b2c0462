"""Thin pools below block devices, as sysfs shows them."""

import os

from schemas.probes import ProbeError


def thin_pool(sys: str, device: str) -> str | None:
    """Name of the LVM thin pool that *device* (major:minor) is cut from, at whatever depth; None when there is none.

    Raises ProbeError when sysfs can't be read; a device without an entry there (tmpfs, nfs, btrfs) has no pool.
    """
    block = f"{sys}/dev/block"
    if not os.path.isdir(block):
        raise ProbeError(f"read {block}: no such directory, so thin pools can't be told; is /sys mounted?")
    waiting, seen = [f"{block}/{device}"], set[str]()
    try:
        while waiting:
            place = os.path.realpath(waiting.pop())
            if place in seen or not os.path.isdir(place):
                continue
            seen.add(place)
            if _read(f"{place}/dm/uuid").endswith("-tpool"):
                return _read(f"{place}/dm/name").removesuffix("-tpool")
            if os.path.exists(f"{place}/partition"):
                waiting.append(os.path.dirname(place))  # what a partition lies on is its disk's matter
            slaves = f"{place}/slaves"
            if os.path.isdir(slaves):
                waiting += [f"{slaves}/{name}" for name in sorted(os.listdir(slaves))]
    except OSError as error:
        raise ProbeError(f"read {error.filename}: {error.strerror}") from error
    return None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""
