"""One machine a host name."""

import pytest

from bus.memory import MemoryBus
from bus.port import Bucket, Rejected
from infra.hosts.claim import claim, machine_id


async def test_a_machine_claims_its_name_once_and_keeps_it():
    bus = MemoryBus()
    await claim(bus, "web-1", "a" * 32)
    await claim(bus, "web-1", "a" * 32)


async def test_another_machine_of_the_same_name_is_told_whose_it_is_and_what_to_do():
    bus = MemoryBus()
    await claim(bus, "web.1", "a" * 32)
    with pytest.raises(
        Rejected, match=r"web-1 is that of another machine \(web.1, id aaaaaaaa….*--host NAME.*kv del fleet"
    ):
        await claim(bus, "web-1", "b" * 32)


async def test_a_machine_without_an_id_claims_nothing(tmp_path):
    bus = MemoryBus()
    await claim(bus, "web-1", machine_id(tmp_path / "none"))
    assert await (await bus.bucket(Bucket.FLEET)).keys() == []


async def test_a_damaged_claim_is_told_with_the_command_that_removes_it():
    bus = MemoryBus()
    await (await bus.bucket(Bucket.FLEET)).create("host.web-1", b"{")
    with pytest.raises(Rejected, match=r"nats kv del fleet host\.web-1"):
        await claim(bus, "web-1", "a" * 32)
