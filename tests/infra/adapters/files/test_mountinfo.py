import os

import pytest
from hypothesis import given
from hypothesis import strategies as some

from infra.adapters.files.machine import MachineFiles
from infra.adapters.files.mountinfo import escape, holder, parse_line, unescape
from schemas.probes import ProbeError

paths = (
    some.binary(min_size=1, max_size=60).filter(lambda raw: b"\0" not in raw).map(lambda raw: os.fsdecode(b"/" + raw))
)


@given(paths)
def test_what_the_kernel_escapes_is_read_back(path):
    written = escape(path)

    assert not set(written) & set(b" \t\n")
    assert unescape(written) == path


@given(point=paths, root=paths, source=paths, number=some.integers(1, 2**31), fields=some.integers(0, 4))
def test_a_line_is_taken_apart_whatever_its_paths_hold(point, root, source, number, fields):
    optional = b" ".join([b"shared:%d" % field for field in range(fields)])
    line = b"%d 1 0:42 %s %s rw,nosuid %s%s- tmpfs %s rw,size=4k" % (
        number, escape(root), escape(point), optional, b" " if fields else b"", escape(source),
    )  # fmt: skip

    mount = parse_line(line)

    assert (mount.mount_id, mount.device, mount.fstype) == (number, "0:42", "tmpfs")
    assert (mount.root, mount.point, mount.source) == (root, point, source)
    assert mount.options == ("rw", "nosuid")
    assert not mount.read_only


def test_a_superblock_made_read_only_by_an_error_makes_the_mount_read_only():
    mount = parse_line(b"21 1 254:0 / /data rw,relatime shared:1 - ext4 /dev/vda ro,errors=remount-ro")

    assert mount.read_only
    assert mount.options == ("ro", "relatime")


@pytest.mark.parametrize("line", [b"", b"21 1", b"x 1 0:1 / / rw - ext4 none rw", b"21 1 \xff / / rw - ext4 none rw"])
def test_a_broken_line_is_an_error_that_shows_it(line):
    with pytest.raises(ProbeError, match="is no line of it"):
        parse_line(line)


def test_a_mount_point_with_a_space_and_a_newline_is_found(mount):
    point = mount("tmpfs", "with space\nand newline")

    found = {seen.point: seen for seen in MachineFiles().mounts()}

    assert found[str(point)].fstype == "tmpfs"
    assert MachineFiles().mount_of(str(point)) == str(point)
    assert MachineFiles().usage(str(point)).point == str(point)


def test_the_mount_of_a_path_is_the_innermost_and_links_are_followed(mount, tmp_path):
    point = mount("tmpfs", "inner")
    (point / "file").touch()
    (tmp_path / "link").symlink_to(point)

    assert MachineFiles().mount_of(str(tmp_path / "link" / "file")) == str(point)
    assert MachineFiles().mount_of(str(tmp_path)) != str(point)
    with pytest.raises(ProbeError, match="No such file"):
        MachineFiles().mount_of(str(point / "missing"))
    with pytest.raises(ProbeError, match="no absolute path"):
        MachineFiles().mount_of("inner")


def test_a_name_that_only_begins_alike_is_not_below_a_mount():
    mounts = [parse_line(b"1 1 0:1 / %s rw - ext4 none rw" % point) for point in (b"/", b"/data", b"/data/a")]

    assert [holder(mounts, path).point for path in ("/database", "/data", "/data/a/b")] == ["/", "/data", "/data/a"]


def test_without_a_proc_the_error_says_so(tmp_path):
    with pytest.raises(ProbeError, match="is /proc mounted"):
        MachineFiles(proc=str(tmp_path)).mounts()
