"""`watch`, `audit`, `dlq` and `trigger` against a real nats-server."""

import asyncio
import hashlib
import json
import signal
from datetime import UTC, datetime

import pytest

from bus import subjects
from bus.port import StreamName
from infra.cli.lines import line_of
from infra.hosts.story import BusStory
from schemas.audit import Step
from schemas.disk import DiskPressure
from schemas.envelope import Event
from schemas.facts.files import Resource
from schemas.health import Level
from schemas.remediation import Mode, Outcome
from schemas.trigger import Trigger

HOST = "web-1"
FUNCTION = "disk.free_space"


def health(reason: str = "/var is 91 % full") -> Event[DiskPressure]:
    data = DiskPressure(
        target="bytes:/var", level=Level.CRITICAL, reason=reason, observed_at=datetime.now(UTC), mount="/var",
        resource=Resource.BYTES,
    )  # fmt: skip
    return Event[DiskPressure](source=f"/hosts/{HOST}", type=DiskPressure.type_name(), subject=data.target, data=data)


@pytest.fixture
async def story(bus, tmp_path):
    told = BusStory(bus, bus, HOST, "emitter-1", state=tmp_path / "state" / "ansai" / "audit")
    yield told
    await told.stop()


@pytest.fixture
async def audited(story):
    """Two incidents in the trail."""
    for incident, correlation, target in (("a" * 24, "c1", "bytes:/var"), ("b" * 24, "c2", "bytes:/srv")):
        fields = {"host": HOST, "function": FUNCTION, "incident": incident, "target": target, "mode": Mode.DRY_RUN}
        await story.audit(correlation, step=Step.OPENED, text="it is full", **fields)
        await story.audit(correlation, step=Step.WOULD, outcome=Outcome.WOULD, **fields)


async def publishing(bus, process) -> None:
    """Publish one event again and again, until the process has ended."""
    while process.returncode is None:
        event = health()
        await bus.publish(subjects.health(HOST, "disk", "pressure", "bytes:/var"), event.body(), message_id=event.id)
        await asyncio.sleep(0.05)


async def test_watch_prints_one_line_for_each_event(bus, server, started):
    watching = await started("watch", "health", "--count", "1", "--bus", server)
    publisher = asyncio.create_task(publishing(bus, watching))

    out, err = await asyncio.wait_for(watching.communicate(), 30)
    await publisher

    assert watching.returncode == 0
    assert err == b""
    assert out.decode().split()[1:4] == ["health", "critical", HOST]
    assert "bytes:/var: /var is 91 % full" in out.decode()


async def test_watch_as_json_prints_the_whole_event_in_one_line(bus, server, started):
    watching = await started("watch", "ansai.health.web-1.>", "--json", "--count", "1", "--bus", server)
    publisher = asyncio.create_task(publishing(bus, watching))

    out, _ = await asyncio.wait_for(watching.communicate(), 30)
    await publisher

    (line,) = out.splitlines()
    assert json.loads(line)["event"]["data"]["target"] == "bytes:/var"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
async def test_a_signal_ends_watch_cleanly(bus, server, started, number):
    watching = await started("watch", "health", "--bus", server)
    publisher = asyncio.create_task(publishing(bus, watching))

    assert await asyncio.wait_for(watching.stdout.readline(), 30)
    watching.send_signal(number)
    _, err = await asyncio.wait_for(watching.communicate(), 30)
    await publisher

    assert watching.returncode == 0
    assert err == b""


async def test_without_a_bus_a_command_says_how_to_get_one(ansai_beside):
    for command in (("watch",), ("trigger", FUNCTION)):
        ended = await ansai_beside(*command)
        assert ended.code == 1
        assert ended.err == (
            "ansai: no bus: no embedded server runs here and bus.url is not set; start one with: ansai up,"
            " or name one with --bus nats://HOST:4222\n"
        )


async def test_a_server_that_does_not_answer_is_one_line(ansai_beside):
    ended = await ansai_beside("audit", "list", "--bus", "nats://127.0.0.1:1", ANSAI_BUS__CONNECT_DEADLINE="300 ms")

    assert ended.code == 1
    assert "127.0.0.1:1" in ended.err
    assert "Traceback" not in ended.err


async def test_the_audit_trail_is_listed_oldest_first(server, audited, ansai_beside):
    shown = await ansai_beside("audit", "list", "--json", "--bus", server)

    records = json.loads(shown.out)
    assert [record["step"] for record in records] == ["began", "opened", "would", "opened", "would"]
    assert [record["place"] for record in records] == ["1.1", "1.2", "2", "3", "4"]
    assert [record["sequence"] for record in records] == [1, 2, 3, 4, 5], "numbered within the chain"


