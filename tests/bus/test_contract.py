"""What every bus promises, on the one in memory and on a real nats-server."""

import asyncio
import time
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest

from bus import subjects
from bus.port import Bucket, Bus, Conflict, Entry, Message, Rejected, StreamName, Subscription, Usage
from tests.bus.conftest import Joined
from tests.waiting import until

SUBJECT = subjects.health("web-1", "disk", "pressure", "/")
OTHER = subjects.health("web-1", "disk", "pressure", "/home")
TRAIL = subjects.audit("web-1", "disk.free_space", "e1")
OTHER_TRAIL = subjects.audit("web-1", "disk.free_space", "e2")
WANTED = Subscription(StreamName.HEALTH, "disk-free_space", [subjects.health_pattern("web-1", "disk", "pressure")])


class Collector:
    """A handler that keeps what it got, and answers as told."""

    def __init__(self, answer: str = "ack") -> None:
        self.got: list[tuple[str, bytes, int]] = []
        self._answer = answer

    async def __call__(self, message: Message) -> None:
        self.got.append((message.subject, message.body, message.deliveries))
        await getattr(message, self._answer)()

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, body, _ in self.got]


async def test_what_is_published_is_consumed_once_and_in_order(bus: Bus):
    collector = Collector()
    await bus.consume(WANTED, collector)

    for number in range(20):
        await bus.publish(SUBJECT, b"%d" % number)

    await until(lambda: len(collector.got) == 20)
    assert collector.got == [(SUBJECT, b"%d" % number, 1) for number in range(20)]


async def test_a_consumer_gets_what_was_stored_before_it_came(bus: Bus):
    await bus.publish(SUBJECT, b"early")
    collector = Collector()
    await bus.consume(WANTED, collector)
    await until(lambda: collector.bodies == [b"early"])


async def test_a_consumer_without_replay_gets_only_what_comes(bus: Bus):
    await bus.publish(SUBJECT, b"early")
    collector = Collector()
    await bus.consume(Subscription(StreamName.HEALTH, "late", WANTED.subjects, replay=False), collector)
    await bus.publish(SUBJECT, b"late")
    await until(lambda: collector.got)
    assert collector.bodies == [b"late"]


async def test_a_consumer_gets_only_the_subjects_it_asked_for(bus: Bus):
    collector = Collector()
    await bus.consume(WANTED, collector)
    await bus.publish(subjects.health("web-2", "disk", "pressure", "/"), b"another host")
    await bus.publish(SUBJECT, b"ours")
    await until(lambda: collector.got)
    assert collector.bodies == [b"ours"]


async def test_a_consumer_may_ask_for_several_subjects(bus: Bus):
    collector = Collector()
    patterns = subjects.trigger_patterns("web-1", "disk.free_space")
    await bus.consume(Subscription(StreamName.TRIGGER, "triggers", patterns), collector)
    await bus.publish(subjects.trigger("web-1", "disk.free_space"), b"1")
    await bus.publish(subjects.trigger("web-1", "disk.free_space", "anna"), b"2")
    await bus.publish(subjects.trigger("web-1", "disk.other"), b"3")
    await until(lambda: len(collector.got) == 2)
    assert collector.bodies == [b"1", b"2"]


async def test_the_subjects_of_a_durable_may_change(join: Joined):
    first = await join()
    consumption = await first.consume(WANTED, Collector())
    await consumption.stop()
    collector = Collector()
    second = await join()
    await second.consume(Subscription(StreamName.HEALTH, WANTED.durable, ["ansai.health.web-2.>"]), collector)
    await second.publish(SUBJECT, b"no more")
    await second.publish(subjects.health("web-2", "disk", "pressure", "/"), b"now")
    await until(lambda: collector.got)
    assert collector.bodies == [b"now"]


async def test_a_message_says_where_it_was_stored_and_when(bus: Bus):
    seen: list[Message] = []

    async def keep(message: Message) -> None:
        seen.append(message)
        await message.ack()

    before = datetime.now(UTC)
    await bus.publish(SUBJECT, b"{}", message_id="one", headers={"Ansai-Dropped": "3"})
    await bus.consume(WANTED, keep)
    await until(lambda: seen)
    assert seen[0].sequence == 1
    assert before - timedelta(seconds=1) <= seen[0].stored_at <= datetime.now(UTC) + timedelta(seconds=1)
    assert seen[0].headers["Ansai-Dropped"] == "3"


