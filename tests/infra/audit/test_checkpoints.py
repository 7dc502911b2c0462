"""Checkpoints of a chain: how often, by whom signed, and that they hold up nothing."""

import asyncio
from typing import Any

from bus.port import StreamName, Unavailable
from infra.audit import reading
from infra.audit.checkpoints import AGAIN, EVERY, RECORDS
from infra.audit.heads import HeadFile
from infra.audit.keys import Keyring
from infra.audit.reading import signed_by
from infra.audit.trust import Trust
from schemas.audit import Checkpoint, Step
from schemas.envelope import Event
from tests.fakes import FakeClock
from tests.infra.audit.conftest import FUNCTION, HOST, Troubled, Writers, act
from tests.waiting import until


class NoCheckpoints(Troubled):
    """A bus that takes records and refuses checkpoints while `broken`."""

    broken = True
    asked = 0

    async def publish(self, subject: str, body: bytes, **options: Any) -> None:
        if subject.startswith("ansai.checkpoint."):
            self.asked += 1
            if self.broken:
                raise Unavailable("no answer")
        await self._bus.publish(subject, body, **options)


async def checkpoints(writers: Writers) -> list[Checkpoint]:
    return [
        Event[Checkpoint].model_validate_json(message.body).data
        for message in await writers.stored(StreamName.CHECKPOINT)
    ]


async def taken(writers: Writers, count: int) -> list[Checkpoint]:
    async def enough() -> bool:
        return len(await checkpoints(writers)) >= count

    await until(enough)
    return await checkpoints(writers)


async def test_one_is_taken_after_many_records(writers: Writers):
    trail = writers.trail()
    for number in range(RECORDS - 1):  # with the beginning
        await act(trail, f"{number}")

    (checkpoint,) = await taken(writers, 1)

    assert (checkpoint.sequence, checkpoint.head) == (RECORDS, trail.position.head)
    assert checkpoint.key == writers.keyring.current().fingerprint
    assert await writers.whole()


async def test_one_is_taken_a_while_after_few_records_and_none_without(writers: Writers):
    clock = FakeClock()
    trail = writers.trail(clock=clock)
    await act(trail, "a")
    await clock.until_asleep(1)
    assert await checkpoints(writers) == []
    await clock.advance(EVERY)
    (checkpoint,) = await taken(writers, 1)
    assert checkpoint.sequence == 2
    assert checkpoint.at == clock.now()

    await clock.until_asleep(1)
    await clock.advance(3 * EVERY)
    assert len(await checkpoints(writers)) == 1


async def test_one_is_taken_at_the_end(writers: Writers):
    trail = writers.trail()
    await act(trail, "a")
    await trail.stop()

    (checkpoint,) = await checkpoints(writers)
    assert (checkpoint.sequence, checkpoint.head) == (3, trail.position.head)
    assert await writers.whole()


async def test_it_notes_on_this_machine_where_the_chain_stands(writers: Writers):
    trail = writers.trail()
    await act(trail, "a")
    await trail.stop()

    head = HeadFile(writers.state / "heads", FUNCTION).read()

    assert head is not None
    assert (head.host, head.emitter, head.sequence, head.head) == (HOST, "emitter-1", 3, trail.position.head)


async def test_a_note_that_cannot_be_read_is_told_and_not_used(writers: Writers, caplog):
    heads = writers.state / "heads" / f"{FUNCTION}.json"
    heads.parent.mkdir(parents=True)
    heads.write_text("{")

    await act(writers.trail(), "a")

    assert f"{heads} can't be used" in caplog.text
    assert await writers.told() == ["began", "a"]


async def test_one_that_fails_holds_up_no_record_and_is_tried_again(writers: Writers):
    clock, bus = FakeClock(), NoCheckpoints(writers.bus)
    trail = writers.trail(clock=clock, bus=bus)
    for number in range(RECORDS + 20):
        assert await act(trail, f"{number}")
    await until(lambda: bus.asked)
    await clock.until_asleep(1)
    tries = bus.asked
    assert tries == 1
    assert await checkpoints(writers) == []

    bus.broken = False
    await clock.advance(AGAIN)
    (checkpoint,) = await taken(writers, 1)

    assert checkpoint.sequence == RECORDS + 21


