"""A function host on a real nats-server: what it heals, what it refuses, what it keeps as a dead letter."""

import asyncio
import hashlib
import json
import re
from datetime import timedelta

import pytest

from bus import subjects
from bus.port import StreamName
from schemas.audit import AuditRecord
from schemas.health import Level
from tests.functions.core.tank import Drain, Tanks, remedy
from tests.infra.hosts.conftest import HOST, event
from tests.waiting import until


def drain(name: str, litres: int) -> Drain:
    return Drain(tank="a", litres=litres, name=name)


async def records(site) -> list[AuditRecord]:
    return await site.records()


async def healed(site) -> bool:
    return any(record.step == "healed" for record in await records(site))


async def test_an_event_on_the_bus_is_healed_and_audited_without_a_hole(site):
    tanks = Tanks(a=15)
    await site.host(tanks, remedy((drain("x", 3), drain("y", 3))))

    await site.report()
    await until(lambda: healed(site))

    story = await records(site)
    assert tanks.log == ["x", "y"]
    assert [record.step for record in story] == [
        "opened", "planned", "acting", "acted", "acting", "acted", "healed",
    ]  # fmt: skip
    assert [record.sequence for record in story] == list(range(2, 9)), "the first says who writes"
    assert len({record.emitter for record in story}) == 1
    alerts = await site.stored(StreamName.ALERT)
    assert [message.subject.rpartition(".")[2] for message in alerts] == ["critical", "info"]


async def test_all_messages_of_one_cause_share_its_correlation_id(site):
    await site.host(Tanks(a=15), remedy((drain("x", 9),)))
    cause = event()
    await site.publish_raw(cause.body())
    await until(lambda: healed(site))

    for stream in (StreamName.AUDIT, StreamName.ACTION, StreamName.ALERT):
        for message in await site.stored(stream):
            assert json.loads(message.body)["correlationid"] == cause.correlationid


async def test_ten_copies_of_an_event_at_three_replicas_are_one_plan_and_one_set_of_actions(site):
    tanks = Tanks(a=15)
    for _ in range(3):
        await site.host(tanks, remedy((drain("x", 3), drain("y", 3))))
    copy = event().body()

    await asyncio.gather(*(site.publish_raw(copy) for _ in range(10)))
    await until(lambda: healed(site))
    consumed = await site.host(tanks, remedy((drain("x", 3),)))
    await consumed.stop()

    story = [str(record.step) for record in await records(site)]
    assert tanks.log == ["x", "y"]
    assert (story.count("opened"), story.count("planned"), story.count("acting")) == (1, 1, 2)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"{", "JSON"),
        (b"[]", "message"),
        (event().body().replace(b'"level":"critical"', b'"level":7'), "data.level"),
        (re.sub(rb'("observed_at":"[^"]*)Z"', rb'\1"', event().body()), "data.observed_at"),
        (event().body().replace(b".v1", b".v9"), "only ansai.health.water.level.v1 is understood"),
        (event(age=-timedelta(days=400)).body(), "in the future"),
        (event("tank:other").body(), "subject is not that of its target"),
        (b"\xff" * 600_000, "JSON"),
    ],
)  # fmt: skip
async def test_what_is_not_understood_is_kept_as_it_came_and_the_consumer_goes_on(site, body, why):
    tanks = Tanks(a=15)
    await site.host(tanks, remedy((drain("x", 9),)))

    await site.publish_raw(body)
    await site.report()
    await until(lambda: healed(site))

    (letter,) = await site.stored(StreamName.DLQ)
    assert letter.subject == "ansai.dlq.water.drain"
    assert letter.body == body[: 512 * 1024]
    assert why in letter.headers["Ansai-Error"]
    assert letter.headers["Ansai-Length"] == str(len(body))
    assert letter.headers["Ansai-Sha256"] == hashlib.sha256(body).hexdigest()
    assert tanks.log == ["x"]


