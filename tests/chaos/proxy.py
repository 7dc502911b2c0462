"""Stands between a host and its server, and may let what the server answers get lost."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Proxy:
    """Passes everything on, until `lose_answer_to` finds what it waits for."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._wanted = b""
        self._left = 0
        self._connections: set[asyncio.Task[None]] = set()
        self.losing = asyncio.Event()
        """set as long as nothing that the server says gets through"""
        self.url = ""

    def lose_answer_to(self, text: bytes, occurrence: int = 1) -> None:
        """From the moment on that a client sends *text* for the so-manieth time, it hears nothing any more."""
        self._wanted, self._left = text, occurrence

    def cut(self) -> None:
        """Break the connections; new ones work as ever."""
        self.losing.clear()
        for connection in self._connections:
            connection.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._from_client(reader, server_writer))
                    both.create_task(self._from_server(server_reader, writer))
            finally:
                server_writer.close()
        except* (OSError, _Closed):
            pass
        except* asyncio.CancelledError:
            pass
        finally:
            self._connections.discard(connection)
            writer.close()

    async def _from_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self._left:
                self._left = max(0, self._left - data.count(self._wanted))
                if not self._left:
                    self.losing.set()
            writer.write(data)
            await writer.drain()
        raise _Closed

    async def _from_server(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self.losing.is_set():
                writer.write(data)
                await writer.drain()
        raise _Closed


class _Closed(Exception):
    """One of the two has gone, so the other one goes as well."""


@contextlib.asynccontextmanager
async def proxy(port: int) -> AsyncIterator[Proxy]:
    """Before the server on that port of this machine."""
    made = Proxy(port)
    listening = await asyncio.start_server(made._serve, "127.0.0.1", 0)
    made.url = f"nats://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        listening.close()
        made.cut()
        await listening.wait_closed()
        while made._connections:
            await asyncio.sleep(0.01)
