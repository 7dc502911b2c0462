import os

import pytest

from infra.adapters.files.machine import MachineFiles
from infra.adapters.files.roots import NEVER
from schemas.probes import ProbeError, Walk


def test_a_directory_is_bound_to_its_inode(tmp_path):
    root = MachineFiles().root(f"{tmp_path}//")

    assert (root.path, root.device, root.inode) == (str(tmp_path), tmp_path.stat().st_dev, tmp_path.stat().st_ino)


@pytest.mark.parametrize("path", ["", ".", "tmp", "../tmp", "/tmp/../etc", "//..//etc"])
def test_what_is_not_absolute_is_never_taken_for_another_path(path):
    with pytest.raises(ProbeError, match="must be an absolute path"):
        MachineFiles().root(path)


@pytest.mark.parametrize("path", [*NEVER, "//", "/etc/", "//usr", "/./home", "/proc/1", "/dev/pts"])
def test_directories_that_are_never_cleaned_as_a_whole(path):
    with pytest.raises(ProbeError, match="never cleaned as a whole"):
        MachineFiles().root(path)


@pytest.mark.parametrize("source", ["/", "/etc"])
def test_nor_by_another_name(mount, source):
    point = mount("bind", "harmless", source)

    with pytest.raises(ProbeError, match="another name of a directory that is never cleaned"):
        MachineFiles().root(str(point))


@pytest.mark.parametrize("name", ["", "state", "state/deeper"])
def test_the_packs_own_state_and_what_holds_it_are_refused(tmp_path, name):
    (tmp_path / "state" / "deeper").mkdir(parents=True)

    with pytest.raises(ProbeError, match="own state"):
        MachineFiles(own=[str(tmp_path / "state")]).root(str(tmp_path / name))


def test_a_link_is_not_followed_in_any_component(tmp_path):
    (tmp_path / "real" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")

    for path in (tmp_path / "link", tmp_path / "link" / "below"):
        with pytest.raises(ProbeError, match="is a link, or goes through one"):
            MachineFiles().root(str(path))


def test_a_file_and_a_missing_directory_are_errors(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(ProbeError, match="Not a directory"):
        MachineFiles().root(str(tmp_path / "file"))
    with pytest.raises(ProbeError, match="No such file"):
        MachineFiles().root(str(tmp_path / "missing"))


def test_a_root_replaced_after_planning_is_not_walked(tree):
    tree.file("a")
    walk = tree.walk()
    os.rename(tree.path, tree.path.with_name("old"))
    tree.file("b")

    with pytest.raises(ProbeError, match="another directory than the one planned"):
        list(tree.probe.walk(walk))


def test_no_descriptor_stays_open(tree):
    tree.file("a/b/c")
    tree.file("a/b/d")
    before = sorted(os.listdir("/proc/self/fd"))

    assert tree.found()
    half_walked = tree.probe.walk(Walk(root=tree.root, older_than=tree.walk().older_than))
    next(half_walked)
    half_walked.close()

    assert sorted(os.listdir("/proc/self/fd")) == before
