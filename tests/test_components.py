"""The mark `needs`, the list of what was not run, and the strictness of continuous integration."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import components
from tests.components import COMPONENTS, Component

TOP = Path(__file__).parents[1]

SUITE = """
import pytest
from tests import components
from tests.components import COMPONENTS, Component

COMPONENTS["moonlight"] = Component("moonlight", "night", lambda: "the moon is down", ("moon",))
COMPONENTS["air"] = Component("air", "all", lambda: "")

@pytest.fixture
def lamp():
    components.need("moonlight")

@pytest.mark.needs("moonlight")
def test_marked(): ...

def test_with_a_fixture(lamp): ...

@pytest.mark.needs("air")
def test_breathes(): ...

@pytest.mark.skip(reason="for another cause")
def test_left_out(): ...
"""


def run(folder: Path, suite: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_suite.py").write_text(suite)
    settings = ("-c", TOP / "pyproject.toml", "-p", "tests.conftest", "-p", "no:cacheprovider")
    return subprocess.run(
        [sys.executable, "-m", "pytest", *settings, folder],
        cwd=TOP, capture_output=True, text=True, timeout=120, check=False,
        env={name: value for name, value in os.environ.items() if name != "ANSAI_TEST_REQUIRE"} | environment,
    )  # fmt: skip


def test_what_was_not_run_is_told_once_with_its_reason_and_its_cure(tmp_path):
    done = run(tmp_path, SUITE)

    assert done.returncode == 0, done.stdout
    assert "1 passed, 3 skipped" in done.stdout
    assert "   2 × needs moonlight: the moon is down (apt-get install moon)\n" in done.stdout
    assert "   1 × for another cause\n" in done.stdout


def test_a_run_that_may_leave_nothing_out_fails_for_every_skip(tmp_path):
    done = run(tmp_path, SUITE, ANSAI_TEST_REQUIRE="all")

    assert done.returncode == 1
    assert "1 passed" in done.stdout
    assert "3 errors" in done.stdout
    assert "needs moonlight: the moon is down (apt-get install moon)" in done.stdout
    assert "not run, but ANSAI_TEST_REQUIRE=all: for another cause" in done.stdout


def test_a_module_that_skips_itself_fails_such_a_run(tmp_path):
    suite = "import pytest\npytest.importorskip('no_such_module_anywhere')\ndef test_nothing(): ...\n"

    assert run(tmp_path, suite).returncode == 5  # nothing was run
    assert run(tmp_path, suite, ANSAI_TEST_REQUIRE="all").returncode == 2


def test_a_name_that_is_not_in_the_table_is_an_error(tmp_path):
    done = run(tmp_path, "import pytest\n@pytest.mark.needs('dokcerd')\ndef test_nothing(): ...\n")

    assert done.returncode == 4
    assert "needs dokcerd: not in tests/components.py" in done.stderr


@pytest.mark.parametrize("component", COMPONENTS.values(), ids=COMPONENTS.keys())
def test_each_component_says_how_to_get_it(component: Component):
    assert component.remedy
    assert component.purpose


def test_a_command_is_found_where_administrators_have_theirs(tmp_path, monkeypatch):
    program = tmp_path / "lunar"
    program.write_text("#!/bin/sh\n")
    monkeypatch.setattr(components, "SEARCH", str(tmp_path))

    assert components.command("lunar")() == "no lunar in PATH"
    program.chmod(0o755)
    assert components.command("lunar")() == ""


def test_a_right_is_absent_when_trying_it_fails():
    assert components.succeeds("sh", "-c", "echo not allowed >&2; exit 1")() == "not allowed"
    assert components.succeeds("sh", "-c", "exit 3")() == "exit status 3"
    assert components.succeeds("no-such-program-anywhere")() == "no-such-program-anywhere: No such file or directory"
    assert components.succeeds("true")() == ""
