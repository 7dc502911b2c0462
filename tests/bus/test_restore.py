"""Streams and buckets that are removed, made anew or restored from an older store while we run."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client

from bus import subjects
from bus.jetstream import JetStreamBus, connect
from bus.port import Bucket, Conflict, Entry, KeyValue, Message, Rejected, StreamName, Subscription
from bus.streams import bucket_stream, buckets
from schemas.settings.bus import BusSettings, Credentials
from tests.bus.conftest import eventually
from tests.servers import NatsServer, running_server

SETTINGS = BusSettings()
LEASES = bucket_stream(Bucket.LEASES)
SUBJECT = subjects.health("web-1", "disk", "pressure", "/")
TRAIL = subjects.audit("web-1", "disk.free_space", "e1")


@pytest.fixture
async def administrator(server: NatsServer, nats_bus: JetStreamBus) -> AsyncIterator[Client]:
    """Somebody with the server's own tools, once the streams are there."""
    client = await nats.connect(server.url)
    yield client
    await client.close()


async def remake(administrator: Client, name: str) -> int:
    """Delete the bucket and make it again; return when it was made, as the server says."""
    spec = next(spec for spec in buckets(SETTINGS).values() if spec.name == name)
    await administrator.jetstream().delete_stream(name)
    async with asyncio.timeout(10):
        while True:
            made = await api(administrator, f"STREAM.CREATE.{name}", spec.configuration())
            if "error" not in made:
                return int(time_in_seconds(made["created"]))


async def api(client: Client, subject: str, body: dict | None = None) -> dict:
    import json

    answer = await client.request(f"$JS.API.{subject}", json.dumps(body).encode() if body else b"", timeout=5)
    return json.loads(answer.data)


def time_in_seconds(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text[:19] + "+00:00").timestamp()
