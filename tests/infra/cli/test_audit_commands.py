"""`ansai audit explain`, `verify`, `export`, `archive` and `keys` on a real nats-server."""

import json
import shutil

import pytest

from bus.port import StreamName
from infra.cli.lines import lines_of
from infra.hosts.story import BusStory
from schemas.audit import Step
from schemas.remediation import Mode, Outcome

HOST = "web-1"
FUNCTION = "disk.free_space"


@pytest.fixture
def audit(server, ansai_beside):
    """Run `ansai audit …` on this host's state."""

    async def run(*arguments: str, **environment: str):
        return await ansai_beside("audit", *arguments, "--bus", server, "--host", HOST, **environment)

    return run


@pytest.fixture
def telling(bus, tmp_path):
    """A process that audits an incident, and stops in order."""

    async def tell(emitter: str) -> None:
        story = BusStory(bus, bus, HOST, emitter, state=tmp_path / "state" / "ansai" / "audit")
        fields = {"function": FUNCTION, "target": "bytes:/var", "mode": Mode.AUTO, "incident": "a" * 24}
        await story.audit("c1", step=Step.OPENED, text="/var is 91 % full", policy="abc123def456", **fields)
        await story.audit(
            "c1", step=Step.REFUSED, rule="cooldown", limit="15 min", seen="3 min", outcome=Outcome.REFUSED,
            text="refused by cooldown: limit 15 min, seen 3 min; it ends at 12:00", who="anna", **fields,
        )  # fmt: skip
        await story.stop()

    return tell


async def test_a_whole_trail_verifies_and_says_by_whom_it_is_signed(audit, telling):
    await telling("e1")

    shown, document = await audit("verify"), await audit("verify", "--json")

    assert (shown.code, shown.err) == (0, "")
    assert "WHOLE. 4 records in 3 messages, 1 chain, 1 checkpoint" in shown.out
    assert json.loads(document.out)["ok"] is True
    assert [chain["ended"] for chain in json.loads(document.out)["chains"]] == [True]


async def test_what_is_no_record_makes_it_fail_and_is_named(audit, telling, bus):
    await telling("e1")
    await bus.publish("ansai.audit.web-1.disk.free_space.x", b"\x1b[2Jnonsense", message_id="x")

    shown, document = await audit("verify"), await audit("verify", "--json")

    assert shown.code == document.code == 1
    assert "NOT WHOLE. The first bad record: of disk.free_space on web-1 (x), message #4: it is no JSON" in shown.out
    assert "\x1b" not in shown.out
    assert json.loads(document.out)["problems"][0]["stream_sequence"] == 4


async def test_a_bus_that_was_set_up_anew_is_known_from_what_this_machine_remembers(audit, telling, bus):
    await telling("e1")
    await bus.purge(StreamName.AUDIT, 4)
    await bus.purge(StreamName.CHECKPOINT, 2)

    shown = await audit("verify")

    assert shown.code == 1
    assert "rolled_back" in shown.out
    assert "this machine" in shown.out


async def test_another_machine_pins_what_it_meets_and_says_so_once(audit, telling, tmp_path):
    await telling("e1")
    elsewhere = {"XDG_STATE_HOME": str(tmp_path / "elsewhere")}

    first, second = await audit("verify", **elsewhere), await audit("verify", **elsewhere)

    assert first.code == second.code == 0
    assert "web-1 is met for the first time" in first.err
    assert second.err == ""


async def test_an_export_verifies_offline_and_its_corruption_is_named(audit, telling, ansai_beside, tmp_path):
    await telling("e1")
    exported = await audit("export", "out", "--json")
    again = await audit("export", "out")
    stranger = {"XDG_STATE_HOME": str(tmp_path / "elsewhere")}
    fine = await ansai_beside("audit", "verify", "out", "--host", HOST)
    unknown = await ansai_beside("audit", "verify", "out", **stranger)
    key = json.loads(exported.out)["key"]
    named = await ansai_beside("audit", "verify", "out", "--trust", key, **stranger)
    records = tmp_path / "out" / "records.jsonl"
    records.write_bytes(records.read_bytes().replace(b"91 %", b"19 %"))
    changed = await ansai_beside("audit", "verify", "out", "--trust", key)

    assert (exported.code, fine.code, named.code, unknown.code, changed.code, again.code) == (0, 0, 0, 1, 1, 1)
    assert json.loads(exported.out)["counts"]["records"] == 4
    assert "--trust" in unknown.out
    assert "altered record 2 of disk.free_space on web-1 (e1-1), message #1" in changed.out
    assert again.err == "ansai: out exists already, and nothing is overwritten; name another directory\n"


