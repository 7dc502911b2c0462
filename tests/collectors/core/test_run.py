"""The loop: what is told, when, and what happens when a read goes wrong."""

import asyncio
import logging
import threading
from datetime import timedelta

import pytest

from collectors.core import run as loop
from collectors.core.outlet import Refused, Unreachable
from schemas.health import Level
from schemas.heartbeat import ComponentState
from schemas.probes import ProbeError
from tests.collectors.core.thermometer import THERMOMETER, WITH_NOSE, Rooms, Warmth
from tests.fakes import START
from tests.waiting import until

HALF_MINUTE = timedelta(seconds=30)


def told(outlet):
    return {event.target: event.level.value for event in outlet.take()}


@pytest.fixture
def hang(house):
    """Reads hang until this is set; it is set at the end in any case."""
    released = threading.Event()
    house.before = lambda: released.wait(60)
    yield released
    released.set()


async def test_the_first_look_tells_every_target(start, outlet):
    await start().look()
    event = outlet.events[0]
    assert event.source == "/hosts/web-1.example/collectors/rooms.warmth"
    assert event.type == "ansai.health.rooms.warmth.v1"
    assert event.dataschema == "urn:ansai:schema:ansai.health.rooms.warmth.v1"
    assert event.subject == "room:kitchen"
    assert event.time == START
    assert event.data == Warmth(target="room:kitchen", level=Level.OK, degrees=20, observed_at=START, since=START)
    assert b'"degrees":20.0' in event.body()
    assert told(outlet) == {"room:kitchen": "ok", "room:attic": "ok"}


async def test_a_change_is_told_at_once_and_only_it(start, house, clock, outlet):
    run = start()
    await run.look()
    outlet.take()
    clock.move(HALF_MINUTE)
    house.rooms["attic"] = 35
    await run.look()
    (event,) = outlet.take()
    assert (event.target, event.level, event.previous) == ("room:attic", Level.WARNING, Level.OK)
    assert event.since == START + HALF_MINUTE


async def test_back_to_healthy_is_told_at_once(start, house, outlet):
    run = start()
    house.rooms["attic"] = 35
    await run.look()
    outlet.take()
    house.rooms["attic"] = 20
    await run.look()
    (event,) = outlet.take()
    assert (event.level, event.previous) == (Level.OK, Level.WARNING)


async def test_a_steady_target_is_told_again_after_its_time_with_the_time_it_began(start, clock, outlet):
    run = start()
    await run.look()
    outlet.take()
    clock.move(timedelta(minutes=4, seconds=59))
    await run.look()
    assert outlet.take() == []
    clock.move(timedelta(seconds=1))
    await run.look()
    events = outlet.take()
    assert [event.target for event in events] == ["room:kitchen", "room:attic"]
    assert {(event.previous, event.since) for event in events} == {(Level.OK, START)}


async def test_a_target_that_vanished_is_told_once_as_gone_and_forgotten(start, house, outlet):
    run = start()
    await run.look()
    outlet.take()
    del house.rooms["attic"]
    await run.look()
    (event,) = outlet.take()
    assert (event.target, event.level) == ("room:attic", Level.UNKNOWN)
    assert "is gone" in event.reason
    await run.look()
    assert outlet.take() == []
    house.rooms["attic"] = 20
    await run.look()
    (event,) = outlet.take()
    assert (event.target, event.level, event.previous) == ("room:attic", Level.OK, None)


async def test_a_failed_read_is_told_for_every_known_target_and_so_is_the_recovery(start, house, clock, outlet, caplog):
    run = start()
    await run.look()
    outlet.take()
    house.error = ProbeError("the wire is cut")
    await run.look()
    events = outlet.take()
    assert {event.target: event.level for event in events} == dict.fromkeys(
        ["room:kitchen", "room:attic"], Level.UNKNOWN
    )
    assert {event.reason for event in events} == {"the wire is cut"}
    assert run.tally.state is ComponentState.DEGRADED

    clock.move(HALF_MINUTE)
    await run.look()
    assert outlet.take() == []

    house.error = None
    await run.look()
    assert told(outlet) == {"room:kitchen": "ok", "room:attic": "ok"}
    assert run.tally.state is ComponentState.RUNNING
    assert (run.tally.handled, run.tally.failures) == (4, 2)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "rooms.warmth can't be read, its targets are unknown: the wire is cut"
    ]


