"""Real filesystems for the file adapters: small ones, mounted below the test's own directory, gone afterwards."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.adapters.files.machine import MachineFiles
from infra.adapters.files.tools import MachineFileTools
from schemas.facts.files import FileItem
from schemas.probes import Walk

REPOSITORY = Path(__file__).parents[4]
"""Where scripts run, so that they import the code under test."""

Mounter = Callable[..., Path]

SOON = timedelta(minutes=10)
"""Everything just made is older than this from now, and nothing is so far in the future that the clock looks wrong."""


@pytest.fixture
def needs_root():
    if os.geteuid() != 0:
        pytest.skip("mounts, attributes and owners need root")


@pytest.fixture
def mount(needs_root, tmp_path) -> Iterator[Mounter]:
    """mount(fstype or "bind", name, source, options): mounted at tmp_path/name until the test ends."""
    points: list[Path] = []

    def mounted(kind: str, name: str, source: str = "none", options: str = "") -> Path:
        point = tmp_path / name
        point.mkdir(exist_ok=True, parents=True)
        how = ["--bind"] if kind == "bind" else ["-t", kind]
        subprocess.run(["mount", *how, *(["-o", options] if options else []), source, str(point)], check=True)
        points.append(point)
        return point

    yield mounted
    for point in reversed(points):
        subprocess.run(["umount", str(point)], check=True)


@pytest.fixture
def ext4(mount, tmp_path) -> Path:
    """A loop-mounted ext4 of 16 MB."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-N", "512", str(image)], check=True)
    return mount("ext4", "ext4", str(image), "loop")


@pytest.fixture
def privately(needs_root):
    """Run a script in mount and process namespaces of its own; gives back the JSON it printed."""

    def run(script: str, *arguments: str) -> object:
        argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        done = subprocess.run(
            [*argv, sys.executable, "-c", script, *arguments],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


class Tree:
    """A directory to clean, and what the adapters say about it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.probe = MachineFiles()
        self.tools = MachineFileTools()
        self.skipped: dict[str, int] = {}

    @property
    def root(self):
        return self.probe.root(str(self.path))

    def file(self, name: str | bytes, content: bytes = b"old") -> Path:
        path = self.path / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def walk(self, **options) -> Walk:
        return Walk(root=self.root, **{"older_than": datetime.now(UTC) + SOON, **options})

    def found(self, **options) -> list[str]:
        walk = self.walk(**options)
        names = sorted(stat.path for stat in self.probe.walk(walk))
        self.skipped = walk.skipped
        return names

    def items(self, **options) -> list[FileItem]:
        found = self.probe.walk(self.walk(**options))
        return sorted((FileItem.of(stat) for stat in found), key=lambda item: item.path)

    def names(self) -> list[str]:
        return sorted(
            os.path.relpath(os.path.join(top, name), self.path)
            for top, _, names in os.walk(self.path)
            for name in names
        )


@pytest.fixture
def tree(tmp_path) -> Tree:
    path = tmp_path / "tree"
    path.mkdir()
    return Tree(path)


@pytest.fixture
def tree_on() -> type[Tree]:
    return Tree


@pytest.fixture(params=[True, False], ids=["openat2", "without openat2"])
def either_way_of_opening(request, monkeypatch):
    """Old kernels and strict containers have no openat2."""
    if not request.param:
        monkeypatch.setattr("infra.adapters.files.descriptors.has_openat2", lambda: False)


MOUNTINFO = "21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"


@pytest.fixture
def recorded_proc(tmp_path):
    """recorded_proc(mountinfo=…, processes={pid: {"fd": {...}, "maps": …}}): a /proc made of plain files and links."""

    def record(mountinfo: str = MOUNTINFO, swaps: str = "Filename Type\n", processes=None) -> str:
        proc = tmp_path / "proc"
        (proc / "self").mkdir(parents=True)
        (proc / "self" / "mountinfo").write_text(mountinfo)
        (proc / "swaps").write_text(swaps)
        (proc / "locks").write_text("")
        for pid, process in ({"1": {}} | (processes or {})).items():
            home = proc / pid
            (home / "fd").mkdir(parents=True)
            for name in ("cwd", "root", "exe"):
                (home / name).symlink_to(process.get(name, "/"))
            for number, target in process.get("fd", {}).items():
                (home / "fd" / number).symlink_to(target)
            (home / "maps").write_text(process.get("maps", ""))
            (home / "comm").write_text("recorded\n")
            (home / "cgroup").write_text("0::/system.slice/recorded.service\n")
        return str(proc)

    return record
