"""Everything together: small real filesystems, a real nats-server, and the command line as real processes.

Processes run in namespaces of their own: there every process can be looked into, whatever else runs on this machine,
and all that they start ends with them.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from bus import subjects
from bus.jetstream import JetStreamBus, connect
from bus.port import Stored, StreamName
from infra.configuration import load
from schemas.audit import ActionEvent, AuditRecord, Step
from schemas.disk import DiskPressure
from schemas.envelope import Event
from schemas.settings.disk import df_percent
from schemas.settings.root import Configuration
from schemas.trigger import Asked, Trigger
from tests import components
from tests.audit_trail import records_of
from tests.functions.core.tank import EAGER
from tests.servers import NatsServer, running_server
from tests.waiting import until

REPOSITORY = Path(__file__).parents[2]
HOST = "web-1"
FUNCTION = "disk.free_space"
MIB = 2**20
PATIENCE = 60
"""Seconds that a test waits for what must come."""
APART = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc", "--kill-child")


def clean_environment(home: Path) -> dict[str, str]:
    """No setting of the machine that runs the tests; state and settings below *home*."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSAI_", "XDG_", "COLUMNS"))}
    return kept | {
        "HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_RUNTIME_DIR": str(home),
        "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "error", "NO_COLOR": "1", "COLUMNS": "160",
    }  # fmt: skip


# ── filesystems ───────────────────────────────────────────────────────────────────────────────────────────────────


class Volume:
    """A small filesystem of a test's own."""

    def __init__(self, point: Path, kind: str) -> None:
        self.point = point
        self.kind = kind

    def write(self, name: str, content: bytes | int, days_old: float = 60) -> Path:
        """A file whose content, or whose number of random bytes, is given."""
        path = self.point / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(content) if isinstance(content, int) else content)
        moment = time.time() - days_old * 86400
        os.utime(path, (moment, moment))
        return path

    def settle(self) -> None:
        """Ext4 allocates late: figures are those of the disk only after a sync."""
        subprocess.run(["sync", "-f", self.point], check=True)

    def used(self) -> int:
        self.settle()
        seen = os.statvfs(self.point)
        return (seen.f_blocks - seen.f_bfree) * seen.f_frsize

    def inodes_used(self) -> int:
        self.settle()
        seen = os.statvfs(self.point)
        return seen.f_files - seen.f_ffree

    def percent(self) -> float:
        seen = os.statvfs(self.point)
        used = self.used()
        return df_percent(used, seen.f_bavail * seen.f_frsize) or 0

    def inode_percent(self) -> float:
        seen = os.statvfs(self.point)
        return df_percent(seen.f_files - seen.f_ffree, seen.f_favail) or 0

    def fill(self, percent: float, size: int = MIB // 2, directory: str = "tmp") -> list[str]:
        """Temporary files, the first one the oldest, until so much is used; returns their paths."""
        names = []
        while self.percent() < percent:
            name = f"{directory}/f{len(names):04}"
            names.append(str(self.write(name, size, days_old=300 - len(names) / 10)))
        return names

    async def aged(self) -> None:
        """Return when all files are older than the second that the settings ask for: no ctime can be set."""
        newest = max(self.last_used().values()) / 1e9
        await until(lambda: time.time() - newest > 2.1)

    def last_used(self) -> dict[str, int]:
        """Path → the newest of a file's three times, in nanoseconds."""
        found = {str(path): path.lstat() for path in self.point.rglob("*") if not path.is_dir()}
        return {path: max(stat.st_atime_ns, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in found.items()}

    def files(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in self.point.rglob("*") if path.is_file()}


@contextlib.contextmanager
def small_filesystem(directory: Path, kind: str, size: int = 64, inodes: int = 2000) -> Iterator[Volume]:
    """*size* mebibytes, mounted below *directory*."""
    components.need("root", "mounts")
    point = directory / "volume"
    point.mkdir(parents=True)
    if kind == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}M,nr_inodes={inodes},mode=755", "none", point]
    else:
        components.need("loop", "losetup", "mkfs.ext4")
        image = directory / "image"
        with image.open("wb") as file:
            file.truncate(size * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-N", str(inodes), "-m", "5", image], check=True)
        command = ["mount", "-o", "loop", image, point]
    subprocess.run(command, check=True)
    try:
        yield Volume(point, kind)
    finally:
        subprocess.run(["umount", "--recursive", point], check=True)


@pytest.fixture(params=["tmpfs", "ext4"])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Volume]:
    """An empty filesystem of 64 MiB and 2000 inodes, once in memory and once on a disk."""
    with small_filesystem(tmp_path, request.param) as made:
        yield made


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Volume]:
    """The same, in memory only."""
    with small_filesystem(tmp_path, "tmpfs") as made:
        yield made


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────────────────


