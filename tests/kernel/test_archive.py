"""What is written is what another program unpacks."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.kernel.archive import Archive

pytestmark = pytest.mark.needs("busybox")


def unpacked(file: Path) -> Path:
    place = file.with_name("unpacked")
    place.mkdir()
    with file.open("rb") as archive:
        subprocess.run(["busybox", "cpio", "-i", "-d", "-m"], cwd=place, stdin=archive, check=True, capture_output=True)
    return place


def test_files_links_and_directories_come_out_as_they_were(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"\0\1\2 odd length")
    source.chmod(0o640)
    os.utime(source, (1_000_000_000, 1_000_000_000))
    with (tmp_path / "archive").open("wb") as output:
        archive = Archive(output)
        archive.directory("tmp", 0o1777)
        archive.copy(source, "/a/b/copied")
        archive.link("a/link", "b/copied")
        archive.file("a/empty", b"")
        archive.end()

    top = unpacked(tmp_path / "archive")

    assert (top / "a/link").read_bytes() == b"\0\1\2 odd length"
    assert os.readlink(top / "a/link") == "b/copied"
    assert stat.S_IMODE((top / "a/b/copied").stat().st_mode) == 0o640
    assert (top / "a/b/copied").stat().st_mtime == 1_000_000_000
    assert stat.S_IMODE((top / "tmp").stat().st_mode) == 0o1777
    assert (top / "a/empty").read_bytes() == b""


def test_the_first_of_two_entries_with_one_name_is_it(tmp_path):
    with (tmp_path / "archive").open("wb") as output:
        archive = Archive(output)
        archive.file("name", b"first")
        archive.file("/name", b"second")
        archive.end()

    assert (unpacked(tmp_path / "archive") / "name").read_bytes() == b"first"


def test_another_archive_may_follow(tmp_path):
    path = tmp_path / "archive"
    for content in (b"odd", b"even"):
        with path.open("ab") as output:
            archive = Archive(output)
            archive.file("name", content)
            archive.end()

        assert path.stat().st_size % 512 == 0
