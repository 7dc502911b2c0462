import fcntl
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from infra.adapters.files import walking
from infra.adapters.files.machine import MachineFiles
from schemas.facts.files import FileItem
from schemas.probes import ProbeError
from tests.infra.adapters.files.conftest import REPOSITORY

pytestmark = pytest.mark.usefixtures("either_way_of_opening")


def aged(path, **ago):
    moment = time.time() - timedelta(**ago).total_seconds()
    os.utime(path, (moment, moment))


def test_regular_files_are_found_with_what_they_hold(tree):
    path = tree.file("a/b/log.1", b"x" * 5000)
    tree.file("top")

    walk = tree.walk()
    found = {stat.path: stat for stat in tree.probe.walk(walk)}

    assert set(found) == {"a/b/log.1", "top"}
    stat, seen = path.stat(), found["a/b/log.1"]
    assert (seen.device, seen.inode, seen.mtime_ns, seen.size) == (stat.st_dev, stat.st_ino, stat.st_mtime_ns, 5000)
    assert (seen.allocated, seen.links, seen.uid) == (stat.st_blocks * 512, 1, stat.st_uid)
    assert walk.met == 2
    assert walk.skipped == {}


def test_age_counts_from_the_newest_time_or_from_mtime_alone(tree):
    """An unpacked archive has old mtimes; its ctime tells when it really came."""
    aged(tree.file("unpacked"), days=400)

    month_ago = datetime.now(UTC) - timedelta(days=30)

    assert tree.found(older_than=month_ago) == []
    assert tree.found(older_than=month_ago, by_mtime=True) == ["unpacked"]
    (stat,) = tree.probe.walk(tree.walk())
    assert stat.newest_ns == max(tree.path.joinpath("unpacked").stat().st_ctime_ns, stat.mtime_ns)


def test_names_choose_and_exclusions_take_directories_with_all_below(tree):
    for name in ("a.log.1", "a.log", "keep/b.log.1", "sub/c.log.1", "x.pid"):
        tree.file(name)

    assert tree.found(names=("*.[0-9]",)) == ["a.log.1", "keep/b.log.1", "sub/c.log.1"]
    assert tree.found(exclude=("keep", "*.pid")) == ["a.log", "a.log.1", "sub/c.log.1"]


