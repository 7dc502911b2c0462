"""`ansai schemas export`."""

import json

import pytest


def test_an_export_can_be_checked_and_repeated(ansai, tmp_path):
    written = ansai("schemas", "export", "--output", str(tmp_path / "out"))
    again = ansai("schemas", "export", "--output", str(tmp_path / "out"))
    checked = ansai("schemas", "export", "--check", "--output", str(tmp_path / "out"))

    assert "asyncapi.json written" in written.out
    assert again.out == checked.out == f"{tmp_path / 'out'}: up to date\n"
    assert json.loads((tmp_path / "out" / "asyncapi.json").read_text())["asyncapi"] == "3.0.0"


def test_a_check_of_old_files_fails_and_changes_nothing(ansai, tmp_path):
    ansai("schemas", "export", "--output", str(tmp_path))
    (tmp_path / "asyncapi.json").write_text("{}")

    checked = ansai("schemas", "export", "--check", "--output", str(tmp_path))

    assert checked.code == 1
    assert checked.out == f"{tmp_path / 'asyncapi.json'} differs from the models\n"
    assert (tmp_path / "asyncapi.json").read_text() == "{}"


@pytest.mark.parametrize("directory", ["/proc/nowhere", "/dev/null/x"])
def test_a_directory_that_can_not_be_written_is_one_line(ansai, directory):
    ended = ansai("schemas", "export", "--output", directory)

    assert ended.code == 1
    assert ended.err.count("\n") == 1
    assert "name another directory with --output" in ended.err