async def test_the_same_message_id_is_stored_once(bus: Bus):
    for _ in range(10):
        await bus.publish(SUBJECT, b"again", message_id="same")
    assert [stored.body async for stored in bus.read(StreamName.HEALTH)] == [b"again"]


async def test_publishing_soon_keeps_the_order_and_ends_when_stored(bus: Bus):
    waiting = [await bus.publish_soon(SUBJECT, b"%d" % number, message_id=f"id-{number}") for number in range(90)]
    await asyncio.gather(*waiting)
    assert [stored.body async for stored in bus.read(StreamName.HEALTH)] == [b"%d" % number for number in range(90)]


async def test_health_keeps_the_newest_hundred_of_a_subject(bus: Bus):
    waiting = [await bus.publish_soon(SUBJECT, b"%d" % number) for number in range(130)]
    await bus.publish(OTHER, b"other")
    await asyncio.gather(*waiting)
    kept = [stored.body async for stored in bus.read(StreamName.HEALTH, SUBJECT)]
    assert kept == [b"%d" % number for number in range(30, 130)]


async def test_a_message_that_is_given_back_comes_again_ten_times_if_need_be(bus: Bus):
    deliveries: list[int] = []

    async def refuse_nine_times(message: Message) -> None:
        deliveries.append(message.deliveries)
        await (message.ack() if message.deliveries == 10 else message.nak())

    await bus.consume(WANTED, refuse_nine_times)
    await bus.publish(SUBJECT, b"stubborn")
    await until(lambda: len(deliveries) == 10)
    assert deliveries == list(range(1, 11))


async def test_a_message_that_is_given_back_with_a_delay_comes_later(bus: Bus):
    loop, times = asyncio.get_running_loop(), []

    async def later(message: Message) -> None:
        times.append(loop.time())
        await (message.nak(timedelta(milliseconds=300)) if len(times) == 1 else message.ack())

    await bus.consume(WANTED, later)
    await bus.publish(SUBJECT, b"later")
    await until(lambda: len(times) == 2)
    assert times[1] - times[0] >= 0.29


async def test_a_message_nobody_answers_comes_again_after_the_wait(bus: Bus):
    silent = Collector("__class__")

    async def ignore(message: Message) -> None:
        silent.got.append((message.subject, message.body, message.deliveries))
        if message.deliveries == 2:
            await message.ack()

    wanted = Subscription(StreamName.HEALTH, "silent", WANTED.subjects, ack_wait=timedelta(milliseconds=300))
    await bus.consume(wanted, ignore)
    await bus.publish(SUBJECT, b"?")
    await until(lambda: len(silent.got) == 2)
    assert [deliveries for _, _, deliveries in silent.got] == [1, 2]


async def test_work_in_progress_is_not_delivered_again(bus: Bus):
    deliveries: list[int] = []

    async def slow(message: Message) -> None:
        deliveries.append(message.deliveries)
        if message.body == b"slow":
            for _ in range(8):
                await asyncio.sleep(0.1)
                await message.in_progress()
        await message.ack()

    wanted = Subscription(StreamName.HEALTH, "slow", WANTED.subjects, window=1, ack_wait=timedelta(milliseconds=400))
    await bus.consume(wanted, slow)
    await bus.publish(SUBJECT, b"slow")
    await bus.publish(SUBJECT, b"next")
    await until(lambda: len(deliveries) == 2)
    assert deliveries == [1, 1]


async def test_what_a_look_settles_is_acknowledged_and_the_handler_never_sees_it(bus: Bus):
    collector = Collector("look")
    looked: list[bytes] = []

    def settles(message: Message) -> bool:
        looked.append(message.body)
        return message.body == b"healthy"

    wait = timedelta(milliseconds=200)
    wanted = Subscription(StreamName.HEALTH, "look", WANTED.subjects, ack_wait=wait, settles=settles)
    await bus.consume(wanted, collector)
    for body in (b"healthy", b"ill", b"healthy"):
        await bus.publish(SUBJECT, body)
    await until(lambda: len(looked) == 3 and collector.got)
    await asyncio.sleep(0.5)  # longer than the wait: that nothing comes again can only be seen by waiting
    assert [body for _, body, _ in collector.got] == [b"ill"]
    assert sorted(looked) == [b"healthy", b"healthy", b"ill"]


