"""`ansai approvals` against a real nats-server."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from bus import subjects
from bus.port import Bucket, StreamName, Subscription
from functions.core.plan import Plan, Rung
from functions.disk.file_actions import CompressLogs, RemoveFiles
from infra.hosts.plans import BusPlans
from infra.hosts.story import BusStory
from schemas.approval import Approval, PendingPlan
from schemas.audit import ActionEvent, Step
from schemas.envelope import Event
from schemas.facts.files import FileItem, Root
from schemas.remediation import Gap, Mode, Outcome

FUNCTION = "disk.free_space"
GAP = Gap(amount=3 * 2**20, unit="bytes")


def item(name: str) -> FileItem:
    return FileItem(path=name, device=1, inode=2, mtime_ns=3, size=2**20, allocated=2**20)


def plan(*names: str) -> Plan:
    root = Root(path="/var/log", device=1, inode=2)
    files = tuple(map(item, names))
    return Plan(
        rungs=(
            Rung(name="compress", title="Compress rotated logs", actions=(CompressLogs(root=root, files=files[:1]),)),
            Rung(
                name="remove", title="Remove rotated logs",
                actions=(RemoveFiles(root=root, files=files, kind="rotated log"),),
            ),
        )
    )  # fmt: skip


NAMES = tuple(f"app.{number}.log" for number in range(8))


@pytest.fixture
def keep(bus):
    """Put a plan into the bucket."""

    async def put(host="web-1", target="bytes:/var", names=NAMES, expires_in=timedelta(hours=1), **changes):
        made, now = plan(*names), datetime.now(UTC)
        pending = PendingPlan(
            host=host, function=FUNCTION, target=target, incident="i" * 24, correlation="c" * 24, hash=made.hash,
            requested_at=now - timedelta(minutes=5), expires_at=now + expires_in,
            summary=made.summary(FUNCTION, target, GAP), plan=made.model_dump(mode="json"),
        ).model_copy(update=changes)  # fmt: skip
        await BusPlans(await bus.bucket(Bucket.PLANS), host, FUNCTION).put(pending)
        return pending

    return put


@pytest.fixture
async def answering(bus, tmp_path):
    """A function that hears answers, and tells what came of each; gives the answers that it heard."""
    heard: list[tuple[str, Event[Approval]]] = []
    story = BusStory(bus, bus, "web-1", "function", state=tmp_path / "audit")

    async def hear(message) -> None:
        event = Event[Approval].model_validate_json(message.body)
        heard.append((message.subject, event))
        granted = event.data.state == "granted"
        fields = {"host": event.data.host, "function": FUNCTION, "mode": Mode.APPROVE, "target": event.data.target}
        if granted:
            acting = ActionEvent(step=Step.ACTING, text="Compress 1 rotated log", **fields)
            await story.action(event.correlationid, acting)
            await story.flush()
        last = ActionEvent(
            step=Step.HEALED if granted else Step.DENIED, outcome=Outcome.DONE if granted else Outcome.REFUSED,
            text="it is at target again" if granted else "denied", final=True, **fields,
        )  # fmt: skip
        await story.action("something else", last)
        await story.action(event.correlationid, last)
        await message.ack()

    patterns = subjects.answer_patterns("web-1", FUNCTION)
    consumption = await bus.consume(Subscription(StreamName.APPROVAL, "answering", patterns), hear)
    yield heard
    await consumption.stop()
    await story.flush()


async def test_the_list_says_for_what_how_grave_and_how_long_still(ansai_beside, server, keep):
    pending = await keep(
        expires_in=timedelta(days=2, minutes=90)
    )  # shown to the hour: 30 min are room for a slow start

    listed = await ansai_beside("approvals", "list", "--bus", server)

    assert listed.code == 0
    (line,) = listed.out.splitlines()[1:]
    assert line.startswith(f"{pending.hash[:12]}  5 min ")
    assert "ago  in 2 d 1 h" in line
    assert "web-1  disk.free_space  bytes:/var  3.0 MiB over target  1 reversible, 1 irreversible" in line


async def test_the_list_leaves_out_what_has_expired_and_says_when_nothing_waits(ansai_beside, server, keep):
    await keep(expires_in=timedelta(seconds=-1))

    listed = await ansai_beside("approvals", "list", "--bus", server)

    assert (listed.code, listed.err) == (0, "no plan waits for approval\n")
    assert json.loads((await ansai_beside("approvals", "list", "--json", "--bus", server)).out) == []


async def test_a_damaged_plan_is_told_and_hides_no_other(ansai_beside, server, bus, keep):
    key = subjects.plan_key("web-2", FUNCTION, "bytes:/srv", "f" * 64)
    await (await bus.bucket(Bucket.PLANS)).create(key, b"x")
    pending = await keep()

    listed = await ansai_beside("approvals", "list", "--json", "--bus", server)

    assert [each["hash"] for each in json.loads(listed.out)] == [pending.hash]
    assert f"nats kv del plans {key}" in listed.err


async def test_the_whole_plan_is_shown_as_a_ladder(ansai_beside, server, keep):
    pending = await keep()

    shown = await ansai_beside("approvals", "show", pending.hash[:6], "--bus", server)

    assert shown.code == 0
    for text in (
        pending.hash, "3.0 MiB over target", "no answer is a refusal", "Compress rotated logs", "Remove rotated logs",
        "▶ would run", "Remove 8 rotated logs below /var/log (8.0 MiB)", "/var/log/app.4.log", "and 3 more", "--items",
    ):  # fmt: skip
        assert text in shown.out
    assert "/var/log/app.7.log" not in shown.out
    assert f"ansai approvals grant {pending.hash[:12]}" in shown.err


async def test_every_item_is_shown_when_asked_for(ansai_beside, server, keep):
    pending = await keep(names=("a\x1b[2J.log", *NAMES))

    shown = await ansai_beside("approvals", "show", pending.hash, "--items", "--bus", server)

    assert all(f"/var/log/{name}\n" in shown.out for name in NAMES)
    assert "/var/log/a\\x1b[2J.log\n" in shown.out
    assert "more" not in shown.out


async def test_a_plan_that_is_not_the_one_its_hash_names_is_shown_as_such(ansai_beside, server, keep):
    pending = await keep(plan=plan("passwd").model_dump(mode="json"))

    shown = await ansai_beside("approvals", "show", pending.hash, "--bus", server)

    assert "the stored plan is not the one its hash names" in shown.out
    assert "Remove 8 rotated logs" in shown.out


async def test_a_plan_of_a_function_that_is_not_known_here_is_shown_from_its_summary(ansai_beside, server, bus, keep):
    pending = (await keep()).model_copy(update={"function": "other.function"})
    await BusPlans(await bus.bucket(Bucket.PLANS), "web-1", "other.function").put(
        pending.model_copy(update={"hash": "9" * 64})
    )

    shown = await ansai_beside("approvals", "show", "9999", "--bus", server)

    assert "only the summary, other.function is not known here" in shown.out
    assert "Remove 8 rotated logs" in shown.out


async def test_a_grant_names_exactly_this_plan_and_is_followed_to_its_end(ansai_beside, server, keep, answering):
    pending = await keep()

    done = await ansai_beside(
        "approvals", "grant", pending.hash[:8], "--reason", "looked at it", "--bus", server, USER="anna b",
    )  # fmt: skip

    ((subject, event),) = answering
    assert subject == "ansai.approval.web-1.disk.free_space.granted.anna-b"
    assert (event.data.hash, event.data.target, event.data.reason) == (pending.hash, "bytes:/var", "looked at it")
    assert event.correlationid == pending.correlation
    assert done.code == 0
    assert [line.split()[2] for line in done.out.splitlines()] == ["acting", "healed"]


async def test_a_denial_is_followed_to_its_end(ansai_beside, server, keep, answering):
    pending = await keep()

    done = await ansai_beside(
        "approvals", "deny", pending.hash[:8], "--who", "ben", "--json", "--bus", server
    )  # fmt: skip

    told = json.loads(done.out)
    assert done.code == 0
    assert told["approval"]["state"] == "denied"
    assert [each["step"] for each in told["events"]] == ["denied"]
    assert answering[0][0].endswith(".denied.ben")


async def test_without_waiting_the_answer_is_only_stored(ansai_beside, server, bus, keep):
    pending = await keep()

    done = await ansai_beside("approvals", "grant", pending.hash, "--no-wait", "--bus", server)

    assert (done.code, done.out) == (0, "")
    (stored,) = [message async for message in bus.read(StreamName.APPROVAL)]
    assert Event[Approval].model_validate_json(stored.body).data.state == "granted"


async def test_when_nobody_answers_it_says_what_holds_all_the_same(ansai_beside, server, keep):
    pending = await keep()

    done = await ansai_beside("approvals", "grant", pending.hash, "--timeout", "1", "--bus", server)

    assert done.code == 1
    assert "no end within 1 s; the answer is stored" in done.err


@pytest.mark.parametrize("command", ["show", "grant", "deny"])
async def test_a_hash_that_names_none_or_several_or_an_expired_one_is_told(ansai_beside, server, bus, keep, command):
    await keep(names=("old.log",), target="bytes:/old", expires_in=timedelta(minutes=-1))
    one = await keep()
    await keep(host="web-2")
    expired = plan("old.log").hash

    async def told(*arguments):
        done = await ansai_beside("approvals", command, *arguments, "--bus", server)
        assert done.code == 1
        return done.err

    assert "no plan 'zzzz' waits" in await told("zzzz")
    assert f"the plan {expired[:12]} for bytes:/old expired" in await told(expired[:20])
    several = await told(one.hash)
    assert "(web-1, bytes:/var)" in several
    assert "(web-2, bytes:/var)" in several
    assert "--on HOST" in several
    assert [message async for message in bus.read(StreamName.APPROVAL)] == []


async def test_equal_plans_of_two_hosts_are_told_apart_by_the_host(ansai_beside, server, bus, keep):
    one = await keep()
    await keep(host="web-2")

    done = await ansai_beside("approvals", "grant", one.hash, "--on", "web-2", "--no-wait", "--bus", server)

    assert done.code == 0
    (stored,) = [message async for message in bus.read(StreamName.APPROVAL)]
    assert stored.subject.startswith("ansai.approval.web-2.disk.free_space.granted.")