@pytest.mark.parametrize(
    ("filters", "places"),
    [
        (["--target", "bytes:/srv"], ["3", "4"]),
        (["--incident", "a" * 24], ["1.2", "2"]),
        (["--correlation", "c2"], ["3", "4"]),
        (["--function", FUNCTION, "--limit", "1"], ["4"]),
        (["--function", "disk.other"], []),
        (["--since", "1 h"], ["1.1", "1.2", "2", "3", "4"]),
    ],
)
async def test_the_audit_trail_can_be_narrowed(server, audited, ansai_beside, filters, places):
    shown = await ansai_beside("audit", "list", "--json", "--bus", server, *filters)

    assert [record["place"] for record in json.loads(shown.out)] == places


async def test_a_record_and_a_whole_incident_can_be_shown(server, audited, ansai_beside):
    one = await ansai_beside("audit", "show", "3", "--bus", server)
    second = await ansai_beside("audit", "show", "1.2", "--json", "--bus", server)
    both = await ansai_beside("audit", "show", "1", "--json", "--bus", server)
    story = await ansai_beside("audit", "show", "b" * 24, "--json", "--bus", server)
    none = await ansai_beside("audit", "show", "99", "--bus", server)

    assert "bytes:/srv" in one.out
    assert "it is full" in one.out
    assert [record["step"] for record in json.loads(story.out)] == ["opened", "would"]
    assert [record["step"] for record in json.loads(second.out)] == ["opened"]
    assert [record["step"] for record in json.loads(both.out)] == ["began", "opened"]
    assert none.code == 1
    assert "no record, incident or correlation '99'" in none.err


async def test_what_is_no_record_is_told_and_passed_by(server, bus, audited, ansai_beside):
    await bus.publish("ansai.audit.web-1.disk.free_space.emitter-1", b"\x1b[31mnonsense", message_id="x")

    shown = await ansai_beside("audit", "list", "--json", "--bus", server)

    assert len(json.loads(shown.out)) == 5
    assert shown.err == "ansai: #5 on ansai.audit.web-1.disk.free_space.emitter-1 is no audit record\n"


async def test_a_dead_letter_is_listed_shown_and_replayed_where_it_came_from(server, bus, story, ansai_beside):
    origin = subjects.trigger(HOST, FUNCTION)
    body = b'{"target": \x1b[2J'
    await story.dead_letter(FUNCTION, origin, body, "no JSON: it ends too early")

    listed = json.loads((await ansai_beside("dlq", "list", "--json", "--bus", server)).out)
    shown = await ansai_beside("dlq", "show", "1", "--bus", server)
    replayed = await ansai_beside("dlq", "replay", "1", "--bus", server)

    assert listed == [
        {
            "sequence": 1, "time": listed[0]["time"], "subject": origin, "error": "no JSON: it ends too early",
            "length": len(body), "sha256": hashlib.sha256(body).hexdigest(),
        }
    ]  # fmt: skip
    assert r'{"target": \x1b[2J' in shown.out, "control characters are shown, not sent to the terminal"
    assert "\x1b" not in shown.out
    assert replayed.out == f"#1 published on {origin}\n"
    assert [stored.body async for stored in bus.read(StreamName.TRIGGER)] == [body]
    assert len([stored async for stored in bus.read(StreamName.DLQ)]) == 1


async def test_a_letter_that_was_cut_is_not_replayed(server, bus, story, ansai_beside):
    await story.dead_letter(FUNCTION, subjects.trigger(HOST, FUNCTION), b"x" * (600 * 1024), "too long to be one")

    ended = await ansai_beside("dlq", "replay", "--all", "--bus", server)

    assert ended.code == 1
    assert "#1 is kept only in part (524288 of 614400 bytes)" in ended.err
    assert [stored async for stored in bus.read(StreamName.TRIGGER)] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["replay"], "name the numbers to replay, or give --all"),
        (["replay", "7"], "no dead letter 7; see: ansai dlq list"),
        (["show", "7"], "no dead letter 7; see: ansai dlq list"),
        (["list", "--function", "nonsense"], "they look like disk.free_space"),
    ],
)
async def test_a_wrong_number_or_name_is_one_line(server, ansai_beside, arguments, said):
    ended = await ansai_beside("dlq", *arguments, "--bus", server)

    assert ended.code == 1
    assert said in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("subject", "body", "kind", "text"),
    [
        (
            subjects.trigger(HOST, FUNCTION, "anna"),
            Trigger(target="/var").model_dump_json().encode(),
            "trigger",
            "/var",
        ),
        ("ansai.dlq.disk.free_space", b"\xff\x00\x1b", "dlq", r"\xff"),
        ("$JS.API", b"x", "other", "x"),
        ("ansai.health.web-1.disk.pressure.0123", b"{}", "health", "{}"),
    ],
)
def test_every_message_has_a_line_whatever_it_is(subject, body, kind, text):
    line = line_of(subject, body, datetime.now(UTC))

    assert line.kind == kind
    assert text in line.text
    assert line.rich().plain.isprintable()
