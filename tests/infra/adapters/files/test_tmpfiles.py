"""What systemd-tmpfiles was told to keep is kept by us, too."""

import pytest

from infra.adapters.files.machine import MachineFiles
from infra.adapters.files.tmpfiles import kept


@pytest.fixture
def directories(tmp_path):
    made = [tmp_path / "etc", tmp_path / "lib"]
    for directory in made:
        directory.mkdir()
    return made


def lines(directory, name: str, *text: str) -> None:
    (directory / name).write_text("\n".join(text) + "\n")


def test_a_small_x_keeps_a_path_with_all_below_it_and_a_capital_one_the_path_alone(directories):
    lines(directories[0], "a.conf", "# comment", "x /tmp/podman-run-*", "X! /tmp/one", "d /tmp/other 0755", "")

    assert kept([str(each) for each in directories]) == ("/tmp/podman-run-*", "/tmp/podman-run-*/*", "/tmp/one")


def test_a_file_in_etc_hides_one_of_the_same_name(directories):
    lines(directories[0], "a.conf", "x /tmp/mine")
    lines(directories[1], "a.conf", "x /tmp/theirs")

    assert kept([str(each) for each in directories]) == ("/tmp/mine", "/tmp/mine/*")


def test_a_link_to_dev_null_switches_a_file_off(directories):
    (directories[0] / "a.conf").symlink_to("/dev/null")
    lines(directories[1], "a.conf", "x /tmp/theirs")

    assert kept([str(each) for each in directories]) == ()


def test_whatever_a_specifier_stands_for_is_kept(directories):
    lines(directories[0], "a.conf", 'x "/tmp/systemd private-%b-%%"', "x '/tmp/open")

    assert kept([str(each) for each in directories])[0] == "/tmp/systemd private-*-%"


def test_a_missing_directory_keeps_nothing(tmp_path):
    assert kept([str(tmp_path / "none")]) == ()


def test_this_machines_own_configuration_can_be_read():
    assert all(glob.startswith("/") for glob in MachineFiles().kept_by_tmpfiles())
