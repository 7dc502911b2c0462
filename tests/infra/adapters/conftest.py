"""Machines of a test's own: a package root."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import components
from tests.docker_engine import DockerEngine, docker_engine
from tests.infra.adapters import journals
from tests.infra.adapters.apt_root import AptRoot, build_packages


@pytest.fixture(scope="session")
def built_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with small packages: tool 1.0 and 1:2.0, and a repository that has only the newer one."""
    components.need("apt-get")
    return build_packages(tmp_path_factory.mktemp("packages"))


@pytest.fixture
def apt_root(built_packages: Path, tmp_path: Path) -> AptRoot:
    """apt with a root, a repository and settings of its own; its cache holds both versions of the package."""
    root = AptRoot(tmp_path / "apt", built_packages)
    subprocess.run(["apt-get", "update"], env=root.environment, check=True, capture_output=True)
    root.remove_indexes()
    return root


@pytest.fixture(scope="session")
def built_journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    components.need("journalctl", "journal-remote", "unshare", "mounts")
    return journals.build(tmp_path_factory.mktemp("journal"), days=6)


@pytest.fixture
def journal_directory(built_journal: Path, tmp_path: Path) -> Path:
    """The journal of the machine `journals.MACHINE`: six archived files of a day each, and an active one."""
    return journals.copy(built_journal, tmp_path / "journal" / journals.MACHINE)


@pytest.fixture(scope="session")
def dockerd() -> Iterator[DockerEngine]:
    with docker_engine() as engine:
        yield engine


@pytest.fixture
def docker(dockerd: DockerEngine) -> Iterator[DockerEngine]:
    """An engine without images, containers and volumes."""
    yield dockerd
    dockerd.clear()
