"""What a group shares: its members, its slots, its hosts' budgets, its storms."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from bus import subjects
from bus.port import Bucket, StreamName
from functions.core.ports import NotStored
from infra.hosts.fleet import FleetMirror
from infra.hosts.permits import BusPermits
from schemas.fleet import MEMBER_EXPIRY, Member, Spent
from tests.fakes import FakeClock
from tests.infra.hosts.joined import Joined, joined, line
from tests.waiting import until

GROUP, FUNCTION = "default", "disk.free_space"
SLOTS = subjects.group_key("slots", GROUP, FUNCTION)
SHORT = timedelta(seconds=1)


@pytest.fixture
async def site(tmp_path):
    async with joined(tmp_path) as running:
        yield running


async def mirror(site: Joined, **settings) -> FleetMirror:
    return await site.start(FleetMirror(await site.join(**settings)))


async def permits(site: Joined, host="web-1", *, on=None, function=FUNCTION, holder=None, **options) -> BusPermits:
    shared = on or await mirror(site)
    return await site.start(BusPermits(shared, GROUP, function, host, holder or f"{host} process", **options))


def at_most(limit: int, host: str):
    """Lets this many hosts act at once; a refusal is the hosts that act."""
    return lambda fleet: None if host in fleet.acting or len(fleet.acting) < limit else fleet.acting


def anybody(fleet):
    return None


def now() -> datetime:
    return datetime.now(UTC)


async def stored(site: Joined, key: str):
    entry = await (await site.bucket(Bucket.FLEET)).get(key)
    return None if entry is None else json.loads(entry.value)


# Members


async def test_members_know_one_another_and_who_is_unhealthy(site):
    one, other = await permits(site, "web-1"), await permits(site, "web-2")
    await until(lambda: one.view(now()).members == 2 and other.view(now()).members == 2)

    await one.report(unhealthy=True)

    assert one.view(now()).unhealthy == ("web-1",)  # at once: it knows what it has told
    assert one.view(now()).unhealthy_since is not None
    await until(lambda: other.view(now()).unhealthy == ("web-1",))
    assert other.view(now()).unhealthy_since is None
    await one.report(unhealthy=False)
    await until(lambda: other.view(now()).unhealthy == ())


async def test_hosts_of_another_group_or_function_are_no_members(site):
    one = await permits(site, "web-1")
    await permits(site, "web-2", function="disk.other")
    await site.start(BusPermits(await mirror(site), "elsewhere", FUNCTION, "web-3", "x"))

    third = await permits(site, "web-4")
    await until(lambda: one.view(now()).members == 2)
    assert third.view(now()).members == 2


async def test_what_is_known_already_is_not_written_again(site):
    one = await permits(site)
    await asyncio.gather(*(one.report(unhealthy=True) for _ in range(50)))
    since = one.view(now()).unhealthy_since
    bucket = await site.bucket(Bucket.FLEET)
    revision = (await bucket.get(subjects.group_key("member", GROUP, FUNCTION, "web-1"))).revision

    await one.report(unhealthy=True)

    assert (await bucket.get(subjects.group_key("member", GROUP, FUNCTION, "web-1"))).revision == revision == 2
    assert one.view(now()).unhealthy_since == since


async def test_a_process_that_starts_again_keeps_since_when_its_host_is_unhealthy(site):
    first = BusPermits(await mirror(site), GROUP, FUNCTION, "web-1", "first")
    await first.start()
    await first.report(unhealthy=True)
    since = first.view(now()).unhealthy_since
    await first.stop()

    second = await permits(site)
    await second.report(unhealthy=True)

    assert second.view(now()).unhealthy_since == since


async def test_a_member_that_is_silent_for_long_counts_no_more(site):
    clock = FakeClock(now())
    one = await permits(site, clock=clock)
    await permits(site, "web-2", clock=FakeClock(now() - MEMBER_EXPIRY - timedelta(minutes=1)))
    await permits(site, "web-3", clock=FakeClock(now() - MEMBER_EXPIRY + timedelta(minutes=5)))
    await until(lambda: one.view(now()).members == 2)

    clock.move(timedelta(minutes=4))
    assert one.view(now()).members == 2
    clock.move(timedelta(minutes=2))

    assert one.view(now()).members == 1


async def test_a_damaged_member_is_told_and_counts_as_unhealthy(site, caplog):
    key = subjects.group_key("member", GROUP, FUNCTION, "web-2")
    await (await site.bucket(Bucket.FLEET)).create(key, b"{")

    view = (await permits(site)).view(now())

    assert (view.members, view.unhealthy) == (2, ("web-2",))
    assert f"nats kv del fleet {key}" in caplog.text


async def test_what_a_process_spoils_of_another_host_is_mended_by_that_host(site):
    one, other = await permits(site), await permits(site, "web-2")
    key = subjects.group_key("member", GROUP, FUNCTION, "web-1")
    bucket = await site.bucket(Bucket.FLEET)
    entry = await bucket.get(key)
    await bucket.update(key, b"{", entry.revision)

    async def mended():
        entry = await bucket.get(key)
        return entry.value != b"{" and Member.model_validate_json(entry.value).host == "web-1"

    await until(mended)
    await until(lambda: other.view(now()).unhealthy == ())
    assert one.view(now()).members == 2


async def test_replicas_of_one_host_tell_of_it_as_one(site):
    one, replica, other = await permits(site), await permits(site), await permits(site, "web-2")
    await one.report(unhealthy=True)
    await until(lambda: replica.view(now()).unhealthy == other.view(now()).unhealthy == ("web-1",))

    await replica.report(unhealthy=False)

    await until(lambda: one.view(now()).unhealthy == other.view(now()).unhealthy == ())


async def test_a_member_that_somebody_removed_says_again_that_it_is_there(site):
    one, other = await permits(site), await permits(site, "web-2")
    await one.report(unhealthy=True)
    await until(lambda: other.view(now()).unhealthy == ("web-1",))

    await (await site.bucket(Bucket.FLEET)).delete(subjects.group_key("member", GROUP, FUNCTION, "web-1"))

    async def told_again():
        member = await stored(site, subjects.group_key("member", GROUP, FUNCTION, "web-1"))
        return member and Member.model_validate(member, strict=False).unhealthy_since

    await until(told_again)
    await until(lambda: other.view(now()).unhealthy == ("web-1",))


async def test_a_bucket_that_was_made_anew_is_filled_again_by_those_who_are_there(site, monkeypatch):
    monkeypatch.setattr("bus.ordered._SILENCE", 0.3)  # seconds: an idle reader looks soon whether all is well
    one, other = await permits(site), await permits(site, "web-2")
    await one.take(anybody, irreversible=False)
    assert await one.storm(begins=True, unhealthy=3, members=3)
    await site.remove(Bucket.FLEET)
    await site.join()  # makes it anew

    async def members():
        return len(await (await site.bucket(Bucket.FLEET)).keys("member."))

    await until(lambda: one.view(now()).acting == ())
    await until(members)
    await until(lambda: one.view(now()).members == other.view(now()).members == 2)
    assert await other.take(at_most(1, "web-2"), irreversible=False) is None
    assert await one.storm(begins=True, unhealthy=3, members=3)


# Slots


async def test_two_hosts_can_t_take_the_last_slot(site):
    hosts = [f"web-{number}" for number in range(6)]
    group = [await permits(site, host) for host in hosts]

    answers = await asyncio.gather(
        *(each.take(at_most(2, host), irreversible=False) for each, host in zip(group, hosts, strict=True))
    )

    acting = sorted(host for host, answer in zip(hosts, answers, strict=True) if answer is None)
    assert len(acting) == 2
    assert sorted(slot["host"] for slot in (await stored(site, SLOTS))["slots"]) == acting
    assert all(len(answer) == 2 for answer in answers if answer is not None)


async def test_treatments_of_one_host_share_its_slot_until_the_last_gives_it_back(site):
    one, other = await permits(site), await permits(site, "web-2")
    for _ in range(3):
        assert await one.take(at_most(1, "web-1"), irreversible=False) is None
    for _ in range(2):
        await one.give_back()
    assert await other.take(at_most(1, "web-2"), irreversible=False) == ("web-1",)

    await one.give_back()

    async def freed():
        return await other.take(at_most(1, "web-2"), irreversible=False) is None

    await until(freed)


async def test_many_takes_at_once_cost_few_writes(site):
    one = await permits(site)

    await asyncio.gather(*(one.take(anybody, irreversible=False) for _ in range(400)))

    assert one.view(now()).spent_function == 400
    bucket = await site.bucket(Bucket.FLEET)
    assert (await bucket.get(subjects.spent_key("web-1"))).revision < 20
    assert len((await stored(site, SLOTS))["slots"]) == 1


async def test_takes_that_wait_together_see_what_those_before_them_spent(site):
    one = await permits(site)

    answers = await asyncio.gather(
        *(one.take(lambda fleet: "spent" if fleet.spent_function >= 5 else None, irreversible=False) for _ in range(20))
    )

    assert answers.count(None) == 5
    assert one.view(now()).spent_function == 5


async def test_a_slot_is_renewed_while_it_is_used_and_a_dead_holder_s_runs_out(site):
    alive, other = await permits(site, "web-1", slot_time=SHORT), await permits(site, "web-3", slot_time=SHORT)
    dead = BusPermits(await mirror(site), GROUP, FUNCTION, "web-2", "dead", slot_time=SHORT)
    await dead.start()
    await alive.take(anybody, irreversible=False)
    await dead.take(anybody, irreversible=False)
    expiry = {slot["host"]: slot["until"] for slot in (await stored(site, SLOTS))["slots"]}
    for task in dead._tasks:
        task.cancel()  # as if its process were killed
    await asyncio.gather(*dead._tasks, return_exceptions=True)

    async def taken():
        return await other.take(at_most(2, "web-3"), irreversible=False) is None

    await until(taken)
    slots = {slot["host"]: slot["until"] for slot in (await stored(site, SLOTS))["slots"]}
    assert set(slots) == {"web-1", "web-3"}
    assert slots["web-1"] > expiry["web-1"]


@pytest.mark.parametrize("jump", [timedelta(days=1), timedelta(days=-1)])
async def test_a_clock_that_jumps_frees_nobody_s_slot_and_keeps_no_dead_one_s(site, jump):
    clock = FakeClock(now())
    one, other = await permits(site, "web-1", slot_time=SHORT), await permits(site, "web-2", clock=clock)
    await one.take(anybody, irreversible=False)
    await until(lambda: other.view(clock.now()).acting == ("web-1",))

    clock.move(jump)

    assert await other.take(at_most(1, "web-2"), irreversible=False) == ("web-1",)


async def test_a_stopped_process_gives_its_slot_back_and_refuses_what_comes(site):
    one = BusPermits(await mirror(site), GROUP, FUNCTION, "web-1", "one")
    await one.start()
    await one.take(anybody, irreversible=False)

    await one.stop()

    assert await stored(site, SLOTS) == {"slots": []}
    with pytest.raises(NotStored, match="stopping"):
        await one.take(anybody, irreversible=False)


async def test_who_is_cancelled_while_waiting_holds_no_slot(site):
    one = await permits(site)
    await site.server.pause()
    try:
        waiting = asyncio.create_task(one.take(anybody, irreversible=False))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    finally:
        site.server.resume()

    async def free():
        return (await stored(site, SLOTS) or {"slots": []})["slots"] == []

    await until(free)
    assert waiting.cancelled()


async def test_an_error_of_who_asks_is_theirs_alone(site):
    one = await permits(site)

    def broken(fleet):
        raise ZeroDivisionError

    answers = await asyncio.gather(
        one.take(broken, irreversible=False), one.take(anybody, irreversible=False), return_exceptions=True
    )

    assert isinstance(answers[0], ZeroDivisionError)
    assert answers[1] is None


async def test_without_a_bus_nothing_is_taken_and_afterwards_it_goes_on(site):
    one = await permits(site, on=await mirror(site, publish_deadline=timedelta(seconds=1)))
    await site.server.kill()

    with pytest.raises(NotStored, match="a slot of the group can't be taken"):
        await one.take(anybody, irreversible=False)
    await site.server.start()

    async def taken():
        try:
            return await one.take(anybody, irreversible=False) is None
        except NotStored:
            return False

    await until(taken)


@pytest.mark.parametrize(
    ("key", "name"), [(SLOTS, "slots"), (subjects.spent_key("web-1"), "spent")], ids=["slots", "spent"]
)
async def test_damaged_values_let_nobody_act_until_they_are_removed(site, key, name):
    bucket = await site.bucket(Bucket.FLEET)
    one = await permits(site)
    await one.take(anybody, irreversible=False)
    entry = await bucket.get(key)
    await bucket.update(key, b"{", entry.revision)

    async def refused():
        try:
            await one.take(anybody, irreversible=False)
        except NotStored as error:
            return f"nats kv del fleet {key}" in str(error)
        return False

    await until(refused)
    await bucket.delete(key)

    async def taken():
        try:
            return await one.take(anybody, irreversible=False) is None
        except NotStored:
            return False

    await until(taken)


# Budgets


async def test_what_was_spent_is_counted_by_function_host_and_kind_and_is_forgotten_in_time(site):
    clock, shared = FakeClock(), await mirror(site)
    one = await permits(site, on=shared, clock=clock)
    other = await permits(site, on=shared, function="disk.other", clock=clock)
    await one.take(anybody, irreversible=True)
    clock.move(timedelta(minutes=30))
    await one.take(anybody, irreversible=False)
    await other.take(anybody, irreversible=True)

    def spent(each):
        fleet = each.view(clock.now())
        return fleet.spent_function, fleet.spent_host, fleet.spent_irreversible

    assert (spent(one), spent(other)) == ((2, 3, 1), (1, 3, 1))
    clock.move(timedelta(minutes=32))
    assert (spent(one), spent(other)) == ((1, 2, 1), (1, 2, 1))
    clock.move(timedelta(hours=22))
    assert (spent(one), spent(other)) == ((0, 0, 1), (0, 0, 1))
    clock.move(timedelta(hours=3))
    assert (spent(one), spent(other)) == ((0, 0, 0), (0, 0, 0))
    await one.take(anybody, irreversible=False)
    assert list(Spent.model_validate(await stored(site, subjects.spent_key("web-1")), strict=False).attempts) == [
        FUNCTION
    ]


async def test_an_attempt_stays_spent_when_the_slot_is_given_back(site):
    one = await permits(site)
    await one.take(anybody, irreversible=False)
    await one.give_back()

    assert one.view(now()).spent_function == 1


async def test_two_functions_of_one_process_and_other_processes_lose_no_count(site):
    shared = await mirror(site)
    spenders = [
        await permits(site, on=shared),
        await permits(site, on=shared, function="disk.other"),
        await permits(site, function="disk.third"),
    ]

    await asyncio.gather(*(each.take(anybody, irreversible=False) for each in spenders for _ in range(30)))

    slots = [await stored(site, key) for key in await (await site.bucket(Bucket.FLEET)).keys("slots.")]
    assert [len(each["slots"]) for each in slots] == [1, 1, 1]
    await until(lambda: all(each.view(now()).spent_host == 90 for each in spenders))


# Storms


async def test_exactly_one_notes_that_a_storm_begins_and_one_that_it_is_over(site):
    group = [await permits(site, f"web-{number}") for number in range(5)]

    began = await asyncio.gather(*(each.storm(begins=True, unhealthy=4, members=5) for each in group))
    assert began.count(True) == 1
    storm = await stored(site, subjects.group_key("storm", GROUP, FUNCTION))
    assert (storm["unhealthy"], storm["members"]) == (4, 5)
    assert not await group[0].storm(begins=True, unhealthy=5, members=5)

    ended = []
    for each in group:
        await until(lambda each=each: each._storm.revision or ended.count(True))
        ended.append(await each.storm(begins=False))
    assert ended.count(True) == 1
    assert await group[0].storm(begins=True, unhealthy=4, members=5)


# Processes

HOSTS = """
import asyncio, sys
from bus.jetstream import connect
from infra.hosts.fleet import FleetMirror
from infra.hosts.permits import BusPermits
from schemas.settings.bus import BusSettings
async def act(mirror, host, limit, rounds):
    permits = BusPermits(mirror, "default", "disk.free_space", host, host + " process")
    await permits.start()
    acted = 0
    while acted < rounds:
        judge = lambda fleet: None if host in fleet.acting or len(fleet.acting) < limit else "full"
        if await permits.take(judge, irreversible=False) is None:
            acted += 1
            print("+", host, flush=True)
            await asyncio.sleep(0.01)
            print("-", host, flush=True)
            await permits.give_back()
        await asyncio.sleep(0.02)
    await permits.stop()
async def main():
    bus = await connect(BusSettings(url=sys.argv[1]), name="hosts")
    mirror = FleetMirror(bus)
    await mirror.start()
    await asyncio.gather(*(act(mirror, f"web-{sys.argv[2]}-{n}", 2, 3) for n in range(8)))
    await mirror.stop()
    await bus.close()
    print("done", flush=True)
asyncio.run(main())
"""


async def test_hosts_in_several_processes_never_act_beyond_the_limit(site):
    watcher = await mirror(site)
    most: list[int] = []
    watcher.follow(SLOTS, lambda entry: most.append(len(json.loads(entry.value)["slots"])))
    processes = [await site.python(HOSTS, str(number)) for number in range(3)]

    async def acts(process):
        lines = []
        while (said := await line(process)) != "done":
            lines.append(said)
        return lines

    said = [each for lines in await asyncio.gather(*map(acts, processes)) for each in lines]

    assert sum(each.startswith("+") for each in said) == 3 * 8 * 3
    assert max(most) <= 2
    assert await stored(site, SLOTS) == {"slots": []}
    assert [message async for message in (await site.join()).read(StreamName.ALERT)] == []