def settings_for(volume: Volume, *, policy: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Live and with short times; `cleanup` in *changes* is for auto_cleanup, the rest for disk_monitoring."""
    cleanup = {
        "log_directories": [f"{volume.point}/log"], "temp_directories": {f"{volume.point}/tmp": "1 s"},
        "max_percent": 100, "rotate_logs": False, "package_cache": False, "docker_images": False,
        "journal_size": False, **changes.pop("cleanup", {}),
    }  # fmt: skip
    return {
        "host": HOST,
        "bus": {"lease_ttl": "3 s"},
        "policy": {"mode": "auto", "default": {**EAGER, "cooldown": "2 s", **(policy or {})}},
        "disk_monitoring": {
            "only_mounts": [str(volume.point)], "every": "1 s", "confirm": 1, "grace": "1 s", **changes,
            "auto_cleanup": cleanup,
        },
    }  # fmt: skip


# ── processes ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


class Process:
    """A program in namespaces of its own, that a test may stop and kill."""

    def __init__(self, process: asyncio.subprocess.Process, output: Path) -> None:
        self._process = process
        self._output = output

    @property
    def said(self) -> str:
        """Both of its outputs so far."""
        return self._output.read_text(errors="replace")

    @property
    def code(self) -> int | None:
        return self._process.returncode

    async def pid(self) -> int:
        """Of the program itself: `unshare` is its parent."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return int((await until(lambda: children.read_text().split()))[0])

    async def says(self, words: str) -> None:
        def said() -> bool:
            assert self.code is None or words in self.said, f"ended with {self.code}: {self.said}"
            return words in self.said

        await until(said, lambda: self.said)

    async def signal(self, number: signal.Signals) -> int:
        """Send it to the program; return the exit status."""
        os.kill(await self.pid(), number)
        async with asyncio.timeout(PATIENCE):
            return await self._process.wait()

    async def stop(self) -> int:
        return await self.signal(signal.SIGTERM)

    async def kill(self) -> None:
        await self.signal(signal.SIGKILL)

    async def end(self) -> None:
        """However it is: everything in its namespace goes with it."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


# ── a site ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Site:
    """One nats-server, any number of processes on it, and one connection of the test itself."""

    def __init__(self, directory: Path, server: NatsServer) -> None:
        self.directory = directory
        self.server = server
        self.environment = clean_environment(directory) | {"ANSAI_BUS__URL": server.url}
        self.processes: list[Process] = []
        self.bus: JetStreamBus

    def configure(self, settings: dict[str, Any]) -> Configuration:
        """Write them where every process of this site finds them."""
        path = self.directory / "ansai.yaml"
        path.write_text(yaml.safe_dump(settings))
        return load(str(path), {"ANSAI_BUS__URL": self.server.url})

    async def open(self, settings: dict[str, Any]) -> Configuration:
        configuration = self.configure(settings)
        self.bus = await connect(configuration.bus, name="the test")
        return configuration

    async def close(self) -> None:
        for process in self.processes:
            await process.end()
        if hasattr(self, "bus"):
            await self.bus.close()

    async def spawn(self, *argv: str, **environment: str) -> Process:
        """Start a program apart; what still runs is ended with the test."""
        output = self.directory / f"output-{len(self.processes)}"
        with output.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                *APART, *argv, cwd=self.directory, env=self.environment | environment, stdin=subprocess.DEVNULL,
                stdout=file, stderr=file,
            )  # fmt: skip
        self.processes.append(Process(process, output))
        return self.processes[-1]

    async def start(self, *arguments: str, **environment: str) -> Process:
        """Start the command line and return when it runs."""
        process = await self.spawn(sys.executable, "-m", "infra.cli.main", *arguments, **environment)
        await process.says("running on")
        return process

    async def run(self, *arguments: str, **environment: str) -> Result:
        """Run the command line to its end."""
        process = await asyncio.create_subprocess_exec(
            *APART, sys.executable, "-m", "infra.cli.main", *arguments, cwd=self.directory,
            env=self.environment | environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            async with asyncio.timeout(PATIENCE):
                out, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return Result(process.returncode or 0, out.decode(), err.decode())

    # What is on the bus.

    async def stored(self, stream: StreamName, pattern: str = "") -> list[Stored]:
        return [message async for message in self.bus.read(stream, pattern)]

    async def records(self, *steps: Step) -> list[AuditRecord]:
        """The audit trail, or only these steps of it."""
        found = records_of(await self.stored(StreamName.AUDIT))
        return [record for record in found if not steps or record.step in steps]

    async def pressures(self, target: str) -> list[Event[DiskPressure]]:
        subject = subjects.health(HOST, "disk", "pressure", target)
        stored = await self.stored(StreamName.HEALTH, subject)
        return [Event[DiskPressure].model_validate_json(each.body) for each in stored]

    async def healed(self, times: int = 1) -> AuditRecord:
        """Wait for the record that an incident was healed."""

        async def found() -> AuditRecord | None:
            records = await self.records(Step.HEALED)
            return records[-1] if len(records) >= times else None

        record: AuditRecord = await until(found, lambda: "\n".join(process.said for process in self.processes))
        return record

    async def ask(self, target: str | None, mode: Asked = Asked.DRY_RUN, host: str = HOST) -> list[ActionEvent]:
        """Publish a trigger; every action event that it caused, up to the final one."""
        listening = self.bus.listen(f"ansai.action.{host}.{FUNCTION}.*")
        await listening.ready()
        order = Event[Trigger](source="/test", type=Trigger.type_name(), data=Trigger(target=target, mode=mode))
        heard: list[ActionEvent] = []
        try:
            async with asyncio.timeout(PATIENCE):
                await self.bus.publish(subjects.trigger(host, FUNCTION, "tester"), order.body(), message_id=order.id)
                async for _, body in listening:
                    event = Event[ActionEvent].model_validate_json(body)
                    if event.correlationid == order.correlationid:
                        heard.append(event.data)
                        if event.data.final:
                            return heard
        finally:
            await listening.aclose()
        raise AssertionError(f"no final answer, only {heard}")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    components.need("root", "unshare", "mounts")
    async with running_server(tmp_path / "nats") as server:
        home = tmp_path / "home"
        home.mkdir()
        made = Site(home, server)
        try:
            yield made
        finally:
            await made.close()


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """For sockets, whose paths may be a hundred characters long, and for users who can't look into pytest's own."""
    with tempfile.TemporaryDirectory(prefix="ansai-e2e-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


# ── what was done ─────────────────────────────────────────────────────────────────────────────────────────────────


def named(records: list[AuditRecord], kind: str = "") -> list[str]:
    """The items of all `acting` records in order, or only of one kind of action."""
    return [
        item
        for record in records
        if record.step is Step.ACTING and record.action is not None and record.action.action.endswith(kind)
        for item in record.items
    ]