async def test_a_new_key_is_taken_up_with_a_record_that_the_old_one_signs(writers: Writers):
    clock = FakeClock()
    ring = writers.keyring
    trail = writers.trail(clock=clock, keyring=ring)
    await act(trail, "a")
    old = ring.current()
    rotations = [Keyring(writers.state / "keys").rotate() for _ in range(2)]
    await clock.until_asleep(1)
    await clock.advance(EVERY)
    await taken(writers, 1)
    await act(trail, "b")
    await trail.stop()

    segments = await writers.segments()
    middle, new = (each.new_fingerprint for each in rotations)
    assert [(each.key, each.records[-1].step) for each in segments] == [
        (old.fingerprint, Step.ACTING),
        (old.fingerprint, Step.KEY_CHANGED),
        (middle, Step.KEY_CHANGED),
        (new, Step.ACTING),
        (new, Step.ENDED),
    ]
    assert [each.records[0].data for each in segments[1:3]] == [each.document() for each in rotations]
    assert {each.key for each in await checkpoints(writers)} == {new}
    found = await writers.verify(Trust({HOST: frozenset({old.fingerprint})}, {old.fingerprint: old.public}))
    assert found.problems == ()


async def test_what_waits_behind_a_change_of_keys_is_signed_by_the_new_one(writers: Writers):
    clock, bus = FakeClock(), Troubled(writers.bus)
    trail = writers.trail(clock=clock, bus=bus)
    await act(trail, "a")
    rotation = writers.keyring.rotate()
    await clock.until_asleep(1)
    bus.gate.clear()
    before = asyncio.create_task(act(trail, "before"))
    await until(lambda: trail._group)
    passing = asyncio.create_task(clock.advance(EVERY))
    await until(lambda: trail._queue)
    behind = asyncio.create_task(act(trail, "behind"))
    await until(lambda: len(trail._queue) == 2)
    bus.gate.set()
    await asyncio.gather(before, passing, behind)

    *_, changed, last = await writers.segments()
    assert [record.step for record in changed.records] == [Step.KEY_CHANGED]
    assert [record.text for record in last.records] == ["behind"]
    assert (changed.key, last.key) == (rotation.old_fingerprint, rotation.new_fingerprint)
    assert await writers.whole()


async def test_a_change_of_keys_that_came_late_is_made_once(writers: Writers):
    clock, bus = FakeClock(), Troubled(writers.bus)
    trail = writers.trail(clock=clock, bus=bus, settle_within=0)
    await act(trail, "a")
    writers.keyring.rotate()
    await clock.until_asleep(1)
    bus.troubles.append("message late")
    await clock.advance(EVERY)  # not stored, as it seems
    await bus.arrive()
    await clock.advance(AGAIN)
    await taken(writers, 1)
    await act(trail, "b")

    assert await writers.told() == ["began", "a", "key_changed", "b"]
    assert await writers.whole()


async def test_a_key_that_nothing_leads_to_is_not_taken_up(writers: Writers, caplog):
    clock = FakeClock()
    trail = writers.trail(clock=clock)
    await act(trail, "a")
    old = writers.keyring.current()
    (writers.state / "keys" / "current").unlink()
    forged = writers.keyring.current()
    await clock.until_asleep(1)
    await clock.advance(EVERY)
    await taken(writers, 1)
    await act(trail, "b")

    assert forged.fingerprint != old.fingerprint
    assert {each.key for each in await writers.segments()} == {old.fingerprint}
    assert "no rotation leads to it" in caplog.text


async def test_a_checkpoint_is_signed_over_what_it_says(writers: Writers):
    trail = writers.trail()
    await act(trail, "a")
    await trail.stop()
    (message,) = await writers.stored(StreamName.CHECKPOINT)

    key, seen = writers.keyring.current(), reading.checkpoint(message)
    assert signed_by(key.public, seen.signature, seen.signed)
    for name in ("emitter", "host", "function", "sequence", "head", "at", "key"):
        assert f'"{name}":'.encode() in seen.signed
