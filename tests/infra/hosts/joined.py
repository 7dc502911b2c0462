"""A real nats-server and any number of connections to it, as so many processes would have."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from bus.jetstream import JetStreamBus, connect
from bus.port import Bucket, KeyValue
from schemas.settings.bus import BusSettings
from tests.servers import NatsServer, running_server

REPOSITORY = Path(__file__).parents[3]


class Joined:
    def __init__(self, server: NatsServer, stack: contextlib.AsyncExitStack, settings: BusSettings) -> None:
        self.server = server
        self.stack = stack
        self.settings = settings

    async def join(self, **changed: Any) -> JetStreamBus:
        bus = await connect(self.settings.model_copy(update=changed), name="test")
        self.stack.push_async_callback(bus.close)
        return bus

    async def bucket(self, name: Bucket) -> KeyValue:
        return await (await self.join()).bucket(name)

    async def start(self, part: Any) -> Any:
        """Start something that has a `stop`, and stop it at the end."""
        await part.start()
        self.stack.push_async_callback(part.stop)
        return part

    async def remove(self, bucket: Bucket) -> None:
        """Delete the whole bucket, as an administrator would."""
        await (await self.join())._outbox.api(f"STREAM.DELETE.KV_{bucket.value}")

    async def python(self, script: str, *arguments: str) -> asyncio.subprocess.Process:
        """A process of its own, talked to by its standard input and output; killed at the end if it still runs."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, self.server.url, *arguments, cwd=REPOSITORY,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip

        async def end() -> None:
            if process.returncode is None:
                process.kill()
            await process.communicate()

        self.stack.push_async_callback(end)
        return process


@contextlib.asynccontextmanager
async def joined(directory: Path, **settings: Any) -> AsyncIterator[Joined]:
    """Leases of two seconds, unless told otherwise."""
    async with running_server(directory / "nats") as server, contextlib.AsyncExitStack() as stack:
        yield Joined(server, stack, BusSettings(**{"url": server.url, "lease_ttl": timedelta(seconds=2), **settings}))


async def line(process: asyncio.subprocess.Process) -> str:
    """The next line it prints."""
    assert process.stdout is not None
    async with asyncio.timeout(30):
        return (await process.stdout.readline()).decode().strip()


async def say(process: asyncio.subprocess.Process, text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{text}\n".encode())
    await process.stdin.drain()