async def test_an_archive_leaves_a_trail_that_verifies_alone_and_with_the_rest(audit, telling, bus, ansai_beside):
    await telling("e1")
    await telling("e2")

    nothing = await audit("archive", "none")
    archived = await audit("archive", "old", "--before", "0 s", "--json")
    await telling("e3")
    rest = await audit("export", "rest")
    alone = await audit("verify")
    joined = await ansai_beside("audit", "verify", "old", "rest", "--host", HOST, "--json")

    assert "nothing to archive" in nothing.out
    done = json.loads(archived.out)
    assert (done["archived"], done["purged"], done["checkpoints_purged"]) == (True, 6, 2)
    assert (await bus.usage(StreamName.AUDIT)).first_sequence == 7
    assert (rest.code, alone.code, joined.code) == (0, 0, 0)
    assert "tombstone at message #7" in alone.out
    assert json.loads(joined.out)["first_sequence"] == 1


async def test_an_archive_that_does_not_verify_removes_nothing(audit, telling, bus):
    await telling("e1")
    await bus.publish("ansai.audit.web-1.disk.free_space.x", b"nonsense", message_id="x")

    ended = await audit("archive", "old", "--before", "0 s")

    assert ended.code == 1
    assert "nothing was removed" in ended.err
    assert (await bus.usage(StreamName.AUDIT)).messages == 4


async def test_keys_are_listed_and_rotated_and_the_trail_still_verifies(audit, telling, tmp_path):
    empty = await audit("keys", "list")
    await telling("e1")
    elsewhere = {"XDG_STATE_HOME": str(tmp_path / "elsewhere")}
    await audit("verify", **elsewhere)  # meets the first key
    rotated = await audit("keys", "rotate", "--json")
    await telling("e2")
    listed = await audit("keys", "list", "--json")
    here, there = await audit("verify"), await audit("verify", **elsewhere)

    assert (empty.out.strip(), empty.err) == (
        "host  fingerprint  use",
        "no keys yet: the first function that runs here makes one\n",
    )
    keys = {each["use"]: each["fingerprint"] for each in json.loads(listed.out)}
    assert keys == {"signs here": json.loads(rotated.out)["new"], "signed here before": json.loads(rotated.out)["old"]}
    assert (here.code, there.code) == (0, 0)
    assert here.out.count("NOT") == 0


async def test_a_replaced_key_is_found_by_whoever_met_the_first_one(audit, telling, tmp_path):
    await telling("e1")
    elsewhere = {"XDG_STATE_HOME": str(tmp_path / "elsewhere")}
    await audit("verify", **elsewhere)
    shutil.rmtree(tmp_path / "state" / "ansai" / "audit")
    await telling("e2")

    found = await audit("verify", **elsewhere)

    assert found.code == 1
    assert "untrusted_key record 1 of disk.free_space on web-1 (e2-1)" in found.out


async def test_a_cause_is_explained_by_its_id_or_how_it_begins(audit, telling):
    await telling("e1")

    told, beginning, document = (
        await audit("explain", "c1"),
        await audit("explain", "aaa"),
        await audit("explain", "c1", "--json"),
    )
    nothing = await audit("explain", "zz")

    assert told.code == 0
    assert "seen: /var is 91 % full" in told.out
    assert "not done: refused by the rule cooldown: limit 15 min, seen 3 min" in told.out
    assert "abc123def456" in told.out
    assert "it ends at 12:00" in told.out
    assert beginning.out == told.out
    assert json.loads(document.out)[0]["not_done"] == [
        "the plan: refused by the rule cooldown: limit 15 min, seen 3 min"
    ]
    assert nothing.err == "ansai: nothing in the trail was caused by 'zz'; see: ansai audit list\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verify", "nowhere"], "nowhere/manifest.json can't be read: No such file or directory"),
        (["verify", ".", "--trust", "nowhere"], "--trust nowhere: neither a fingerprint"),
        (["export", "nowhere/out"], "nowhere/out can't be written"),
        (["export", "out", "--function", "nonsense"], "they look like disk.free_space"),
    ],
)
async def test_what_can_not_be_done_is_one_line(audit, arguments, said):
    ended = await audit(*arguments)

    assert ended.code == 1
    (line,) = [line for line in ended.err.splitlines() if "made the key" not in line]
    assert said in line


@pytest.mark.parametrize("when", ["soon", "2026-13-01", "30"])
async def test_a_time_that_is_none_is_refused(audit, when):
    ended = await audit("archive", "old", "--before", when)

    assert ended.code == 2
    assert "neither a duration like" in ended.err


async def test_a_segment_has_a_line_for_each_of_its_records(telling, bus):
    await telling("e1")
    (first, *_) = [stored async for stored in bus.read(StreamName.AUDIT)]

    lines = lines_of(first.subject, first.body, first.stored_at)

    assert [(line.kind, line.state) for line in lines] == [("audit", "began"), ("audit", "opened")]
