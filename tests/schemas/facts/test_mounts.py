"""Which mounts count as real filesystems."""

import pytest

from schemas.facts.files import Mount
from schemas.facts.mounts import real_filesystems
from schemas.settings.disk import DiskMonitoring


def mount(point, device="8:1", fstype="ext4", root="/", options=("rw", "relatime")):
    return Mount(
        mount_id=1, device=device, root=root, point=point, options=options, fstype=fstype, source="/dev/something"
    )


def points(*mounts, **settings):
    return [found.point for found in real_filesystems(mounts, DiskMonitoring(**settings))]


def test_each_device_is_told_once_at_its_shortest_mount_point():
    assert points(mount("/srv/long"), mount("/srv"), mount("/data", device="8:2")) == ["/data", "/srv"]


def test_a_mount_of_the_whole_filesystem_is_preferred_to_a_shorter_bind_mount_of_a_part():
    assert points(mount("/b", root="/some/part"), mount("/longer/point")) == ["/longer/point"]


def test_a_device_known_only_by_parts_is_told_at_the_shortest_of_them():
    assert points(mount("/home", "0:30", "btrfs", root="/@home"), mount("/", "0:30", "btrfs", root="/@")) == ["/"]


def test_a_read_only_mount_is_skipped_and_a_writable_mount_of_the_same_device_is_found():
    assert points(mount("/a", options=("ro",)), mount("/longer", root="/part")) == ["/longer"]


@pytest.mark.parametrize("fstype", ["proc", "sysfs", "cgroup2", "devpts", "autofs", "nsfs", "ramfs", "squashfs"])
def test_kernel_types_and_images_are_no_filesystems_that_fill_up(fstype):
    assert points(mount("/mnt", fstype=fstype)) == []


@pytest.mark.parametrize("point", ["/run", "/run/user/0", "/dev/shm", "/sys/fs/cgroup", "/proc/acpi", "/var/run/x"])
def test_the_systems_own_tmpfs_is_skipped(point):
    assert points(mount(point, "0:40", "tmpfs")) == []


@pytest.mark.parametrize("point", ["/tmp", "/runner", "/mnt/test"])
def test_a_tmpfs_that_programs_fill_is_watched(point):
    assert points(mount(point, "0:40", "tmpfs")) == [point]


def test_a_disk_mounted_below_run_is_watched():
    assert points(mount("/run/media/someone/stick", "8:17", "vfat")) == ["/run/media/someone/stick"]


def test_the_overlay_of_a_container_is_skipped_but_the_root_of_the_container_we_live_in_is_watched():
    assert points(mount("/var/lib/docker/overlay2/abc/merged", "0:50", "overlay")) == []
    assert points(mount("/", "0:50", "overlay")) == ["/"]


def test_shared_memory_of_a_container_is_skipped_but_the_engines_own_disk_is_watched():
    shared = mount("/var/lib/docker/containers/abc/mounts/shm", "0:51", "tmpfs")
    assert points(shared, mount("/var/lib/docker", "8:33")) == ["/var/lib/docker"]


def test_files_that_an_engine_mounts_into_a_container_are_skipped():
    assert points(mount("/etc/hosts", root="/var/lib/docker/containers/abc/hosts")) == []


def test_of_two_mounts_stacked_on_one_point_the_upper_one_is_seen():
    assert points(mount("/mnt", "8:1"), mount("/mnt", "0:60", "squashfs")) == []


def test_settings_choose_by_type_and_by_globs_of_mount_points():
    found = (mount("/"), mount("/srv/a", "8:2"), mount("/srv/b", "8:3"), mount("/net", "0:70", "nfs4"))
    assert points(*found, ignore_types={"nfs4"}) == ["/", "/srv/a", "/srv/b"]
    assert points(*found, ignore_mounts=("/srv/*",)) == ["/", "/net"]
    assert points(*found, only_mounts=("/srv/*",), ignore_mounts=("/srv/b",)) == ["/srv/a"]