async def test_while_no_target_is_known_a_failed_read_is_told_for_the_collector_itself(start, house, outlet):
    run = start()
    house.error = ProbeError("the wire is cut")
    await run.look()
    assert told(outlet) == {"collector:rooms.warmth": "unknown"}
    house.error = None
    await run.look()
    assert told(outlet) == {"room:kitchen": "ok", "room:attic": "ok", "collector:rooms.warmth": "ok"}
    await run.look()
    assert outlet.take() == []


async def test_a_bug_is_told_as_unknown_and_logged_with_its_traceback_once(start, house, outlet, caplog):
    run = start()
    house.error = KeyError("attic")
    for _ in range(3):
        await run.look()
    (event,) = outlet.take()
    assert event.level is Level.UNKNOWN
    assert "KeyError in rooms.warmth" in event.reason
    assert len([record for record in caplog.records if record.exc_info]) == 1
    assert "raise house.error" in caplog.text
    assert run.tally.failures == 3


async def test_a_read_that_hangs_is_told_as_unknown_and_none_is_started_beside_it(start, house, outlet, hang):
    run = start(settings=Rooms(read_timeout=timedelta(seconds=0.02)))
    await run.look()
    (event,) = outlet.take()
    assert (event.target, event.level) == ("collector:rooms.warmth", Level.UNKNOWN)
    assert "no answer within 0.02 s" in event.reason
    (event,) = await run.look()
    assert "still hangs" in event.reason
    assert house.reads == 1

    hang.set()
    await until(lambda: run._reading.done())
    await run.look()
    assert house.reads == 2
    assert told(outlet)["room:kitchen"] == "ok"


async def test_an_error_that_comes_after_the_deadline_disturbs_nobody(start, house, hang, caplog):
    run = start(settings=Rooms(read_timeout=timedelta(seconds=0.02)))
    house.error = RuntimeError("too late to matter")
    await run.look()
    hang.set()
    await until(lambda: run._reading.done())
    assert "too late to matter" not in caplog.text


async def test_what_could_not_be_told_is_told_with_the_next_read(start, house, outlet, caplog):
    run = start()
    await run.look()
    outlet.take()
    outlet.error = Unreachable("no answer from nats://127.0.0.1:4222")
    house.rooms["attic"] = 35
    del house.rooms["kitchen"]
    await run.look()
    await run.look()
    outlet.error = None
    await run.look()
    events = {event.target: event for event in outlet.take()}
    assert (events["room:attic"].level, events["room:attic"].previous) == (Level.WARNING, Level.OK)
    assert "is gone" in events["room:kitchen"].reason
    assert caplog.text.count("no answer from nats://127.0.0.1:4222") == 1


async def test_a_refused_event_is_counted_logged_once_a_kind_and_not_sent_in_every_round(start, clock, outlet, caplog):
    run = start()
    outlet.error = Refused("no permission to publish")
    await run.look()
    await run.look()
    assert run.tally.refused == 2
    clock.move(timedelta(minutes=5))
    await run.look()
    assert run.tally.refused == 4
    assert caplog.text.count("no permission to publish") == 1


async def test_what_the_spool_dropped_is_told_with_the_next_event(start, house, outlet):
    run = start()
    await run.look()
    outlet.take()
    outlet.dropped = 7
    house.rooms["attic"] = 35
    await run.look()
    house.rooms["attic"] = 55
    await run.look()
    assert [event.dropped for event in outlet.take()] == [7, 0]


async def test_the_loop_looks_at_once_and_then_on_schedule_with_jitter(start, house, clock):
    jitter = iter([1.0, -1.0, 0.0, 0.0])
    run = start(jitter=lambda: next(jitter))
    run.start()
    await clock.until_asleep(2)
    assert house.reads == 1
    await clock.advance(timedelta(seconds=32.9))
    assert house.reads == 1
    await clock.advance(timedelta(seconds=0.2))
    assert house.reads == 2
    await clock.advance(timedelta(seconds=27.1))
    assert house.reads == 3
    await run.stop()


async def test_the_loop_goes_on_after_a_bug_in_telling(start, house, clock, outlet, caplog):
    run = start()
    outlet.error = ZeroDivisionError("a bug")
    run.start()
    await clock.until_asleep(2)
    outlet.error = None
    await clock.advance(HALF_MINUTE)
    assert told(outlet) == {"room:kitchen": "ok", "room:attic": "ok"}
    assert "ZeroDivisionError" in caplog.text
    await run.stop()


