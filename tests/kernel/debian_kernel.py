"""Debian's kernel for virtual machines: downloaded by apt into a cache directory, unpacked there, never installed."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from tests.components import SEARCH

NEWEST = "linux-image-cloud-amd64"
"""depends on the newest one"""
_PATIENCE = 600  # seconds that a download may take


class NoKernel(Exception):
    """Why there is none, and what to do, in one line."""


def cache_directory(environment: Mapping[str, str] = os.environ) -> Path:
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache", "ansai-kernel")


def kernel(cache: Path) -> Path:
    """The image of the one that is in *cache*, downloaded when there is none. Raises NoKernel."""
    found = sorted(cache.glob("linux-image-*/boot/vmlinuz-*"), key=lambda path: path.stat().st_mtime)
    if found:
        return found[-1]
    refusal = _refusal(cache, os.environ)
    if refusal:
        raise NoKernel(f"there is no kernel in {cache}; {refusal}")
    cache.mkdir(parents=True, exist_ok=True)
    package = _download(cache)
    (image,) = package.glob("boot/vmlinuz-*")
    return image


def module_files(image: Path, wanted: Collection[str]) -> list[tuple[Path, str]]:
    """The files of the modules *wanted*, of those that they depend on, and the indexes, with their places inside."""
    (directory,) = image.parents[1].glob("lib/modules/*")
    lines = (line.partition(":") for line in (directory / "modules.dep").read_text().splitlines())
    needs = {file: others.split() for file, _, others in lines}
    files = {file for name in wanted for file in needs if Path(file).name.partition(".")[0] == name}
    files |= {other for file in files for other in needs[file]}  # all of them, not only the next ones
    files |= {path.name for path in directory.glob("modules.*.bin")}
    return [(directory / file, f"/usr/lib/modules/{directory.name}/{file}") for file in sorted(files)]


def _refusal(cache: Path, environment: Mapping[str, str]) -> str:
    """As for packages (tests.installing): only when it was said that it may be."""
    if environment.get("CI") == "true" or environment.get("ANSAI_TEST_INSTALL") == "1":
        return ""
    if sys.stdin is None or not sys.stdin.isatty():
        return "ANSAI_TEST_INSTALL=1 downloads Debian's"
    try:
        answer = input(f"Download Debian's kernel for virtual machines, of about 30 MB, into {cache}? [y/N] ")
    except EOFError:
        answer = ""
    return "" if answer.strip().lower() in ("y", "yes") else "as you said, none was downloaded"


def _download(cache: Path) -> Path:
    """The directory of the unpacked package."""
    name = _newest()
    print(f"Downloading {name} with apt into {cache} …", flush=True)
    with tempfile.TemporaryDirectory(dir=cache) as directory:
        _run("apt-get", "--quiet", "--quiet", "download", name, directory=Path(directory))
        (archive,) = Path(directory).glob("*.deb")
        _run("dpkg-deb", "--extract", str(archive), f"{directory}/unpacked", directory=cache)
        _run("depmod", "--basedir", f"{directory}/unpacked", name.removeprefix("linux-image-"), directory=cache)
        place = cache / archive.stem
        Path(directory, "unpacked").rename(place)  # whole, or not there
    return place


def _newest() -> str:
    """The package that `NEWEST` depends on, with its version in its name."""
    for line in _run("apt-cache", "depends", NEWEST, directory=Path("/")).splitlines():
        kind, _, name = line.strip().partition(": ")
        if kind == "Depends" and name.startswith("linux-image-"):
            return name
    raise NoKernel(f"apt knows no {NEWEST}; run apt-get update, on Debian")


def _run(*argv: str, directory: Path) -> str:
    try:
        done = subprocess.run(
            argv, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE,
            check=False, env={**os.environ, "LC_ALL": "C.UTF-8", "PATH": SEARCH},
        )  # fmt: skip
    except OSError as error:
        raise NoKernel(f"{argv[0]}: {error.strerror}; this needs Debian") from error
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.splitlines()
        raise NoKernel(f"{' '.join(argv)}: {said[-1] if said else f'status {done.returncode}'}; try apt-get update")
    return done.stdout