async def test_a_look_that_fails_settles_nothing(bus: Bus, caplog):
    collector = Collector("blind")

    def settles(message: Message) -> bool:
        raise RuntimeError("blind")

    await bus.consume(Subscription(StreamName.HEALTH, "blind", WANTED.subjects, settles=settles), collector)
    await bus.publish(SUBJECT, b"seen all the same")
    await until(lambda: collector.got)
    assert "the first look at" in caplog.text


async def test_a_terminated_message_never_comes_again(bus: Bus):
    collector = Collector("term")
    wanted = Subscription(StreamName.HEALTH, "term", WANTED.subjects, ack_wait=timedelta(milliseconds=200))
    await bus.consume(wanted, collector)
    await bus.publish(SUBJECT, b"poison")
    await until(lambda: collector.got)
    await asyncio.sleep(0.5)  # longer than the wait: that nothing happens can only be seen by waiting
    assert len(collector.got) == 1


async def test_a_handler_that_raises_gets_the_message_again_and_the_next_ones_too(bus: Bus, caplog):
    got: list[tuple[bytes, int]] = []

    async def clumsy(message: Message) -> None:
        got.append((message.body, message.deliveries))
        if message.body == b"bad" and message.deliveries == 1:
            raise ZeroDivisionError("oops")
        await message.ack()

    await bus.consume(WANTED, clumsy)
    await bus.publish(SUBJECT, b"bad")
    await bus.publish(SUBJECT, b"good")
    await until(lambda: (b"bad", 2) in got)
    assert (b"good", 1) in got
    assert "oops" in caplog.text


async def test_no_more_than_the_window_is_handled_at_once_and_all_is_handled(bus: Bus):
    running, most, done = 0, 0, 0

    async def count(message: Message) -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002)
        running -= 1
        done += 1
        await message.ack()

    await bus.consume(Subscription(StreamName.HEALTH, "window", WANTED.subjects, window=4), count)
    for number in range(100):
        await bus.publish_soon(SUBJECT, b"%d" % number)
    await until(lambda: done == 100)
    assert most == 4


async def test_two_that_share_a_durable_share_the_messages(join: Joined):
    one, two = Collector(), Collector()
    first, second = await join(), await join()
    await first.consume(Subscription(StreamName.HEALTH, "shared", WANTED.subjects, window=2), one)
    await second.consume(Subscription(StreamName.HEALTH, "shared", WANTED.subjects, window=2), two)
    for number in range(50):
        await first.publish(SUBJECT, b"%d" % number)
    await until(lambda: len(one.got) + len(two.got) == 50)
    assert sorted(one.bodies + two.bodies) == sorted(b"%d" % number for number in range(50))
    assert one.got
    assert two.got


async def test_two_durables_get_everything_each(bus: Bus):
    one, two = Collector(), Collector()
    await bus.consume(Subscription(StreamName.HEALTH, "one", WANTED.subjects), one)
    await bus.consume(Subscription(StreamName.HEALTH, "two", WANTED.subjects), two)
    await bus.publish(SUBJECT, b"both")
    await until(lambda: one.got and two.got)


async def test_stopping_waits_for_what_runs_and_leaves_the_rest_to_others(join: Joined):
    begun, finished, release = [], [], asyncio.Event()

    async def held(message: Message) -> None:
        begun.append(message.body)
        await release.wait()
        finished.append(message.body)
        await message.ack()

    first, second = await join(), await join()
    consumption = await first.consume(Subscription(StreamName.HEALTH, "handed", WANTED.subjects, window=2), held)
    for number in range(6):
        await first.publish(SUBJECT, b"%d" % number)
    await until(lambda: len(begun) == 2)

    stopping = asyncio.create_task(consumption.stop())
    rest = Collector()
    await second.consume(Subscription(StreamName.HEALTH, "handed", WANTED.subjects), rest)
    await until(lambda: len(rest.got) == 4)
    assert not stopping.done()
    release.set()
    await stopping

    assert finished == [b"0", b"1"]
    assert rest.bodies == [b"2", b"3", b"4", b"5"]


