"""The chain of one writer: gapless whatever the bus does, and nobody is told "stored" who isn't."""

import asyncio
import json
import random
import shutil
from typing import Any

import pytest

from bus import subjects
from bus.jetstream import connect
from bus.port import Bucket, StreamName
from functions.core.ports import NotStored
from infra.audit import form
from infra.audit.findings import Kind
from infra.audit.heads import HeadFile
from infra.audit.trail import SEGMENT_BYTES, SEGMENT_RECORDS
from schemas.audit import AuditSegment, Step
from schemas.envelope import Event
from schemas.remediation import Gap, Mode
from tests.infra.audit.conftest import FUNCTION, HOST, SUBJECT, Troubled, Writers, act
from tests.waiting import until


async def test_an_idle_chain_writes_nothing(writers: Writers):
    await writers.trail().stop()

    assert await writers.stored() == []
    assert await writers.stored(StreamName.CHECKPOINT) == []


async def test_the_first_record_stands_behind_the_beginning_in_one_segment(writers: Writers):
    assert await act(writers.trail(version="1.2"), "first")

    (message,) = await writers.stored()
    segment = Event[AuditSegment].model_validate_json(message.body).data
    began, first = segment.records
    assert (began.step, began.sequence, began.previous) == (Step.BEGAN, 1, "")
    assert (first.step, first.sequence, first.text, first.correlation) == (Step.ACTING, 2, "first", "c1")
    key = writers.keyring.current()
    assert began.data["key"] == key.public.hex()
    assert began.data["version"] == "1.2"
    assert "previous_chain" not in began.data
    assert (segment.key, segment.first, segment.last) == (key.fingerprint, 1, 2)
    assert await writers.whole()


async def test_the_envelope_carries_the_correlation_of_its_first_record_and_the_records_byte_for_byte(writers: Writers):
    await act(writers.trail(), "é first", gap=Gap(amount=12.5, unit="bytes"))

    (message,) = await writers.stored()
    event = json.loads(message.body)
    assert (event["type"], event["correlationid"]) == ("ansai.audit.v1", "c1")
    for record in event["data"]["records"]:
        assert form.canonical(record) in message.body


async def test_a_record_reads_back_as_it_was_given(writers: Writers):
    gap = Gap(amount=-1e22, unit="bytes", reason="x")
    await writers.trail().append(
        "c1", step=Step.ACTED, mode=Mode.APPROVE, gap=gap, items=("/a\udcff", "b"), position=0, who="ops", policy="abc"
    )

    record = (await writers.records())[1]
    assert (record.gap, record.items, record.position, record.who, record.policy) == (
        gap, ("/a\udcff", "b"), 0, "ops", "abc",
    )  # fmt: skip


async def test_records_that_come_while_one_is_on_its_way_share_a_signature_in_their_order(writers: Writers):
    bus = Troubled(writers.bus)
    trail = writers.trail(bus=bus)
    bus.gate.clear()
    asked = [asyncio.create_task(act(trail, "0"))]
    await until(lambda: trail._group)
    asked += [asyncio.create_task(act(trail, f"{n}")) for n in range(1, SEGMENT_RECORDS + 11)]
    await until(lambda: len(trail._queue) == SEGMENT_RECORDS + 10)
    bus.gate.set()

    assert all(await asyncio.gather(*asked))

    segments = await writers.segments()
    assert [each.last - each.first + 1 for each in segments] == [2, SEGMENT_RECORDS, 10]
    assert await writers.told() == ["began", *(f"{n}" for n in range(SEGMENT_RECORDS + 11))]
    assert await writers.whole()


async def test_a_large_record_does_not_share_its_segment(writers: Writers):
    bus = Troubled(writers.bus)
    trail = writers.trail(bus=bus)
    await act(trail, "first")
    bus.gate.clear()
    asked = [asyncio.create_task(act(trail, "second"))]
    await until(lambda: trail._group)
    asked += [
        asyncio.create_task(act(trail, text, data={"x": "y" * size}))
        for text, size in (("small", 1), ("large", 2 * SEGMENT_BYTES), ("after", 1))
    ]
    await until(lambda: len(trail._queue) == 3)
    bus.gate.set()

    assert all(await asyncio.gather(*asked))
    assert [[record.text for record in each.records] for each in (await writers.segments())[1:]] == [
        ["second"], ["small"], ["large"], ["after"],
    ]  # fmt: skip
    assert await writers.whole()


