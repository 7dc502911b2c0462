"""Plans that wait: whole, one per target, used up by exactly one."""

import asyncio
import random
from datetime import UTC, datetime, timedelta

import pytest

from bus import subjects
from bus.port import Bucket
from functions.core.ports import NotStored, PlanTooLarge
from infra.hosts.plans import BusPlans
from schemas.approval import PendingPlan
from schemas.remediation import Gap, PlanSummary
from tests.fakes import FakeClock
from tests.infra.hosts.joined import joined

HOST, FUNCTION, TARGET = "web-1", "disk.free_space", "bytes:/var"
ONE, OTHER = "a" * 64, "b" * 64


def pending(plan_hash=ONE, target=TARGET, *, now=None, **plan) -> PendingPlan:
    now = now or datetime.now(UTC)
    gap = Gap(amount=5, unit="bytes")
    summary = PlanSummary(hash=plan_hash, function=FUNCTION, target=target, gap=gap, rungs=())
    return PendingPlan(
        host=HOST, function=FUNCTION, target=target, incident="i", correlation="c", hash=plan_hash, requested_at=now,
        expires_at=now + timedelta(hours=1), summary=summary, plan=plan,
    )  # fmt: skip


@pytest.fixture
async def site(tmp_path):
    async with joined(tmp_path) as running:
        yield running


async def plans(site, clock=None, **settings) -> BusPlans:
    return BusPlans(await (await site.join(**settings)).bucket(Bucket.PLANS), HOST, FUNCTION, clock)


async def test_what_was_put_is_got_whole_by_another_process(site):
    plan = pending(rungs=[{"name": "logs", "items": ["/var/log/a"] * 1000}])
    await (await plans(site)).put(plan)

    assert await (await plans(site)).get(TARGET, ONE) == plan


async def test_a_newer_plan_takes_the_place_of_the_older_one_of_the_same_target_only(site):
    kept = await plans(site)
    await kept.put(pending(ONE))
    await kept.put(pending(ONE, "bytes:/srv"))
    await kept.put(pending(OTHER))

    assert await kept.get(TARGET, ONE) is None
    assert await kept.get(TARGET, OTHER) is not None
    assert await kept.get("bytes:/srv", ONE) is not None


async def test_the_same_plan_put_again_waits_anew(site):
    kept = await plans(site)
    await kept.put(pending(now=datetime.now(UTC) - timedelta(minutes=30)))
    later = datetime.now(UTC)
    await kept.put(pending(now=later))

    assert (await kept.get(TARGET, ONE)).requested_at == later


async def test_exactly_one_of_many_takes_it(site):
    takers = [await plans(site) for _ in range(5)]
    await takers[0].put(pending())

    answers = await asyncio.gather(*(each.take(TARGET, ONE) for each in takers for _ in range(4)))

    assert answers.count(True) == 1
    assert await takers[0].get(TARGET, ONE) is None


async def test_another_plan_whose_hash_only_begins_alike_is_not_taken(site):
    kept = await plans(site)
    await kept.put(pending("a" * 63 + "b"))

    assert not await kept.take(TARGET, ONE)
    assert await kept.get(TARGET, ONE) is None


async def test_an_expired_plan_is_none(site):
    clock = FakeClock()
    kept = await plans(site, clock)
    await kept.put(pending(now=clock.now()))
    clock.move(timedelta(minutes=59))
    assert await kept.get(TARGET, ONE) is not None

    clock.move(timedelta(minutes=1))

    assert await kept.get(TARGET, ONE) is None
    assert not await kept.take(TARGET, ONE)


async def test_a_plan_that_fits_into_no_message_names_its_size(site):
    noise = random.Random(1).randbytes(9 * 1024**2).hex()
    with pytest.raises(PlanTooLarge, match=r"the plan for bytes:/var is \d+ bytes .* when compressed"):
        await (await plans(site)).put(pending(noise=noise))


async def test_a_damaged_plan_names_the_command_that_removes_it(site):
    kept, key = await plans(site), subjects.plan_key(HOST, FUNCTION, TARGET, ONE)
    await (await site.bucket(Bucket.PLANS)).create(key, b"x" * 50)

    for asking in (kept.get(TARGET, ONE), kept.take(TARGET, ONE)):
        with pytest.raises(NotStored, match=f"damaged.*nats kv del plans {key}"):
            await asking
    await kept.put(pending())
    assert await kept.take(TARGET, ONE)


async def test_without_a_bus_nothing_is_stored_read_or_taken(site):
    kept = await plans(site, publish_deadline=timedelta(seconds=1))
    await site.server.kill()

    for asking in (kept.put(pending()), kept.get(TARGET, ONE), kept.take(TARGET, ONE)):
        with pytest.raises(NotStored):
            await asking
    await site.server.start()