async def test_a_durable_goes_on_where_it_was(bus: Bus):
    first, second = Collector(), Collector()
    consumption = await bus.consume(WANTED, first)
    await bus.publish(SUBJECT, b"1")
    await until(lambda: first.got)
    await consumption.stop()
    await bus.publish(SUBJECT, b"2")
    await bus.consume(WANTED, second)
    await until(lambda: second.got)
    assert second.bodies == [b"2"]


async def test_a_message_above_the_limit_is_refused_with_both_sizes(bus: Bus):
    with pytest.raises(Rejected, match=r"8388609 bytes.*8388608 bytes"):
        await bus.publish(SUBJECT, b"x" * (8 * 1024 * 1024 + 1))
    await bus.publish(SUBJECT, b"small")


async def test_a_subject_that_no_stream_takes_is_refused(bus: Bus):
    with pytest.raises(Rejected, match="stored by no stream"):
        await bus.publish("ansai.nonsense.x", b"")


async def test_an_expected_last_sequence_that_is_another_is_a_conflict(bus: Bus):
    subject = subjects.audit("web-1", "disk.free_space", "e1")
    expect = "Nats-Expected-Last-Subject-Sequence"
    await bus.publish(subject, b"first", headers={expect: "0"})
    with pytest.raises(Conflict):
        await bus.publish(subject, b"fork", headers={expect: "0"})
    await bus.publish(subject, b"second", headers={expect: "1"})
    assert [stored.body async for stored in bus.read(StreamName.AUDIT)] == [b"first", b"second"]


async def test_reading_gives_what_is_there_by_subject_and_time(bus: Bus):
    assert [stored async for stored in bus.read(StreamName.HEALTH)] == []
    for number in range(5):
        await bus.publish(SUBJECT, b"%d" % number, message_id=f"m{number}")
        await bus.publish(OTHER, b"other")
    everything = [stored async for stored in bus.read(StreamName.HEALTH)]
    assert [stored.sequence for stored in everything] == list(range(1, 11))
    assert everything[0].headers == {"Nats-Msg-Id": "m0"}
    assert [stored.body async for stored in bus.read(StreamName.HEALTH, OTHER)] == [b"other"] * 5
    assert [stored.body async for stored in bus.read(StreamName.HEALTH, "ansai.health.*.memory.>")] == []
    since = everything[6].stored_at
    assert [stored.sequence async for stored in bus.read(StreamName.HEALTH, since=since)] == [7, 8, 9, 10]


async def test_reading_more_than_one_batch_gives_all(bus: Bus):
    waiting = [await bus.publish_soon(f"ansai.action.web-1.disk.free_space.s{n}", b"%d" % n) for n in range(1000)]
    await asyncio.gather(*waiting)
    assert [stored.body async for stored in bus.read(StreamName.ACTION)] == [b"%d" % number for number in range(1000)]


async def test_what_is_announced_is_heard_by_those_who_listen(join: Joined):
    speaker, listener = await join(), await join()
    listening = listener.listen("ansai.heartbeat.>")
    await listening.ready()
    await speaker.announce(subjects.heartbeat("web-1", "collectors"), b"alive")
    await speaker.announce("ansai.other.x", b"not asked for")
    assert await anext(listening) == ("ansai.heartbeat.web-1.collectors", b"alive")
    await listening.aclose()


async def test_what_is_published_is_heard_too(bus: Bus):
    listening = bus.listen("ansai.audit.>")
    await listening.ready()
    await bus.publish(subjects.audit("web-1", "disk.free_space", "e1"), b"told")
    async for subject, body in listening:
        assert (subject, body) == ("ansai.audit.web-1.disk.free_space.e1", b"told")
        break
    await listening.aclose()