async def test_it_beats_every_ten_seconds_and_says_goodbye(start, clock, outlet):
    run = start(version="1.2.3")
    run.start()
    await clock.until_asleep(2)
    await clock.advance(timedelta(seconds=25))
    await run.stop()
    beats = [event.data for event in outlet.beats]
    assert [(beat.at - START).total_seconds() for beat in beats] == [0, 10, 20, 25]
    assert beats[-1].state is ComponentState.STOPPING
    assert beats[1].state is ComponentState.RUNNING
    assert (beats[1].host, beats[1].component, beats[1].names, beats[1].version) == (
        "web-1.example", "rooms.warmth", ("rooms.warmth",), "1.2.3",
    )  # fmt: skip
    assert beats[1].handled == 1
    assert outlet.beats[0].type == "ansai.heartbeat.v1"


async def test_the_heart_beats_on_after_a_bug_in_the_outlet(start, clock, outlet, monkeypatch, caplog):
    run = start()
    with monkeypatch.context() as patch:
        patch.setattr(outlet, "heartbeat", lambda _event: 1 / 0)
        run.start()
        await clock.until_asleep(2)
    await clock.advance(timedelta(seconds=10))
    await run.stop()
    assert len(outlet.beats) == 2
    assert "ZeroDivisionError" in caplog.text


async def test_it_stops_although_a_read_hangs(start, house, clock, hang):
    run = start()
    run.start()
    await until(lambda: house.reads == 1)
    await run.stop()
    await run.stop()
    assert not hang.is_set()
    assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("rooms.warmth"))


async def test_a_stop_finishes_what_is_being_told(start, outlet, monkeypatch):
    begun, go = asyncio.Event(), asyncio.Event()
    tell = outlet.health

    async def slowly(event):
        begun.set()
        await go.wait()
        await tell(event)

    monkeypatch.setattr(outlet, "health", slowly)
    run = start()
    run.start()
    await begun.wait()
    stopping = asyncio.create_task(run.stop())
    await asyncio.sleep(0)
    go.set()
    await stopping
    assert told(outlet) == {"room:kitchen": "ok", "room:attic": "ok"}


async def test_a_stop_has_a_deadline(start, outlet, monkeypatch, caplog):
    monkeypatch.setattr(loop, "STOP", timedelta(seconds=0.02))
    begun = asyncio.Event()

    async def never(_event):
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(outlet, "health", never)
    run = start()
    run.start()
    await begun.wait()
    await run.stop()
    assert "was stopped while telling" in caplog.text
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_a_heartbeat_that_hangs_does_not_hold_up_a_stop(start, outlet, clock, monkeypatch, caplog):
    monkeypatch.setattr(loop, "STOP", timedelta(seconds=0.02))
    run = start()
    run.start()
    await clock.until_asleep(2)
    monkeypatch.setattr(outlet, "heartbeat", lambda _event: asyncio.Event().wait())
    await run.stop()
    assert "did not stop within" in caplog.text
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_the_first_look_waits_a_moment_for_the_dear_read(start, house):
    run = start(WITH_NOSE)
    await run.look()
    assert run._state.memory.smell == "fresh"
    await run.look()
    assert house.smells == 1


async def test_a_dear_read_that_fails_is_remembered_and_the_cheap_one_goes_on(start, house, outlet):
    house.smell = ProbeError("a cold")
    run = start(WITH_NOSE)
    await run.look()
    assert run._state.memory.smell == "unknown: a cold"
    assert told(outlet) == {"room:kitchen": "ok", "room:attic": "ok"}


async def test_a_dear_read_that_hangs_is_not_started_again(start, house, outlet, monkeypatch):
    monkeypatch.setattr("collectors.core.aside.FIRST_WAIT", 0.1)
    released = threading.Event()
    house.smell = lambda: released.wait(60) and "late"
    run = start(WITH_NOSE)
    try:
        await run.look()
        await run.look()
        assert run._state.memory.smell == "unknown: no answer within 0.05 s"
        assert told(outlet) == {"room:kitchen": "ok", "room:attic": "ok"}
    finally:
        released.set()
    assert house.smells == 1
    await until(lambda: run._aside._future.done())
    house.smell = "fresh"
    await run.look()
    await until(lambda: house.smells == 2)


async def test_a_bug_in_the_dear_read_is_logged_and_the_cheap_one_goes_on(start, house, outlet, caplog):
    house.smell = IndexError("nose")
    run = start(WITH_NOSE)
    await run.look()
    assert "IndexError" in run._state.memory.smell
    assert "nose" in caplog.text
    assert told(outlet) == {"room:kitchen": "ok", "room:attic": "ok"}


def test_the_collector_names_its_own_target():
    assert THERMOMETER.own_target == "collector:rooms.warmth"
