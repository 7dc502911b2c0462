"""Real nats-servers for tests: a free loopback port, the store below the test's own directory, ended by their PID."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from bus.embedded import server_binary

_READY = 20  # seconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class NatsServer:
    """A server that a test may stop, kill and start again on the same port and store."""

    def __init__(self, directory: Path, extra: str = "") -> None:
        self._directory = directory
        self._extra = extra
        self._process: asyncio.subprocess.Process | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def configure(self, extra: str) -> None:
        """Other lines for the configuration; a running server reads them at `reload`."""
        self._extra = extra
        self._write_configuration()

    def reload(self) -> None:
        os.kill(self.pid, signal.SIGHUP)

    async def start(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._write_configuration()
        log = self._directory / "log"
        with log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                server_binary(), "-c", self._directory / "conf", stdout=output, stderr=output
            )
        try:
            async with asyncio.timeout(_READY):
                while not await self._answers():
                    assert self._process.returncode is None, log.read_text()
                    await asyncio.sleep(0.01)
        except BaseException:
            await self.kill()
            raise

    async def stop(self) -> None:
        """SIGTERM, as an administrator would."""
        await self._end(signal.SIGTERM)

    async def kill(self) -> None:
        """SIGKILL, as the kernel would when memory runs out."""
        await self._end(signal.SIGKILL)

    async def pause(self) -> None:
        """Return when every thread stands still: what is sent to the server stays in its socket."""
        os.kill(self.pid, signal.SIGSTOP)
        async with asyncio.timeout(_READY):
            while not all(_stopped(stat) for stat in Path(f"/proc/{self.pid}/task").glob("*/stat")):
                await asyncio.sleep(0.005)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    async def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            await process.wait()

    def _write_configuration(self) -> None:
        (self._directory / "conf").write_text(
            f'listen: "127.0.0.1:{self.port}"\nmax_payload: 8MB\njetstream {{ store_dir: "{self._directory}/store" }}\n'
            f"{self._extra}\n"
        )

    async def _answers(self) -> bool:
        parts = urlsplit(self.url)
        try:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:
            return False
        line = await reader.readline()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return line.startswith(b"INFO") and b'"jetstream":true' in line


def _stopped(stat: Path) -> bool:
    return stat.read_text().rpartition(")")[2].split()[0] == "T"


@asynccontextmanager
async def running_server(directory: Path, extra: str = "") -> AsyncIterator[NatsServer]:
    """A server to stop, kill and start again."""
    server = NatsServer(directory, extra)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def nats_server(directory: Path, extra: str = "") -> AsyncIterator[str]:
    """The URL of a server with JetStream."""
    async with running_server(directory, extra) as server:
        yield server.url