async def test_a_key_is_created_once(bus: Bus):
    bucket = await bus.bucket(Bucket.INCIDENTS)
    revision = await bucket.create("web-1.disk.x", b"1")
    assert await bucket.get("web-1.disk.x") == Entry("web-1.disk.x", b"1", revision)
    with pytest.raises(Conflict, match=r"web-1\.disk\.x"):
        await bucket.create("web-1.disk.x", b"2")


async def test_a_key_is_updated_only_at_its_revision(bus: Bus):
    bucket = await bus.bucket(Bucket.INCIDENTS)
    first = await bucket.create("k", b"1")
    second = await bucket.update("k", b"2", first)
    assert second > first
    with pytest.raises(Conflict):
        await bucket.update("k", b"3", first)
    with pytest.raises(Conflict):
        await bucket.update("unknown", b"3", 7)
    assert (await bucket.get("k")) == Entry("k", b"2", second)


async def test_a_deleted_key_is_gone_and_can_be_created_again(bus: Bus):
    bucket = await bus.bucket(Bucket.INCIDENTS)
    first = await bucket.create("k", b"1")
    with pytest.raises(Conflict):
        await bucket.delete("k", first + 5)
    await bucket.delete("k", first)
    assert await bucket.get("k") is None
    assert await bucket.keys() == []
    again = await bucket.create("k", b"2")
    assert again > first
    await bucket.delete("k")
    assert await bucket.get("k") is None


