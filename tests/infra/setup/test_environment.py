"""infra/setup/environment.sh: what `make up` and `make test` stand on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "lamp"
version = "1"
"""

BACKEND = """
import zipfile

def build_editable(directory, config_settings=None, metadata_directory=None):
    name = "lamp-1-py3-none-any.whl"
    with zipfile.ZipFile(f"{directory}/{name}", "w") as wheel:
        wheel.writestr("lamp.py", "")
        wheel.writestr("lamp-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: lamp\\nVersion: 1\\n")
        wheel.writestr("lamp-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("lamp-1.dist-info/RECORD", "")
    return name
"""


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project without requirements, so that no network is needed, in a folder with a space."""
    folder = tmp_path / "a folder"
    (folder / "infra/setup").mkdir(parents=True)
    shutil.copy(TOP / "infra/setup/environment.sh", folder / "infra/setup")
    (folder / "requirements").mkdir()
    (folder / "requirements/run.txt").touch()
    (folder / "requirements/dev.txt").touch()
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "backend.py").write_text(BACKEND)
    return folder


def prepare(project: Path, wanted: str = "run", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "infra/setup/environment.sh", wanted],
        cwd=project, capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"PYTHON": sys._base_executable, "PIP_NO_INDEX": "1"} | environment,
    )  # fmt: skip


def test_it_installs_once_again_after_a_change_and_anew_in_another_folder(project: Path):
    assert prepare(project).stdout.startswith("Installing requirements/run.txt into .venv")
    assert prepare(project).stdout == ""

    (project / "requirements/run.txt").write_text("# changed\n")
    assert "Installing" in prepare(project).stdout

    moved = project.rename(project.with_name("elsewhere"))
    assert "Installing" in prepare(moved).stdout
    assert (moved / ".venv/bin/pip").read_text().count(str(project)) == 0
    subprocess.run([moved / ".venv/bin/python", "-c", "import lamp"], check=True, cwd="/")


def test_what_tests_need_includes_what_a_run_needs(project: Path):
    assert "Installing requirements/dev.txt" in prepare(project, "dev").stdout
    assert prepare(project, "run").stdout == ""


def test_an_installation_that_failed_is_tried_again(project: Path):
    (project / "requirements/run.txt").write_text("no-such-package==1 --hash=sha256:" + "0" * 64)
    for _ in range(2):
        failed = prepare(project)
        assert failed.returncode == 1
        assert "ansai: could not install requirements/run.txt" in failed.stderr


def test_a_python_without_ensurepip_names_the_package_that_brings_it(project: Path, tmp_path: Path):
    (tmp_path / "ensurepip.py").write_text("raise ImportError")
    python = program(tmp_path / "python3.11", f'PYTHONPATH="{tmp_path}" exec "{sys._base_executable}" "$@"')

    failed = prepare(project, PYTHON=str(python))

    assert failed.returncode == 1
    assert failed.stderr.endswith("(no ensurepip); install it with: apt-get install python3.11-venv\n")
    assert failed.stderr.count("\n") == 1


def test_a_python_that_is_too_old_is_refused(project: Path, tmp_path: Path):
    python = program(tmp_path / "python3.9", '[ "$1" = -V ] && echo Python 3.9.2')

    failed = prepare(project, PYTHON=str(python))

    assert failed.stderr.startswith(f"ansai: {python} is Python 3.9.2, too old: 3.11 or newer is needed")
    assert failed.stderr.count("\n") == 1


def test_no_python_at_all_names_the_command_that_brings_it(project: Path):
    failed = prepare(project, PYTHON="python-of-nowhere")

    assert failed.stderr == "ansai: there is no python-of-nowhere; install it with: apt-get install python3-venv\n"


def test_a_folder_that_is_no_environment_is_left_alone(project: Path):
    (project / ".venv").mkdir()
    (project / ".venv/letters").write_text("dear")

    failed = prepare(project)

    assert failed.stderr == "ansai: .venv is in the way and is no virtual environment; move it elsewhere\n"
    assert (project / ".venv/letters").read_text() == "dear"