async def test_a_record_too_large_for_the_bus_is_refused_and_burns_no_number(writers: Writers):
    trail = writers.trail()
    await act(trail, "first")

    with pytest.raises(NotStored, match="larger than the"):
        await trail.append("c1", step=Step.ACTING, mode=Mode.AUTO, data={"x": "y" * 9_000_000})

    assert await act(trail, "second")
    assert await writers.told() == ["began", "first", "second"]
    assert await writers.whole()


async def test_what_json_cannot_hold_is_refused_before_it_is_sent(writers: Writers):
    trail = writers.trail()

    with pytest.raises(NotStored, match="can't be written"):
        await trail.append(
            "c1", step=Step.ACTED, mode=Mode.AUTO, result={"outcome": "done", "freed": {"bytes": float("nan")}}
        )

    assert await act(trail, "next")
    assert await writers.told() == ["began", "next"]


# What the bus may do to a segment.


async def test_a_lost_answer_is_no_lost_record(writers: Writers):
    bus = Troubled(writers.bus)
    trail = writers.trail(bus=bus)
    bus.troubles.extend(["answer lost", "", "answer lost"])

    assert [await act(trail, text) for text in ("a", "b", "c", "d")] == [True] * 4

    assert await writers.told() == ["began", "a", "b", "c", "d"]
    assert bus.appended == 4
    assert await writers.whole()


async def test_a_lost_message_is_sent_again(writers: Writers):
    bus = Troubled(writers.bus)
    trail = writers.trail(bus=bus)
    bus.troubles.extend(["message lost", "message lost", "", "message lost"])

    assert [await act(trail, text) for text in ("a", "b")] == [True] * 2

    assert await writers.told() == ["began", "a", "b"]
    assert await writers.whole()


async def test_the_first_copy_that_overtakes_the_second_is_the_record(writers: Writers):
    bus = Troubled(writers.bus)
    trail = writers.trail(bus=bus)
    await act(trail, "a")
    bus.troubles.extend(["message late", "arrives now"])

    assert await act(trail, "b")

    assert await writers.told() == ["began", "a", "b"]
    assert await writers.whole()


async def test_a_record_that_comes_after_its_caller_gave_up_stays_in_the_chain(writers: Writers):
    trail = writers.trail()
    await act(trail, "a")
    await writers.server.pause()
    given_up = await act(trail, "late")
    writers.server.resume()
    await until(lambda: writers.bus.connected)

    assert not given_up
    assert await act(trail, "b")

    assert await writers.told() == ["began", "a", "late", "b"]
    assert await writers.whole()


async def test_a_second_copy_that_is_refused_says_nothing_of_the_first(writers: Writers):
    bus = Troubled(writers.bus)
    trail = writers.trail(bus=bus)
    await act(trail, "a")
    bus.troubles.extend(["message late", "refused"])
    assert not await act(trail, "late")
    await bus.arrive()

    assert await act(trail, "b")

    assert await writers.told() == ["began", "a", "late", "b"]
    assert writers.alerts == []


async def test_a_refused_record_burns_no_number(writers: Writers):
    bus = Troubled(writers.bus)
    trail = writers.trail(bus=bus)
    bus.troubles.extend(["refused", "", "refused"])

    assert [await act(trail, text) for text in ("a", "b", "c", "d")] == [False, True, False, True]

    assert await writers.told() == ["began", "b", "d"]
    assert await writers.whole()


async def test_the_beginning_that_comes_late_is_the_beginning(writers: Writers):
    bus = Troubled(writers.bus)
    trail = writers.trail(bus=bus, settle_within=0)
    bus.troubles.extend(["message late", "arrives now"])

    assert not await act(trail, "late")
    assert await act(trail, "b")

    assert await writers.told() == ["began", "late", "b"]
    assert await writers.whole()


