"""One process with collector and function holds no client that it has no use for."""

import json
import sys

from tests.e2e.conftest import Site, Volume, settings_for

PROGRAM = """
import asyncio, json, sys
from collectors import registry as collectors
from functions import registry as functions
from infra.configuration import load
from infra.hosts.station import station

async def main():
    configuration = load("ansai.yaml")
    remedies, eyes = [functions.load("disk.free_space")], [collectors.load("disk.pressure")]
    async with station(configuration, configuration.host, remedies, eyes) as running:
        listening = running.bus.listen("ansai.health.>")
        await listening.ready()
        await listening.__anext__()
        print("modules:" + json.dumps(sorted(sys.modules)), flush=True)

asyncio.run(main())
"""


async def test_a_process_that_watches_a_healthy_disk_has_loaded_no_other_client(memory: Volume, site: Site):
    memory.write("data/orders.db", 1)
    site.configure(settings_for(memory))

    process = await site.spawn(sys.executable, "-c", PROGRAM)
    await process.says("modules:")

    loaded = set(json.loads(process.said.partition("modules:")[2].splitlines()[0]))
    assert {"nats", "collectors.disk.pressure", "functions.disk.free_space"} <= loaded
    assert loaded & {"docker", "psutil", "isal", "boto3", "pymongo", "pymysql", "typer", "rich", "requests"} == set()