async def test_stale_events_are_dropped_and_told_in_one_audit_line(site):
    tanks = Tanks(a=15)
    for number in range(20):
        await site.publish_raw(event(age=timedelta(minutes=11 + number)).body())
    await site.publish_raw(event(age=timedelta(days=20_000)).body())

    await site.host(tanks, remedy((drain("x", 9),)))
    await until(lambda: _told(site, "stale"))

    assert tanks.log == []
    (line,) = await records(site)
    assert (line.step, line.seen) == ("stale", "21")


async def _told(site, step: str) -> bool:
    return any(record.step == step for record in await records(site))


async def test_a_bare_order_evaluates_everything_and_changes_nothing(site):
    tanks = Tanks(a=15, b=3)
    await site.host(tanks, remedy((drain("x", 9),)))

    await site.bus.publish(subjects.trigger(HOST, "water.drain"), b"{}")
    await until(lambda: _told(site, "would"))

    assert tanks.log == []


async def test_a_live_order_from_an_operator_is_carried_out_and_names_him(site):
    tanks = Tanks(a=15)
    await site.host(tanks, remedy((drain("x", 9),)))

    await site.bus.publish(
        subjects.trigger(HOST, "water.drain", "anna"), b'{"target": "tank:a", "mode": "live", "reason": "now"}'
    )
    await until(lambda: healed(site))

    assert {record.who for record in await records(site)} == {"anna (unauthenticated)"}


@pytest.mark.parametrize("body", [b"{", b'{"taget": "tank:a"}', b'{"mode": "bare"}', b"[" * 100_000])
async def test_an_order_that_is_not_understood_is_a_dead_letter(site, body):
    tanks = Tanks(a=15)
    await site.host(tanks, remedy((drain("x", 9),)))

    await site.bus.publish(subjects.trigger(HOST, "water.drain"), body)
    await until(lambda: site.stored(StreamName.DLQ))

    assert tanks.log == []


async def test_an_order_for_a_function_nobody_has_is_a_dead_letter_where_every_trigger_is_heard(site):
    await site.host(Tanks(a=15), remedy((drain("x", 9),)), every_trigger=True)

    await site.bus.publish(subjects.trigger(HOST, "water.boil"), b"{}")
    await until(lambda: site.stored(StreamName.DLQ))

    (letter,) = await site.stored(StreamName.DLQ)
    assert "no function water.boil runs here; known are water.drain" in letter.headers["Ansai-Error"]


async def test_healthy_events_leave_no_trace(site):
    tanks = Tanks(a=5)
    host = await site.host(tanks, remedy((drain("x", 9),)))

    for level in (Level.OK, Level.CRITICAL, Level.UNKNOWN):
        await site.report(level=level)
    await until(lambda: host.handled == 3)
    await host.stop()

    for stream in (StreamName.AUDIT, StreamName.ACTION, StreamName.ALERT, StreamName.DLQ):
        assert await site.stored(stream) == []


async def test_a_disabled_function_hears_nothing(site):
    host = await site.host(
        Tanks(a=15), remedy((drain("x", 9),)), {"mode": "auto", "functions": {"water.drain": {"enabled": False}}}
    )

    assert host.functions == []


async def test_a_function_heals_on_after_the_server_was_restarted(site):
    tanks = Tanks(a=15)
    await site.host(tanks, remedy((drain("x", 9),)))
    await site.server.kill()
    await site.server.start()

    await site.report()
    await until(lambda: healed(site), seconds=30)

    assert tanks.log == ["x"]


async def test_a_host_that_is_stopped_and_started_goes_on_where_it_was(site):
    tanks = Tanks(a=15)
    first = await site.host(tanks, remedy((drain("x", 9),)))
    await first.stop()
    await site.report()

    await site.host(tanks, remedy((drain("x", 9),)))
    await until(lambda: healed(site))

    assert tanks.log == ["x"]