async def test_a_record_that_was_given_up_and_never_came_leaves_no_hole(writers: Writers):
    bus = Troubled(writers.bus)
    trail = writers.trail(bus=bus, settle_within=0)
    await act(trail, "a")
    bus.troubles.extend(["message lost"])

    assert not await act(trail, "lost")
    assert await act(trail, "b")

    assert await writers.told() == ["began", "a", "b"]
    assert await writers.whole()


async def test_a_full_trail_refuses_and_goes_on_once_it_is_archived(writers: Writers):
    trail = writers.trail()
    count = 0
    while await act(trail, f"{count}", data={"x": "y" * 100_000}):
        count += 1
    with pytest.raises(NotStored, match="the stream is full"):
        await trail.append("c1", step=Step.ACTING, mode=Mode.AUTO, data={"x": "y" * 100_000})
    head = trail.position
    last = (await writers.stored())[-1].sequence
    await writers.bus.purge(StreamName.AUDIT, last + 1)

    assert await act(trail, "after the archive")

    (segment,) = await writers.segments()
    assert (segment.first, segment.previous) == (head.sequence + 1, head.head)
    assert count > 5


async def test_a_chain_that_was_archived_while_it_was_quiet_goes_on(writers: Writers):
    trail = writers.trail()
    await act(trail, "a")
    await act(trail, "b")
    head = trail.position
    await writers.bus.purge(StreamName.AUDIT, 100)

    assert await act(trail, "c")
    assert await act(trail, "d")

    first, _ = await writers.segments()
    assert (first.first, first.previous) == (4, head.head)
    assert writers.alerts == []


async def test_a_record_that_was_archived_before_its_fate_was_known_is_not_stored_twice(writers: Writers):
    bus = Troubled(writers.bus)
    trail = writers.trail(bus=bus, settle_within=0)
    await act(trail, "a")
    bus.troubles.append("message late")
    assert not await act(trail, "late")
    await bus.arrive()
    late = (await writers.segments())[-1]
    chain = f"{HOST}.{FUNCTION}.emitter-1"
    tombstone = {"archive": "0" * 64, "before": 3, "chains": {chain: {"sequence": late.last, "head": late.head}}}
    archive = writers.trail("archive-1", function="operator.archive")
    await archive.append("c2", step=Step.TOMBSTONE, mode=Mode.AUTO, data=tombstone)
    await writers.bus.purge(StreamName.AUDIT, 3)

    assert await act(trail, "b")

    (record,) = await writers.records()
    assert (record.sequence, record.previous) == (late.last + 1, late.head)
    assert await writers.whole()


async def test_a_server_that_is_killed_in_the_middle_loses_nothing_that_was_promised(writers: Writers):
    trail = writers.trail(settle_within=20.0)
    promised: list[str] = []
    stopped = asyncio.Event()

    async def ask(worker: int) -> None:
        number = 0
        while not stopped.is_set():
            number += 1
            if await act(trail, f"{worker}-{number}"):
                promised.append(f"{worker}-{number}")

    workers = [asyncio.create_task(ask(n)) for n in range(8)]
    for _ in range(3):
        before = len(promised)
        await until(lambda before=before: len(promised) > before + 50)
        await writers.server.kill()
        await writers.server.start()
    before = len(promised)
    await until(lambda: len(promised) > before + 50)
    stopped.set()
    await asyncio.gather(*workers)

    told = await writers.told()
    assert len(told) == len(set(told))
    assert set(promised) <= set(told)
    assert await writers.whole()


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_goes_wrong_the_chain_has_each_promised_record_once(writers: Writers, seed: int):
    chance = random.Random(seed)
    bus = Troubled(writers.bus)
    trail = writers.trail(bus=bus, settle_within=chance.choice([0, 0.3]))
    promised: list[str] = []

    async def ask(text: str) -> None:
        if await act(trail, text):
            promised.append(text)

    for number in range(60):
        bus.troubles.clear()
        bus.troubles.extend(chance.choices(["", "answer lost", "message lost", "message late"], [6, 2, 1, 2], k=3))
        if bus.held and chance.random() < 0.4:
            bus.troubles.appendleft("arrives now")
        elif bus.held and chance.random() < 0.6:
            await bus.arrive()
        await asyncio.gather(*(ask(f"{number}-{n}") for n in range(chance.randint(1, 4))))
        if chance.random() < 0.05:
            bus.held.clear()
    bus.troubles.clear()
    assert await act(trail, "last")

    told = await writers.told()
    assert len(told) == len(set(told))
    assert set(promised) <= set(told)
    assert await writers.whole()
    assert writers.alerts == []


