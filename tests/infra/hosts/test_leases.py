"""Leases: all or nothing, lost as a whole, and with tokens of which the later is the greater."""

import asyncio
import json
from datetime import timedelta

import pytest

from bus import subjects
from bus.port import Bucket
from functions.core.ports import NotStored
from infra.hosts.leases import BusLeases
from tests.infra.hosts.joined import joined
from tests.waiting import until

HOST = "web-1"
VAR, SRV, UNIT = "fs:/var", "fs:/srv", "unit:nginx.service"


async def leases(site, holder="one", **settings) -> BusLeases:
    bus = await site.join(**settings)
    return BusLeases(await bus.bucket(Bucket.LEASES), HOST, holder, site.settings.lease_ttl)


async def test_only_one_has_it_and_the_next_one_s_token_is_greater(tmp_path):
    async with joined(tmp_path) as site:
        one, other = await leases(site), await leases(site, "two")

        held = await one.acquire([VAR])
        assert await other.acquire([VAR]) is None
        await held.release()
        later = await other.acquire([VAR])

        assert later.tokens[VAR] > held.tokens[VAR]
        await later.release()


async def test_of_several_resources_all_are_taken_or_none(tmp_path):
    async with joined(tmp_path) as site:
        one, other = await leases(site), await leases(site, "two")
        held = await one.acquire([SRV])

        assert await other.acquire([VAR, SRV, UNIT]) is None
        free = await one.acquire([UNIT, VAR])

        assert set(free.tokens) == {UNIT, VAR}
        bucket = await site.bucket(Bucket.LEASES)
        assert await bucket.keys() == sorted(subjects.scope_key(HOST, each) for each in (VAR, SRV, UNIT))
        await free.release()
        await held.release()
        assert await bucket.keys() == []


async def test_two_functions_of_one_process_exclude_each_other(tmp_path):
    async with joined(tmp_path) as site:
        bucket = await site.bucket(Bucket.LEASES)
        one = BusLeases(bucket, HOST, "same process", site.settings.lease_ttl)
        other = BusLeases(bucket, HOST, "same process", site.settings.lease_ttl)

        held = await one.acquire([VAR])

        assert await one.acquire([VAR]) is None
        assert await other.acquire([VAR]) is None
        await held.release()


async def test_who_asks_for_many_in_any_order_at_once_leaves_nothing_behind(tmp_path):
    async with joined(tmp_path) as site:
        contenders = [await leases(site, f"holder {number}") for number in range(4)]
        orders = [[VAR, SRV, UNIT], [UNIT, SRV, VAR], [SRV, VAR], [UNIT, VAR]]

        for _ in range(10):
            found = await asyncio.gather(*(each.acquire(order) for each, order in zip(contenders, orders, strict=True)))
            got = [held for held in found if held is not None]
            owned = [resource for held in got for resource in held.tokens]
            assert len(owned) == len(set(owned))
            await asyncio.gather(*(held.release() for held in got))

        assert await (await site.bucket(Bucket.LEASES)).keys() == []


async def test_it_is_renewed_for_as_long_as_it_is_held_and_keeps_its_tokens(tmp_path):
    async with joined(tmp_path, lease_ttl=timedelta(seconds=1)) as site:
        one, other = await leases(site), await leases(site, "two")
        held = await one.acquire([VAR, SRV])
        tokens = dict(held.tokens)
        bucket = await site.bucket(Bucket.LEASES)

        async def renewed_often():
            entries = [await bucket.get(subjects.scope_key(HOST, each)) for each in (VAR, SRV)]
            return all(entry.revision > max(tokens.values()).revision + 6 for entry in entries)  # beyond the TTL

        await until(renewed_often)
        assert await other.acquire([VAR]) is None
        assert not held.lost
        assert held.tokens == tokens
        stored = json.loads((await bucket.get(subjects.scope_key(HOST, VAR))).value)
        assert stored["token"] == tokens[VAR].revision
        await held.release()


async def test_all_are_lost_when_one_is(tmp_path):
    async with joined(tmp_path, lease_ttl=timedelta(seconds=1)) as site:
        held = await (await leases(site)).acquire([VAR, SRV])
        await (await site.bucket(Bucket.LEASES)).delete(subjects.scope_key(HOST, SRV))

        await until(lambda: held.lost)
        await held.release()


async def test_a_holder_that_could_not_renew_knows_that_it_lost_them(tmp_path):
    async with joined(tmp_path, lease_ttl=timedelta(seconds=1)) as site:
        held = await (await leases(site, publish_deadline=timedelta(seconds=1))).acquire([VAR])
        await site.server.pause()
        try:
            await until(lambda: held.lost)
        finally:
            site.server.resume()
        await held.release()


async def test_a_lease_whose_answer_was_lost_is_taken_over_instead_of_waited_for(tmp_path):
    async with joined(tmp_path, lease_ttl=timedelta(minutes=5)) as site:
        one = await leases(site, publish_deadline=timedelta(seconds=1))
        await site.server.pause()
        try:
            with pytest.raises(NotStored, match=r"no lease on fs:/var: .*no answer"):
                await one.acquire([VAR])
        finally:
            site.server.resume()
        bucket, key = await site.bucket(Bucket.LEASES), subjects.scope_key(HOST, VAR)

        async def stored_all_the_same():
            return await bucket.get(key)

        await until(stored_all_the_same)
        stored = (await bucket.get(key)).revision
        assert await (await leases(site, "another")).acquire([VAR]) is None

        held = await one.acquire([VAR])

        assert held.tokens[VAR].revision > stored
        await held.release()


async def test_tokens_of_a_bucket_that_was_made_anew_are_greater(tmp_path):
    async with joined(tmp_path) as site:
        one = await leases(site)
        for _ in range(5):
            held = await one.acquire([VAR])
            await held.release()
        await site.remove(Bucket.LEASES)
        await site.join()  # makes it anew

        later = await one.acquire([VAR])

        assert later.tokens[VAR].revision < held.tokens[VAR].revision
        assert later.tokens[VAR] > held.tokens[VAR]
        await later.release()


async def test_a_damaged_lease_is_somebody_else_s_until_it_runs_out(tmp_path, caplog):
    async with joined(tmp_path, lease_ttl=timedelta(seconds=1)) as site:
        one, key = await leases(site), subjects.scope_key(HOST, VAR)
        await (await site.bucket(Bucket.LEASES)).create(key, b"{")

        assert await one.acquire([VAR]) is None
        assert key in caplog.text

        async def acquired():
            return await one.acquire([VAR])

        await until(acquired)
