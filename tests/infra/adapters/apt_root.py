"""A package root of a test's own: the real apt and dpkg, none of the host's directories."""

import os
import shutil
import subprocess
from datetime import UTC, datetime
from email.utils import format_datetime
from hashlib import sha256
from pathlib import Path

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def build_packages(directory: Path) -> Path:
    """Two versions of one package; the repository knows only the newer one."""
    for version in ("1.0", "1:2.0"):
        tree = directory / "tree"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN" / "control").write_text(
            f"Package: tool\nVersion: {version}\nArchitecture: all\nMaintainer: A <a@example.test>\n"
            "Description: a tool\n"
        )
        (tree / "blob").write_bytes(os.urandom(200_000))
        name = f"tool_{version.replace(':', '%3a')}_all.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-b", str(tree), str(directory / name)], check=True, capture_output=True
        )
        shutil.rmtree(tree)
    _repository(directory / "repository", directory / "tool_1%3a2.0_all.deb", version)
    return directory


def _repository(directory: Path, package: Path, version: str) -> None:
    """What `apt-ftparchive packages` and `release` write, for one package."""
    directory.mkdir()
    shutil.copy(package, directory / "tool.deb")
    contents = (directory / "tool.deb").read_bytes()
    index = (
        f"Package: tool\nVersion: {version}\nArchitecture: all\nMaintainer: A <a@example.test>\n"
        f"Filename: ./tool.deb\nSize: {len(contents)}\nSHA256: {sha256(contents).hexdigest()}\n"
        "Description: a tool\n\n"
    ).encode()
    (directory / "Packages").write_bytes(index)
    (directory / "Release").write_text(
        f"Date: {format_datetime(datetime.now(UTC), usegmt=True)}\n"
        f"SHA256:\n {sha256(index).hexdigest()} {len(index)} Packages\n"
    )


class AptRoot:
    """Where everything of one apt is, and the environment that leads it there."""

    def __init__(self, base: Path, packages: Path, repository: Path | None = None) -> None:
        """With *repository*, the one of *packages* is copied there, for users who can't look into *packages*."""
        if repository is not None:
            shutil.copytree(packages / "repository", repository)
        self.base = base
        self.archives = base / "var/cache/apt/archives"
        self.partial = self.archives / "partial"
        self.admin = base / "var/lib/dpkg"
        self.lists = base / "var/lib/apt/lists"
        for directory in (
            self.partial, self.admin / "info", self.lists / "partial", base / "etc/apt/apt.conf.d",
            base / "etc/apt/preferences.d", base / "etc/apt/sources.list.d", base / "etc/apt/trusted.gpg.d",
        ):  # fmt: skip
            directory.mkdir(parents=True)
        (self.admin / "status").touch()
        for name in ("lock", "lock-frontend"):
            (self.admin / name).touch(0o640)
        (base / "etc/apt/sources.list").write_text(
            f"deb [trusted=yes] file:{repository or packages / 'repository'} ./\n"
        )
        (base / "apt.conf").write_text(
            f'Dir "{base}/";\nDir::State::status "{self.admin}/status";\nDir::Bin::dpkg "/usr/bin/dpkg";\n'
            'Dir::Cache::pkgcache "pkgcache.bin";\nDir::Cache::srcpkgcache "srcpkgcache.bin";\n'
            'APT::Sandbox::User "root";\nAPT::Architecture "amd64";\n'
        )
        for package in packages.glob("*.deb"):
            shutil.copy(package, self.archives)

    @property
    def environment(self) -> dict[str, str]:
        return {"APT_CONFIG": str(self.base / "apt.conf"), "PATH": PATH}

    def settings(self, line: str) -> None:
        with (self.base / "apt.conf").open("a") as file:
            file.write(line + "\n")

    def write_indexes(self) -> None:
        """What every use of apt leaves beside the archives."""
        subprocess.run(["apt-cache", "stats"], env=self.environment, check=True, capture_output=True)

    def remove_indexes(self) -> None:
        for index in self.indexes:
            index.unlink(missing_ok=True)

    @property
    def indexes(self) -> list[Path]:
        return [self.archives.parent / name for name in ("pkgcache.bin", "srcpkgcache.bin")]

    @property
    def cached(self) -> set[str]:
        return {path.name for path in self.archives.iterdir()} - {"lock", "partial"}