async def test_a_caller_who_is_cancelled_tears_nothing(writers: Writers):
    bus = Troubled(writers.bus)
    trail = writers.trail(bus=bus)
    bus.gate.clear()
    asked = [asyncio.create_task(act(trail, "0"))]
    await until(lambda: trail._group)
    asked += [asyncio.create_task(act(trail, f"{n}")) for n in range(1, 4)]
    await until(lambda: len(trail._queue) == 3)
    asked[0].cancel()
    asked[2].cancel()
    bus.gate.set()
    await asyncio.gather(*asked, return_exceptions=True)

    assert await act(trail, "after")
    assert await writers.told() == ["began", "0", "1", "2", "3", "after"]
    assert await writers.whole()


async def test_a_fork_ends_the_chain_and_is_told_once(writers: Writers):
    trail = writers.trail()
    await act(trail, "a")
    (own,) = await writers.stored()
    await writers.bus.append(SUBJECT, own.body.replace(b'"text":"a"', b'"text":"z"'), expected_last=own.sequence)

    for _ in range(3):
        with pytest.raises(NotStored, match=r"forked: message 2 on .*ansai audit verify"):
            await trail.append("c1", step=Step.ACTING, mode=Mode.AUTO)

    (alert,) = writers.alerts
    assert (alert.severity, alert.function) == ("critical", FUNCTION)
    await trail.stop()
    assert len(await writers.stored()) == 2


async def test_another_writer_under_our_name_is_a_fork(writers: Writers):
    await act(writers.trail(), "a")

    assert not await act(writers.trail(), "b")
    assert len(writers.alerts) == 1


# Beginning and end.


async def test_a_chain_ends_with_its_process_and_the_next_one_names_it(writers: Writers):
    first = writers.trail()
    await act(first, "a")
    await first.stop()
    second = writers.trail("emitter-2")
    await act(second, "b")
    await second.stop()

    assert await writers.told() == ["began", "a", "ended"]
    assert await writers.told("emitter-2") == ["began", "b", "ended"]
    began = (await writers.records("emitter-2"))[0]
    position = first.position
    assert began.data["previous_chain"] == {
        "host": HOST, "emitter": "emitter-1", "sequence": 3, "head": position.head,
    }  # fmt: skip
    assert await writers.whole()
    with pytest.raises(NotStored, match="has ended"):
        await second.append("c1", step=Step.ACTING, mode=Mode.AUTO)


async def test_a_process_that_stops_while_the_bus_is_away_does_not_wait_for_it(writers: Writers):
    trail = writers.trail()
    await act(trail, "a")
    await writers.server.kill()
    await until(lambda: not writers.bus.connected)

    await trail.stop()

    head = HeadFile(writers.state / "heads", FUNCTION).read()
    assert head is not None
    assert head.sequence == 2
    await writers.server.start()
    assert await writers.told() == ["began", "a"]


async def test_a_store_that_was_rolled_back_is_told_by_the_next_chain(writers: Writers, tmp_path):
    first = writers.trail()
    await act(first, "a")
    await first.stop()
    second = writers.trail("emitter-2")
    await act(second, "b")
    await writers.server.stop()
    shutil.copytree(tmp_path / "nats" / "store", tmp_path / "backup")
    await writers.server.start()
    await act(second, "c")
    await second.stop()
    await writers.server.stop()
    shutil.rmtree(tmp_path / "nats" / "store")
    shutil.move(tmp_path / "backup", tmp_path / "nats" / "store")
    await writers.server.start()

    third = writers.trail("emitter-3")
    assert await act(third, "d")

    assert await writers.told("emitter-3") == ["began", "discontinuity", "d"]
    record = (await writers.records("emitter-3"))[1]
    assert record.data["found"]["sequence"] == 2
    assert record.data["remembered"]["sequence"] == 4
    (alert,) = writers.alerts
    assert alert.severity == "critical"
    assert {problem.kind for problem in (await writers.verify()).problems} >= {Kind.DISCONTINUITY}


