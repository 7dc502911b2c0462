"""What is built, what is pinned, and what no file of the project may say."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from itertools import chain
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
PACKAGES = ("schemas", "bus", "collectors", "functions", "infra")
FOLDERS = (*PACKAGES, "tests", "docs", "requirements", ".ci")
TOP_FILES = ("pyproject.toml", "Makefile", "README.md", "CHANGELOG.md", "LICENSE", ".gitignore")
DATA = {".json", ".yaml"}


def files_below(*folders: str) -> Iterator[Path]:
    """Relative to the top; without what Python and tools leave behind."""
    for folder in folders:
        for directory, names, files in os.walk(TOP / folder):
            names[:] = [name for name in names if name != "__pycache__" and not name.startswith(".")]
            yield from (Path(directory, file).relative_to(TOP) for file in files if not file.endswith(".pyc"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy: setuptools leaves a build folder, whose old files would come along the next time."""
    copy = tmp_path_factory.mktemp("source")
    for path in [*files_below(*FOLDERS), *map(Path, TOP_FILES)]:
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TOP / path, copy / path)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    done = subprocess.run([*pip, "-w", "out", "."], cwd=copy, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [built] = (copy / "out").iterdir()
    return zipfile.ZipFile(built)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_holds_our_five_packages_with_their_data_and_nothing_else(wheel: zipfile.ZipFile):
    wanted = {
        path.as_posix()
        for path in files_below(*PACKAGES)
        if path.suffix in {".py", *DATA} or path.name in ("README.md", "py.typed", "machine.sh")
    }

    held = {name for name in wheel.namelist() if ".dist-info/" not in name}

    assert held == wanted


def test_the_wheel_names_its_licence_its_command_and_its_extras(wheel: zipfile.ZipFile, metadata: Message):
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra") or []) == {"server", "logs", "containers", "nkeys"}
    [commands] = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]
    assert "ansai = infra.cli.main:main" in wheel.read(commands).decode()
    [licence] = [name for name in wheel.namelist() if name.endswith("/LICENSE")]
    assert wheel.read(licence) == (TOP / "LICENSE").read_bytes()


def test_the_wheel_works_away_from_the_source(wheel: zipfile.ZipFile, tmp_path: Path):
    """The generated schemas lie beside the code; the check compares the two."""
    wheel.extractall(tmp_path)

    done = subprocess.run(
        [sys.executable, "-P", "-m", "infra.cli.main", "schemas", "export", "--check"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(tmp_path) in done.stdout


def pins(name: str) -> dict[str, tuple[str, set[str]]]:
    """Package → version (with its marker), hashes."""
    found: dict[str, tuple[str, set[str]]] = {}
    for requirement in (TOP / "requirements" / name).read_text().replace("\\\n", "").splitlines():
        pinned, *hashes = requirement.split("--hash=sha256:")
        package, _, version = pinned.partition("==")
        found[package.partition("[")[0]] = (version.strip(), {one.strip() for one in hashes})
    return found


@pytest.mark.parametrize("name", ["run.txt", "dev.txt"])
def test_requirements_are_exact_versions_with_hashes_and_nothing_else(name: str):
    pinned = pins(name)

    assert "pydantic" in pinned
    for version, hashes in pinned.values():
        assert re.fullmatch(r"[\w.]+( ; [\w.]+ [=!<>]+ '[\w.]+'( and [\w.]+ [=!<>]+ '[\w.]+')*)?", version)
        assert hashes
        assert all(re.fullmatch("[0-9a-f]{64}", one) for one in hashes)


def test_a_pin_names_the_extras_it_stands_for():
    """An older pip takes the newest version for a package that is wanted with an extra and pinned without it."""
    assert re.search(r"^coverage\[toml\]==", (TOP / "requirements" / "dev.txt").read_text(), re.MULTILINE)


def test_the_requirements_for_development_hold_those_to_run_unchanged():
    assert pins("run.txt").items() <= pins("dev.txt").items()


@pytest.mark.parametrize("name", ["run.txt", "dev.txt"])
def test_everything_that_pyproject_names_is_pinned(name: str):
    project = tomllib.loads((TOP / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    named = [*project["project"]["dependencies"], *chain(*project["project"]["optional-dependencies"].values())]
    for group in groups if name == "dev.txt" else ["build"]:
        named += [requirement for requirement in groups[group] if isinstance(requirement, str)]

    wanted = {re.split(r"[\[<>=!~ ;]", requirement)[0].lower() for requirement in named}

    assert wanted <= pins(name).keys()


REGISTRIES = re.compile(
    rb"pypi[.]org|pythonhosted[.]org|registry[.]npmjs|deb[.]debian[.]org|registry-1[.]docker|proxy[.]golang|/simple/|"
    rb"index-url|--find-links"
)


def test_no_file_names_a_registry_or_a_path_of_this_machine():
    """A top folder right below / is too short to be told from an ordinary path."""
    here = [
        path for path in (TOP, Path(sys.prefix), Path(sysconfig.get_paths()["stdlib"])) if path.parts[1:2] != ("usr",)
    ]
    paths = [os.fsencode(path) for path in here if len(path.parts) > 2]
    offenders = {}
    for path in [*files_below(*FOLDERS), *map(Path, TOP_FILES)]:
        text = (TOP / path).read_bytes()
        found = {match.decode() for match in REGISTRIES.findall(text)} | {str(one) for one in paths if one in text}
        if found and path != Path("tests/test_packaging.py"):
            offenders[str(path)] = found

    assert offenders == {}


def test_the_top_folder_holds_no_other_package():
    """Each would be one more import package with a generic name."""
    ignored = {line.rstrip("/") for line in (TOP / ".gitignore").read_text().splitlines()}
    folders = [path for path in TOP.iterdir() if path.is_dir() and not path.name.startswith(".")]

    strangers = {path.name for path in folders if not any(path.match(pattern) for pattern in ignored)} - set(FOLDERS)

    assert strangers - {"__pycache__"} == set()
