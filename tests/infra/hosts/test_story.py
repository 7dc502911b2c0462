"""What a process tells: its trail is stored or it says so, a question is asked or it says so, the rest may wait."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bus import subjects
from bus.memory import MemoryBus
from bus.port import StreamName, Unavailable
from functions.core.ports import NotStored
from infra.audit.keys import Keyring, KeyUnusable
from infra.hosts.story import BusStory
from schemas.alert import Alert, AlertState, Severity
from schemas.approval import Approval, ApprovalState
from schemas.audit import ActionEvent, AuditSegment, Step
from schemas.envelope import Event
from schemas.remediation import Mode
from tests.fakes import START, FakeClock
from tests.infra.hosts.conftest import Site

HOST = "web-1"
FUNCTION = "disk.free_space"


class Gone:
    """A spool or a bus that takes nothing."""

    connected = False

    def __getattr__(self, name: str):
        async def unavailable(*args, **options):
            raise Unavailable("no answer")

        return unavailable


class Spool:
    """Keeps what is to be sent later."""

    def __init__(self) -> None:
        self.kept: list[str] = []

    async def publish(self, subject, body, *, message_id=None, headers=None) -> None:
        self.kept.append(subject)


@pytest.fixture
async def bus():
    made = MemoryBus()
    yield made
    await made.close()


@pytest.fixture
async def story(bus, tmp_path):
    made = BusStory(bus, bus, HOST, "e" * 24, state=tmp_path / "audit", version="1.2")
    await made.start()
    yield made
    await made.stop()


async def segments(bus, pattern: str = "") -> list[AuditSegment]:
    return [
        Event[AuditSegment].model_validate_json(message.body).data
        async for message in bus.read(StreamName.AUDIT, pattern)
    ]


def alert(severity: Severity = Severity.WARNING) -> Alert:
    return Alert(
        host=HOST, function=FUNCTION, target="bytes:/var", severity=severity, state=AlertState.OPENED, title="full",
        at=datetime.now(UTC),
    )  # fmt: skip


def question() -> Approval:
    return Approval(
        host=HOST, function=FUNCTION, target="bytes:/var", hash="a" * 64, state=ApprovalState.REQUESTED,
        expires_at=datetime.now(UTC) + timedelta(hours=1),
    )  # fmt: skip


async def test_the_correlation_and_the_policy_are_in_the_record(bus, story):
    await story.audit("c1", host=HOST, function=FUNCTION, step=Step.PLANNED, mode=Mode.AUTO, policy="abc123")

    (segment,) = await segments(bus)
    record = segment.records[-1]
    assert (record.step, record.correlation, record.policy) == (Step.PLANNED, "c1", "abc123")
    assert segment.records[0].data["version"] == "1.2"


async def test_each_function_has_a_chain_and_an_emitter_of_its_own(bus, story):
    for host, function in ((HOST, FUNCTION), (subjects.ANY_HOST, "database.vacuum"), (HOST, FUNCTION)):
        await story.audit("c1", host=host, function=function, step=Step.OPENED, mode=Mode.AUTO)

    found = await segments(bus)
    assert [(each.host, each.function, each.emitter, each.first, each.last) for each in found] == [
        (HOST, FUNCTION, f"{'e' * 24}-1", 1, 2),
        ("any", "database.vacuum", f"{'e' * 24}-2", 1, 2),
        (HOST, FUNCTION, f"{'e' * 24}-1", 3, 3),
    ]
    assert len(await segments(bus, f"ansai.audit.any.database.vacuum.{'e' * 24}-2")) == 1


async def test_chains_end_with_the_story_and_nothing_follows(bus, story):
    for function in (FUNCTION, "disk.other"):
        await story.audit("c1", host=HOST, function=function, step=Step.OPENED, mode=Mode.AUTO)

    await story.stop()
    await story.stop()

    found = await segments(bus)
    assert {each.function for each in found if each.records[-1].step is Step.ENDED} == {FUNCTION, "disk.other"}
    assert len([message async for message in bus.read(StreamName.CHECKPOINT)]) == 2
    with pytest.raises(NotStored):
        await story.audit("c1", host=HOST, function=FUNCTION, step=Step.OPENED, mode=Mode.AUTO)
    assert len(await segments(bus)) == len(found)


async def test_a_story_that_tells_nothing_leaves_nothing_but_its_key(bus, story, tmp_path):
    await story.stop()

    assert await segments(bus) == []
    assert [path.name for path in (tmp_path / "audit").iterdir()] == ["keys"]


async def test_a_key_that_cannot_be_used_is_told_at_the_start(bus, tmp_path):
    ring = Keyring(tmp_path / "audit" / "keys")
    (tmp_path / "audit" / "keys" / f"{ring.current().fingerprint}.pem").chmod(0o644)

    with pytest.raises(KeyUnusable, match="chmod 600"):
        await BusStory(bus, bus, HOST, "e", state=tmp_path / "audit").start()


async def test_another_keyring_and_clock_can_be_given(bus, tmp_path):
    ring, clock = Keyring(tmp_path / "elsewhere"), FakeClock()
    story = BusStory(bus, bus, HOST, "e", keyring=ring, state=tmp_path / "audit", clock=clock)

    await story.audit("c1", host=HOST, function=FUNCTION, step=Step.OPENED, mode=Mode.AUTO)
    await story.stop()

    segment = (await segments(bus))[0]
    assert (segment.key, segment.at) == (ring.current().fingerprint, START)
    assert not (tmp_path / "audit" / "keys").exists()


async def test_without_a_bus_nothing_is_audited(tmp_path):
    story = BusStory(Gone(), Spool(), HOST, "e", state=tmp_path / "audit")

    with pytest.raises(NotStored, match="no answer"):
        await story.audit("c1", host=HOST, function=FUNCTION, step=Step.OPENED, mode=Mode.AUTO)

    await story.stop()


async def test_a_question_is_published_for_all_who_may_answer(bus, story):
    asked = question()
    await story.approval("c1", asked)

    (message,) = [message async for message in bus.read(StreamName.APPROVAL)]
    event = Event[Approval].model_validate_json(message.body)
    assert message.subject == f"ansai.approval.{HOST}.{FUNCTION}.requested"
    assert (event.type, event.correlationid, event.subject) == ("ansai.approval.v1", "c1", "bytes:/var")
    assert event.data == asked


async def test_a_question_that_nobody_can_hear_is_none(tmp_path):
    story = BusStory(Gone(), Spool(), HOST, "e", state=tmp_path)

    with pytest.raises(NotStored, match="people were not asked"):
        await story.approval("c1", question())


async def test_an_alert_that_the_bus_does_not_take_waits_in_the_spool(tmp_path):
    spool = Spool()
    story = BusStory(Gone(), spool, HOST, "e", state=tmp_path)

    assert not await story.alert("c1", alert())
    await story.flush()

    assert spool.kept == [f"ansai.alert.{HOST}.{FUNCTION}.warning"]


async def test_an_alert_that_is_stored_is_not_spooled(bus, tmp_path):
    spool = Spool()
    story = BusStory(bus, spool, HOST, "e", state=tmp_path)

    assert await story.alert("c1", alert())
    await story.flush()

    assert spool.kept == []
    assert len([message async for message in bus.read(StreamName.ALERT)]) == 1


async def test_followers_are_told_in_the_background(bus, story):
    event = ActionEvent(
        host=HOST, function=FUNCTION, target="bytes:/var", step=Step.ACTING, mode=Mode.AUTO, text="it begins"
    )
    await story.action("c1", event)
    await story.flush()

    (message,) = [message async for message in bus.read(StreamName.ACTION)]
    assert message.subject == f"ansai.action.{HOST}.{FUNCTION}.acting"


async def test_a_fork_is_told_to_people(bus, story, tmp_path):
    await story.audit("c1", host=HOST, function=FUNCTION, step=Step.OPENED, mode=Mode.AUTO)
    (own,) = [message async for message in bus.read(StreamName.AUDIT)]
    await bus.publish(own.subject, b"{}")

    with pytest.raises(NotStored, match="forked"):
        await story.audit("c1", host=HOST, function=FUNCTION, step=Step.PLANNED, mode=Mode.AUTO)
    await story.flush()

    (message,) = [message async for message in bus.read(StreamName.ALERT)]
    told = Event[Alert].model_validate_json(message.body).data
    assert message.subject == f"ansai.alert.{HOST}.{FUNCTION}.critical"
    assert "forked" in told.title


async def test_what_cannot_be_understood_is_kept_with_the_reason(bus, story):
    await story.dead_letter(FUNCTION, "ansai.health.x", b"{", "no\nJSON")

    (message,) = [message async for message in bus.read(StreamName.DLQ)]
    assert message.body == b"{"
    assert message.headers["Ansai-Error"] == "no JSON"


async def test_many_functions_tell_at_once_on_a_server(site: Site, tmp_path: Path):
    story = BusStory(site.bus, site.bus, HOST, "e", state=tmp_path / "audit")
    functions = [f"disk.f{number}" for number in range(8)]

    async def tell(function: str) -> None:
        for number in range(10):
            await story.audit(f"c{number}", host=HOST, function=function, step=Step.ACTING, mode=Mode.AUTO)

    await asyncio.gather(*(tell(function) for function in functions for _ in range(2)))
    await story.stop()

    for function in functions:
        subject = f"ansai.audit.{HOST}.{function}.*"
        bodies = [json.loads(message.body)["data"] for message in await site.stored(StreamName.AUDIT, subject)]
        numbers = [record["sequence"] for data in bodies for record in data["records"]]
        assert numbers == list(range(1, 23))