async def test_only_one_of_many_creates_the_key(join: Joined):
    buckets = [await (await join()).bucket(Bucket.LEASES) for _ in range(3)]
    results = await asyncio.gather(*(b.create("k", b"%d" % n) for n, b in enumerate(buckets)), return_exceptions=True)
    assert sum(isinstance(result, int) for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 2


async def test_keys_are_found_by_prefix(bus: Bus):
    bucket = await bus.bucket(Bucket.INCIDENTS)
    assert await bucket.keys() == []
    for key in ("web-1.disk.a", "web-1.disk.b", "web-10.disk.a"):
        await bucket.create(key, b"")
    assert await bucket.keys("web-1.") == ["web-1.disk.a", "web-1.disk.b"]
    assert await bucket.keys("web-1") == ["web-1.disk.a", "web-1.disk.b", "web-10.disk.a"]
    assert await bucket.keys("nobody.") == []


async def test_a_key_that_is_none_is_refused(bus: Bus):
    bucket = await bus.bucket(Bucket.INCIDENTS)
    for key in ("", "a..b", "a b", "a.*", "a.>", ".a"):
        with pytest.raises(Rejected):
            await bucket.create(key, b"")


async def test_watching_gives_what_is_there_then_none_then_changes(bus: Bus):
    bucket = await bus.bucket(Bucket.INCIDENTS)
    await bucket.create("web-1.a", b"1")
    await bucket.create("web-2.a", b"not asked for")
    await bucket.create("web-1.gone", b"")
    await bucket.delete("web-1.gone")
    async with aclosing(bucket.watch("web-1.")) as changes:
        present = await anext(changes)
        assert (present.key, present.value) == ("web-1.a", b"1")
        assert await anext(changes) is None
        revision = await bucket.create("web-1.b", b"2")
        assert await anext(changes) == Entry("web-1.b", b"2", revision)
        await bucket.delete("web-1.b")
        deleted = await anext(changes)
        assert (deleted.key, deleted.deleted) == ("web-1.b", True)


async def test_watching_an_empty_bucket_begins_with_none(bus: Bus):
    bucket = await bus.bucket(Bucket.FLEET)
    async with aclosing(bucket.watch()) as changes:
        assert await anext(changes) is None


async def test_a_lease_that_is_not_renewed_expires_and_watchers_hear_of_it(bus: Bus):
    leases = await bus.bucket(Bucket.LEASES)
    async with aclosing(leases.watch()) as changes:
        assert await anext(changes) is None
        revision = await leases.create("k", b"holder")
        assert await anext(changes) == Entry("k", b"holder", revision)
        async with asyncio.timeout(20):
            expired = await anext(changes)
        assert (expired.key, expired.deleted) == ("k", True)
    assert await leases.get("k") is None
    assert await leases.keys() == []
    assert await leases.create("k", b"next") > revision


async def test_a_lease_that_is_renewed_stays(bus: Bus):
    leases = await bus.bucket(Bucket.LEASES)
    revision = await leases.create("k", b"holder")
    for _ in range(6):
        await asyncio.sleep(0.3)  # six times: longer than the lease's one second
        revision = await leases.update("k", b"holder", revision)
    assert (await leases.get("k")) == Entry("k", b"holder", revision)


async def test_an_appended_message_stands_behind_the_one_that_was_expected(bus: Bus):
    await bus.append(OTHER_TRAIL, b"another emitter's", expected_last=0)
    first = await bus.append(TRAIL, b"first", expected_last=0)
    second = await bus.append(TRAIL, b"second", expected_last=first)
    assert (first, second) == (2, 3)
    assert [stored.body async for stored in bus.read(StreamName.AUDIT, TRAIL)] == [b"first", b"second"]


async def test_appending_behind_another_message_than_the_last_is_a_conflict(bus: Bus):
    first = await bus.append(TRAIL, b"first", expected_last=0)
    second = await bus.append(TRAIL, b"second", expected_last=first)
    for wrong in (0, first, second + 1):
        with pytest.raises(Conflict, match="wrong last sequence"):
            await bus.append(TRAIL, b"fork", expected_last=wrong)
    assert await bus.append(TRAIL, b"third", expected_last=second) == second + 1


async def test_of_two_that_append_behind_the_same_message_exactly_one_wins(join: Joined):
    one, two = await join(), await join()
    last = 0
    for number in range(20):
        results = await asyncio.gather(
            *(bus.append(TRAIL, b"%d" % number, expected_last=last) for bus in (one, two)), return_exceptions=True
        )
        won = [result for result in results if isinstance(result, int)]
        assert len(won) == 1, results
        assert sum(isinstance(result, Conflict) for result in results) == 1, results
        last = won[0]
    assert [stored.body async for stored in one.read(StreamName.AUDIT)] == [b"%d" % number for number in range(20)]


async def test_what_can_not_be_appended_is_refused(bus: Bus):
    with pytest.raises(Rejected, match="larger than"):
        await bus.append(TRAIL, b"x" * (8 * 1024 * 1024 + 1), expected_last=0)
    with pytest.raises(Rejected, match="stored by no stream"):
        await bus.append(subjects.heartbeat("web-1", "x"), b"", expected_last=0)
    assert await bus.append(TRAIL, b"small", expected_last=0) == 1


async def test_what_is_appended_is_heard_by_those_who_listen(bus: Bus):
    listening = bus.listen("ansai.audit.>")
    await listening.ready()
    await bus.append(TRAIL, b"told", expected_last=0)
    assert await anext(listening) == (TRAIL, b"told")
    await listening.aclose()


async def test_the_last_message_of_a_subject_is_the_one_that_reading_ends_with(bus: Bus):
    assert await bus.last(TRAIL) is None
    await bus.publish(TRAIL, b"first")
    await bus.publish(TRAIL, b"\x00last\xff", headers={"Ansai-Writer": "wörter: a", "Ansai-Empty": ""})
    await bus.publish(OTHER_TRAIL, b"another emitter's")
    assert await bus.last(TRAIL) == [stored async for stored in bus.read(StreamName.AUDIT, TRAIL)][-1]
    last = await bus.last(TRAIL)
    assert last is not None
    assert (last.sequence, last.body, last.headers["Ansai-Writer"]) == (2, b"\x00last\xff", "wörter: a")


async def test_the_last_message_of_no_one_subject_is_not_to_be_had(bus: Bus):
    for pattern in ("ansai.audit.>", "ansai.audit.web-1.disk.free_space.*"):
        with pytest.raises(Rejected, match="several"):
            await bus.last(pattern)
    with pytest.raises(Rejected, match="stored by no stream"):
        await bus.last("ansai.nonsense.x")


async def test_usage_says_how_full_a_stream_is(bus: Bus):
    assert await bus.usage(StreamName.AUDIT) == Usage(0, 1024**3, 0, 0, 0)
    for number in range(3):
        await bus.publish(TRAIL, b"x" * 1000, message_id=f"{number}")
    usage = await bus.usage(StreamName.AUDIT)
    assert (usage.messages, usage.first_sequence, usage.last_sequence) == (3, 1, 3)
    assert 3000 <= usage.bytes < 4000
    assert usage.share == usage.bytes / 1024**3
    endless = await bus.usage(StreamName.ACTION)
    assert (endless.limit, endless.share) == (None, 0.0)


async def test_purging_removes_what_is_older_and_leaves_the_rest(bus: Bus):
    last = 0
    for number in range(1, 6):
        last = await bus.append(TRAIL, b"%d" % number, expected_last=last)
    assert await bus.purge(StreamName.AUDIT, 0) == 0
    assert await bus.purge(StreamName.AUDIT, 1) == 0
    assert await bus.purge(StreamName.AUDIT, 4) == 3
    assert await bus.purge(StreamName.AUDIT, 4) == 0
    assert [stored.body async for stored in bus.read(StreamName.AUDIT)] == [b"4", b"5"]
    usage = await bus.usage(StreamName.AUDIT)
    assert (usage.messages, usage.first_sequence, usage.last_sequence) == (2, 4, 5)
    assert await bus.append(TRAIL, b"6", expected_last=last) == 6


async def test_purging_everything_leaves_no_gap_in_the_sequence(bus: Bus):
    await bus.append(TRAIL, b"1", expected_last=0)
    assert await bus.purge(StreamName.AUDIT, 1000) == 1
    assert await bus.last(TRAIL) is None
    usage = await bus.usage(StreamName.AUDIT)
    assert (usage.messages, usage.bytes, usage.first_sequence, usage.last_sequence) == (0, 0, 2, 1)
    with pytest.raises(Conflict):
        await bus.append(TRAIL, b"fork", expected_last=1)
    assert await bus.append(TRAIL, b"2", expected_last=0) == 2


async def test_a_full_stream_takes_more_once_it_is_purged_or_made_larger(bus: Bus):
    await bus.resize(StreamName.AUDIT, 64 * 1024)
    last = 0
    for _ in range(6):
        last = await bus.append(TRAIL, b"x" * 10_000, expected_last=last)
    with pytest.raises(Rejected, match=r"full.*archive and purge it, or widen its limit"):
        await bus.append(TRAIL, b"x" * 10_000, expected_last=last)
    assert (await bus.usage(StreamName.AUDIT)).share > 0.9

    await bus.purge(StreamName.AUDIT, 2)
    last = await bus.append(TRAIL, b"x" * 10_000, expected_last=last)
    with pytest.raises(Rejected, match="full"):
        await bus.append(TRAIL, b"x" * 10_000, expected_last=last)

    await bus.resize(StreamName.AUDIT, 128 * 1024)
    await bus.append(TRAIL, b"x" * 10_000, expected_last=last)
    assert (await bus.usage(StreamName.AUDIT)).limit == 128 * 1024


async def test_a_stream_is_not_made_smaller_than_what_it_holds(bus: Bus):
    await bus.append(TRAIL, b"x" * 10_000, expected_last=0)
    with pytest.raises(Rejected, match="archive and purge it first"):
        await bus.resize(StreamName.AUDIT, 5_000)
    for limit in (0, -1):
        with pytest.raises(Rejected, match="above zero"):
            await bus.resize(StreamName.AUDIT, limit)
    assert (await bus.usage(StreamName.AUDIT)).limit == 1024**3


async def test_checkpoints_are_kept_fifty_to_a_subject(bus: Bus):
    subject, last = subjects.checkpoint("web-1", "disk.free_space", "e1"), 0
    for number in range(60):
        last = await bus.append(subject, b"%d" % number, expected_last=last)
    kept = [stored.body async for stored in bus.read(StreamName.CHECKPOINT)]
    assert kept == [b"%d" % number for number in range(10, 60)]


async def test_a_bucket_knows_when_it_was_created(join: Joined):
    before = time.time_ns()
    first = await (await join()).bucket(Bucket.LEASES)
    second = await (await join()).bucket(Bucket.LEASES)
    await second.create("k", b"")
    assert before - 60 * 10**9 < first.epoch <= time.time_ns()
    assert second.epoch == first.epoch