async def test_an_earlier_chain_that_is_gone_without_a_tombstone_is_a_discontinuity(writers: Writers):
    first = writers.trail()
    await act(first, "a")
    await first.stop()
    await writers.bus.purge(StreamName.AUDIT, 100)

    second = writers.trail("emitter-2")
    await act(second, "b")
    await act(second, "c")

    assert await writers.told("emitter-2") == ["began", "discontinuity", "b", "c"]
    assert len(writers.alerts) == 1


async def test_an_earlier_chain_that_a_tombstone_accounts_for_is_none(writers: Writers):
    first = writers.trail()
    await act(first, "a")
    await first.stop()
    head = first.position
    archive = writers.trail("archive-1", function="operator.archive")
    chains = {f"{HOST}.{FUNCTION}.emitter-1": {"sequence": head.sequence, "head": head.head}}
    data: dict[str, Any] = {"archive": "0" * 64, "before": 3, "chains": chains}
    await archive.append("c2", step=Step.TOMBSTONE, mode=Mode.AUTO, data=data)
    await writers.bus.purge(StreamName.AUDIT, 3)

    await act(writers.trail("emitter-2"), "b")

    assert await writers.told("emitter-2") == ["began", "b"]
    assert writers.alerts == []


async def test_an_earlier_chain_that_went_on_after_it_was_noted_is_whole(writers: Writers):
    first = writers.trail()
    await act(first, "a")
    noted = first.position
    await act(first, "b")
    HeadFile(writers.state / "heads", FUNCTION).write(first._chain, noted)

    await act(writers.trail("emitter-2"), "c")

    assert await writers.told("emitter-2") == ["began", "c"]


async def test_another_record_in_the_place_of_the_noted_one_is_a_discontinuity(writers: Writers):
    first = writers.trail()
    await act(first, "a")
    noted = first.position
    await act(first, "b")
    heads = HeadFile(writers.state / "heads", FUNCTION)
    heads.write(first._chain, type(noted)(noted.sequence, "0" * 64))

    await act(writers.trail("emitter-2"), "c")

    record = (await writers.records("emitter-2"))[1]
    assert record.step is Step.DISCONTINUITY
    assert record.data["found"] == {"sequence": noted.sequence, "head": noted.head}


async def test_the_key_is_announced_for_verifiers_elsewhere(writers: Writers):
    await act(writers.trail(), "a")

    fleet = await writers.bus.bucket(Bucket.FLEET)
    key = writers.keyring.current()
    name = subjects.key_of_signer(HOST, key.fingerprint)

    async def announced() -> Any:
        return await fleet.get(name)

    await until(announced)
    assert json.loads((await announced()).value)["key"] == key.public.hex()


async def test_another_key_announced_in_place_of_ours_is_told(writers: Writers):
    key = writers.keyring.current()
    fleet = await writers.bus.bucket(Bucket.FLEET)
    await fleet.create(subjects.key_of_signer(HOST, key.fingerprint), b"{}")

    await act(writers.trail(), "a")

    await until(lambda: writers.alerts)
    assert "another key is announced" in writers.alerts[0].title


async def test_a_key_that_others_can_read_signs_nothing(writers: Writers):
    key = writers.keyring.current()
    path = writers.state / "keys" / f"{key.fingerprint}.pem"
    path.chmod(0o640)

    with pytest.raises(NotStored, match=f"chmod 600 {path}"):
        await writers.trail().append("c1", step=Step.ACTING, mode=Mode.AUTO)

    assert await writers.stored() == []


async def test_two_chains_on_their_own_connections_do_not_meet(writers: Writers):
    other = await connect(writers.settings, name="another process")
    first, second = writers.trail(), writers.trail("emitter-2", bus=other)
    try:
        answers = await asyncio.gather(*(act(trail, f"{n}") for n in range(20) for trail in (first, second)))
        await second.stop()
    finally:
        await other.close()

    assert all(answers)
    assert await writers.told() == ["began", *(f"{n}" for n in range(20))]
    assert await writers.whole()