def test_links_pipes_sockets_and_devices_are_never_found(tree, tmp_path, needs_root, monkeypatch):
    monkeypatch.chdir(tree.path)  # a socket's path must be short
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").touch()
    (tree.path / "link").symlink_to(tmp_path / "outside")
    (tree.path / "file link").symlink_to(tmp_path / "outside" / "file")
    os.mkfifo(tree.path / "pipe")
    os.mknod(tree.path / "null", 0o600 | 0o020000, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")

    assert tree.found() == []


def test_odd_names_are_found_and_survive_json(tree):
    names = [b"-rf", b"new\nline", b"\xff\xfe not utf-8", b"x" * 255, b" ", b"\\x41", b"*"]
    for name in names:
        tree.file(name)

    items = tree.items()

    assert sorted(os.fsencode(item.path) for item in items) == sorted(names)
    assert [FileItem.model_validate_json(item.model_dump_json()) for item in items] == items


def test_a_hard_link_is_passed_by(tree, tmp_path):
    (tmp_path / "shadow").write_text("secret")
    os.link(tmp_path / "shadow", tree.path / "innocent")

    assert tree.found() == []
    assert tree.skipped == {"hard link": 1}


def test_files_in_use_are_passed_by(tree):
    stat = tree.file("used").stat()

    assert tree.found(skip=[(stat.st_dev, stat.st_ino)]) == []
    assert tree.skipped == {"in use": 1}


def test_locked_files_and_directories_are_passed_by(tree):
    tree.file("locked")
    tree.file("kept/deep/file")
    tree.file("free")
    with open(tree.path / "locked") as file:
        directory = os.open(tree.path / "kept", os.O_RDONLY)
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.flock(directory, fcntl.LOCK_SH)
        try:
            assert tree.found() == ["free"]
            assert tree.skipped == {"locked": 2}
        finally:
            os.close(directory)

    assert tree.found() == ["free", "kept/deep/file", "locked"]


def test_a_locked_root_is_left_alone(tree):
    tree.file("a")
    directory = os.open(tree.path, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    try:
        assert tree.found() == []
        assert tree.skipped == {"locked": 1}
    finally:
        os.close(directory)


def test_no_mount_is_crossed_not_even_a_bind_mount_of_the_same_filesystem(tree, mount, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").touch()
    tree.file("ours")
    mount("bind", "tree/same filesystem", str(tmp_path / "outside"))
    mount("bind", "tree/everything", "/")
    mount("tmpfs", "tree/other")

    assert tree.found() == ["ours"]
    assert tree.skipped == {"another mount": 3}


def test_a_file_that_is_a_mount_point_is_passed_by(tree, tmp_path, needs_root):
    (tmp_path / "precious").touch()
    point = tree.file("sub/point")
    subprocess.run(["mount", "--bind", str(tmp_path / "precious"), str(point)], check=True)
    try:
        assert tree.found() == []
        assert tree.skipped == {"another mount": 1}
    finally:
        subprocess.run(["umount", str(point)], check=True)


def test_a_root_that_holds_the_packs_own_state_is_not_walked(tree):
    tree.file("state/store/file")
    walk = tree.walk()
    tree.probe = MachineFiles(own=[str(tree.path / "state")])

    with pytest.raises(ProbeError, match="own state"):
        list(tree.probe.walk(walk))


def test_the_packs_own_state_is_passed_by_under_another_name_too(tree, tmp_path):
    tree.file("state/file")
    tree.file("other")
    (tmp_path / "alias").symlink_to(tree.path / "state")
    tree.probe = MachineFiles(own=[str(tmp_path / "alias")])

    assert tree.found() == ["other"]
    assert tree.skipped == {"own state": 1}


@pytest.mark.parametrize("ahead", [{"hours": 2}, {"days": 4000}])
def test_a_time_in_the_future_ends_the_walk(tree, ahead):
    tree.file("a")
    future = time.time() + timedelta(**ahead).total_seconds()
    os.utime(tree.file("b"), (future, future))

    tree.found()

    assert tree.skipped == {"clock": 1}


def test_a_clock_that_was_set_back_ends_the_walk(tree):
    tree.file("a")
    two_hours = 2 * 3600 * 10**9
    probe = MachineFiles(now_ns=lambda: time.time_ns() - two_hours)
    walk = tree.walk(older_than=datetime.now(UTC) - timedelta(days=7))

    assert list(probe.walk(walk)) == []
    assert walk.skipped == {"clock": 1}


def test_minutes_ahead_are_no_reason_to_stop(tree):
    soon = time.time() + 1800
    os.utime(tree.file("ahead"), (soon, soon))
    tree.file("old")

    assert tree.found() == ["old"]
    assert tree.skipped == {}


@pytest.fixture
def reachable(tmp_path):
    """pytest's directories are closed to other users."""
    changed = []
    for parent in [tmp_path, *tmp_path.parents]:
        mode = parent.stat().st_mode
        if not mode & 0o001:
            parent.chmod(mode | 0o011)
            changed.append((parent, mode))
    yield
    for parent, mode in changed:
        parent.chmod(mode & 0o7777)


def test_a_directory_that_may_not_be_read_is_counted(tree, needs_root, reachable):
    tree.file("open/a")
    tree.file("closed/b").parent.chmod(0)
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            os.write(writer, repr((tree.found(), tree.skipped)).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with open(reader, "rb") as answer:
        told = answer.read().decode()

    assert told == "(['open/a'], {'permission denied': 1})"


def test_a_link_swapped_in_for_a_directory_during_the_walk_is_not_followed(tree, tmp_path, monkeypatch):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").touch()
    tree.file("sub/file")
    enter = walking.Descent.enter

    def swap_then_enter(self, name, refused):
        os.rename(tree.path / name, tree.path / ".moved")
        (tree.path / name).symlink_to(tmp_path / "outside")
        enter(self, name, refused)

    monkeypatch.setattr(walking.Descent, "enter", swap_then_enter)

    assert "sub/precious" not in tree.found()
    assert tree.skipped == {"changed": 1}


def test_a_directory_renamed_out_of_the_tree_during_the_walk_does_no_harm(tree, tmp_path):
    for number in range(5):
        tree.file(f"sub/deep/{number}")
    found = tree.probe.walk(tree.walk())
    items = [FileItem.of(next(found))]
    os.rename(tree.path / "sub", tmp_path / "escaped")
    items += [FileItem.of(stat) for stat in found]

    results = tree.tools.remove(tree.root, items)

    assert {result.reason for result in results} == {"gone"}
    assert len(os.listdir(tmp_path / "escaped" / "deep")) == 5


def test_a_file_that_vanishes_during_the_walk_is_counted(tree, monkeypatch):
    tree.file("gone")
    candidate = walking.FileWalk._candidate

    def vanish(self, prefix, entry):
        os.unlink(tree.path / entry.name)
        return candidate(self, prefix, entry)

    monkeypatch.setattr(walking.FileWalk, "_candidate", vanish)

    assert tree.found() == []
    assert tree.skipped == {"changed": 1}


def test_very_deep_paths_are_walked_to_a_limit_and_counted(mount, tree_on):
    top = mount("tmpfs", "deep")
    below = os.open(top, os.O_RDONLY)
    for level in range(5_000):
        if level % 100 == 0:
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=below))
        os.mkdir("d", dir_fd=below)
        deeper = os.open("d", os.O_RDONLY, dir_fd=below)
        os.close(below)
        below = deeper
    os.close(below)
    tree = tree_on(top)

    assert tree.found() == sorted(["file", "d/" * 100 + "file"])
    assert tree.skipped == {"too deep": 1}
    assert len(tree.probe.largest(str(top), 5)) == 2


def test_access_times_stay(mount, tree_on):
    top = mount("tmpfs", "strict", options="strictatime")
    tree = tree_on(top)
    tree.file("sub/file")
    aged(top / "sub", days=3)
    aged(top, days=3)
    before = [os.stat(top / name).st_atime_ns for name in ("", "sub", "sub/file")]

    assert tree.found() == ["sub/file"]

    assert [os.stat(top / name).st_atime_ns for name in ("", "sub", "sub/file")] == before


def test_a_directory_of_a_million_files_is_streamed_in_bounded_memory(mount):
    """The first file is there before the directory is read to its end, and memory does not grow with it."""
    top = mount("tmpfs", "crowd", options="nr_inodes=1100k")
    script = """
import os, resource, sys
from datetime import UTC, datetime, timedelta
from infra.adapters.files.machine import MachineFiles
from schemas.probes import Walk
top = sys.argv[1]
directory = os.open(top, os.O_RDONLY)
for number in range(1_000_000):
    os.mknod(f"a name of some length {number}", 0o100600, dir_fd=directory)
probe = MachineFiles()
walk = Walk(root=probe.root(top), older_than=datetime.now(UTC) + timedelta(minutes=10))
found = probe.walk(walk)
next(found)
met = walk.met
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = 1 + sum(1 for _ in found)
print(count, met, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(top)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    count, met, grown = map(int, done.stdout.split())

    assert count == 1_000_000
    assert met == 1
    assert grown < 2_000, "kilobytes; a list of the names alone takes 100,000"


def test_the_largest_files_are_told_by_blocks_once_each(ext4):
    (ext4 / "sub").mkdir()
    (ext4 / "sub" / "big").write_bytes(os.urandom(3 << 20))
    os.link(ext4 / "sub" / "big", ext4 / "same")
    (ext4 / "small").write_bytes(b"x" * 5000)
    with open(ext4 / "sparse", "wb") as file:
        file.truncate(1 << 30)
    os.sync()

    found = MachineFiles().largest(str(ext4), 2)

    assert [os.path.basename(file.path) for file in found][1:] == ["small"]
    assert os.path.basename(found[0].path) in {"big", "same"}
    assert found[0].allocated == (ext4 / "same").stat().st_blocks * 512
    with pytest.raises(ProbeError, match="nothing is mounted"):
        MachineFiles().largest(str(ext4 / "sub"), 2)


def test_a_sparse_file_counts_its_blocks(tree):
    with open(tree.path / "sparse", "wb") as file:
        file.truncate(1 << 30)

    (stat,) = tree.probe.walk(tree.walk())

    assert (stat.size, stat.allocated) == (1 << 30, 0)
