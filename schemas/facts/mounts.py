"""Which mounts are the machine's real filesystems: the rule shared by the collector and the function. Pure."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from schemas.facts.files import Mount
from schemas.settings.disk import DiskMonitoring

KERNEL_TYPES = frozenset({
    "autofs", "bdev", "binder", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "cpuset", "debugfs", "devpts",
    "devtmpfs", "efivarfs", "fuse.gvfsd-fuse", "fuse.lxcfs", "fuse.portal", "fusectl", "hugetlbfs", "mqueue",
    "nfsd", "nsfs", "pipefs", "proc", "pstore", "ramfs", "resctrl", "rootfs", "rpc_pipefs", "securityfs", "selinuxfs",
    "smackfs", "sockfs", "sysfs", "tracefs",
})  # fmt: skip
"""Types that hold the kernel's or a session's own objects: nothing fills them, nothing in them can be cleaned."""

KERNEL_POINTS = ("/proc", "/sys", "/dev", "/run", "/var/run")
"""A tmpfs here belongs to the system. A tmpfs elsewhere (/tmp, a build directory) can fill up and is watched."""

ENGINE_POINTS = (
    "/var/lib/docker/*", "/var/lib/containers/*", "/var/lib/containerd/*", "/var/lib/kubelet/*",
    "/home/*/.local/share/containers/*",
)  # fmt: skip
"""A tmpfs or overlay here belongs to one container: its shared memory, its secrets, its root."""

CONTAINER_FILES = frozenset({"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"})
"""Single files that an engine bind-mounts into a container; they are no place to look at a filesystem."""


def real_filesystems(mounts: Iterable[Mount], settings: DiskMonitoring) -> list[Mount]:
    """One mount for each writable filesystem that can fill up, sorted by mount point.

    A device that is mounted several times is told once: where its own root is mounted rather than a part of
    it, then at the shortest mount point. Of mounts stacked on one point only the top one can be seen.
    """
    visible = {mount.point: mount for mount in mounts}
    chosen: dict[str, Mount] = {}
    for mount in visible.values():
        if not _real(mount) or not _wanted(mount, settings):
            continue
        best = chosen.get(mount.device)
        if best is None or _preference(mount) < _preference(best):
            chosen[mount.device] = mount
    return sorted(chosen.values(), key=lambda mount: mount.point)


def _preference(mount: Mount) -> tuple[bool, int, str]:
    return mount.root != "/", len(mount.point), mount.point


def _real(mount: Mount) -> bool:
    if mount.read_only or mount.fstype in KERNEL_TYPES or mount.point in CONTAINER_FILES:
        return False
    if mount.fstype == "overlay":
        return mount.point == "/"  # inside a container it is all there is; elsewhere it is a container's root
    if mount.fstype == "tmpfs":
        system = any(mount.point == point or mount.point.startswith(f"{point}/") for point in KERNEL_POINTS)
        return not system and not any(fnmatchcase(mount.point, pattern) for pattern in ENGINE_POINTS)
    return True


def _wanted(mount: Mount, settings: DiskMonitoring) -> bool:
    if mount.fstype in settings.ignore_types:
        return False
    if any(fnmatchcase(mount.point, pattern) for pattern in settings.ignore_mounts):
        return False
    return not settings.only_mounts or any(fnmatchcase(mount.point, pattern) for pattern in settings.only_mounts)
