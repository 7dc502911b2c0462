"""Exports prove themselves: whatever is done to their files is found, and nothing is found where nothing was done."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus.memory import MemoryBus
from bus.port import StreamName
from infra.audit.export import CHECKPOINTS, KEYS, MANIFEST, RECORDS, ExportFailed, Selection, export
from infra.audit.exported import NoExport, verify_exports
from infra.audit.findings import Kind, Verification
from infra.audit.form import fingerprint, record_hash
from infra.audit.keys import Keyring
from infra.audit.reading import signed_by
from infra.audit.trust import ANY, Trust, local_keys
from infra.hosts.story import BusStory
from schemas.audit import Step
from schemas.remediation import Mode

HOST = "web-1"


def quiet(_: int, __: int) -> None:
    """No progress is shown."""


class Site:
    """A bus with a trail on it, and this machine's keys."""

    def __init__(self, bus: MemoryBus, state: Path) -> None:
        self.bus = bus
        self.state = state
        self.keyring = Keyring(state / "keys")
        self._stories = 0

    async def tell(self, *functions: str, records: int = 5) -> None:
        """A process that audits, and stops in order."""
        self._stories += 1
        story = BusStory(self.bus, self.bus, HOST, f"e{self._stories}", keyring=self.keyring, state=self.state)
        for function in functions or ("disk.free_space",):
            fields = {"function": function, "mode": Mode.AUTO, "target": "bytes:/var/ü", "step": Step.ACTING}
            await story.audit("c1", text="first ☃", **fields)
            await asyncio.gather(*(story.audit("c1", text=f"number {number}", **fields) for number in range(records)))
        await story.stop()

    @property
    def trust(self) -> Trust:
        return local_keys(HOST, self.keyring)

    async def export(self, directory: Path, **selection: object) -> str:
        done = await export(
            self.bus, directory, Selection(**selection), self.keyring.current(), self.trust, "anna on web-1", quiet
        )
        return done.digest

    def verify(self, *directories: Path, trust: Trust | None = None) -> Verification:
        return verify_exports(directories, self.trust if trust is None else trust, quiet)


@pytest.fixture
async def site(tmp_path) -> AsyncIterator[Site]:
    bus = MemoryBus()
    made = Site(bus, tmp_path / "audit")
    await made.tell("disk.free_space", "disk.other")
    await made.tell()
    yield made
    await bus.close()


async def test_an_export_holds_everything_and_verifies_elsewhere(site, tmp_path):
    digest = await site.export(tmp_path / "out")

    found = site.verify(tmp_path / "out")

    assert found.problems == ()
    assert found.notes == ()
    assert (len(found.chains), found.records, found.checkpoints) == (3, 3 * 8, 3)
    assert sha256((tmp_path / "out" / MANIFEST).read_bytes()).hexdigest() == digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audit", "out"], "nothing else is left behind"


async def test_a_reader_in_another_language_finds_what_it_needs(site, tmp_path):
    """Everything by hand, as docs/audit.md describes it: lines, chain, head, signature, checkpoint."""
    await site.export(tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_text())
    public = {
        fingerprint(bytes.fromhex(key)): key
        for key in json.loads((tmp_path / "out" / KEYS).read_text())["public"].values()
    }
    heads: dict[str, str] = {}
    for line in (tmp_path / "out" / RECORDS).read_text().splitlines():
        message = json.loads(line)
        data = json.loads(message["body"])["data"]
        for record in data["records"]:
            assert record["previous"] == heads.get(message["subject"], "")
            heads[message["subject"]] = record_hash(record)
        assert data["head"] == heads[message["subject"]]
        signed = {name: value for name, value in data.items() if name not in {"records", "signature"}}
        text = json.dumps(signed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert signed_by(
            bytes.fromhex(public[data["key"]]), data["signature"], f"ansai.audit.segment.v1\n{text}".encode()
        )
    assert {f"ansai.audit.{name}": end["head"] for name, end in manifest["ends"].items()} == heads
    for line in (tmp_path / "out" / CHECKPOINTS).read_text().splitlines():
        message = json.loads(line)
        assert json.loads(message["body"])["data"]["head"] == heads[message["subject"].replace("checkpoint", "audit")]


async def test_what_is_no_text_is_kept_byte_for_byte_and_told(site, tmp_path):
    await site.bus.publish("ansai.audit.web-1.disk.free_space.intruder", b"\xff\x00\x1b", message_id="x")
    await site.export(tmp_path / "out")

    (problem,) = site.verify(tmp_path / "out").problems

    assert problem.kind is Kind.NOT_A_RECORD
    assert '"body_base64": "/wAb"' in (tmp_path / "out" / RECORDS).read_text()


@pytest.mark.parametrize("kind", ["directory", "empty directory", "file", "link"])
async def test_nothing_is_overwritten(site, tmp_path, kind):
    out = tmp_path / "out"
    if kind == "file":
        out.write_text("mine")
    elif kind == "link":
        os.symlink(tmp_path / "nowhere", out)
    else:
        out.mkdir()
        if kind == "directory":
            (out / "mine").write_text("mine")
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(ExportFailed, match="nothing is overwritten"):
        await site.export(out)
    assert [path for path in sorted(tmp_path.rglob("*")) if "audit" not in path.parts] == [
        path for path in before if "audit" not in path.parts
    ]


async def test_a_place_that_is_not_there_is_one_line(site, tmp_path):
    with pytest.raises(ExportFailed, match="can't be written: No such file or directory"):
        await site.export(tmp_path / "nowhere" / "out")


async def test_an_export_that_fails_in_the_middle_leaves_nothing_behind(site, tmp_path, monkeypatch):
    monkeypatch.setattr("infra.audit.export.signed_manifest", None)

    with pytest.raises(TypeError):
        await site.export(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["audit"]


async def test_one_function_is_exported_with_its_own_checkpoints(site, tmp_path):
    await site.export(tmp_path / "out", function="disk.other")

    found = site.verify(tmp_path / "out")

    assert found.problems == ()
    assert {chain.function for chain in found.chains} == {"disk.other"}
    assert found.checkpoints == 1
    assert "function disk.other" in found.notes[0]


async def test_a_span_of_time_begins_and_ends_where_it_says(site, tmp_path):
    messages = [stored async for stored in site.bus.read(StreamName.AUDIT)]
    await site.tell("disk.late")
    span = {"since": messages[3].stored_at, "until": messages[-2].stored_at}
    await site.export(tmp_path / "out", **span)

    found = site.verify(tmp_path / "out")

    assert found.problems == ()
    assert (found.first_sequence, found.last_sequence) == (4, len(messages) - 2)
    assert "is a part of the trail: since" in found.notes[-1]


async def test_what_is_written_during_an_export_is_no_problem_of_it(site, tmp_path):
    told = 0

    async def telling() -> None:
        nonlocal told
        while True:
            await site.tell(records=2)
            told += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(telling())
    for number in range(5):
        await site.export(tmp_path / f"out-{number}")
        assert site.verify(tmp_path / f"out-{number}").problems == ()
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert told


async def test_an_empty_trail_can_be_exported(tmp_path):
    site = Site(MemoryBus(), tmp_path / "audit")
    await site.export(tmp_path / "out")

    found = site.verify(tmp_path / "out")

    assert (found.ok, found.messages) == (True, 0)


# Trust.


async def test_somebody_who_knows_no_key_is_told_which_one_to_compare(site, tmp_path):
    await site.export(tmp_path / "out")

    found = site.verify(tmp_path / "out", trust=Trust())

    assert {problem.kind for problem in found.problems} == {Kind.UNTRUSTED_KEY}
    assert "ansai audit keys list" in found.problems[0].text


async def test_whoever_trusts_the_exporter_trusts_whom_it_trusted(site, tmp_path):
    other = Keyring(tmp_path / "auditor")
    await export(site.bus, tmp_path / "out", Selection(), other.current(), site.trust, "auditor", quiet)

    assert site.verify(tmp_path / "out", trust=Trust({ANY: frozenset({other.current().fingerprint})})).ok
    assert not site.verify(tmp_path / "out", trust=local_keys("elsewhere", Keyring(tmp_path / "third"))).ok


async def test_an_export_that_was_signed_anew_by_a_stranger_is_found(site, tmp_path):
    await site.export(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    thief = Keyring(tmp_path / "thief")
    await export(site.bus, tmp_path / "out", Selection(), thief.current(), local_keys(HOST, thief), "thief", quiet)

    found = site.verify(tmp_path / "out")

    assert [problem.kind for problem in found.problems] == [Kind.UNTRUSTED_KEY]
    assert found.problems[0].text.startswith(f"the key {thief.current().fingerprint} that signed")


# Files.


@pytest.mark.parametrize("name", [RECORDS, CHECKPOINTS, KEYS, MANIFEST])
async def test_a_file_that_is_gone_or_a_link_is_one_line(site, tmp_path, name):
    await site.export(tmp_path / "out")
    path = tmp_path / "out" / name
    path.rename(tmp_path / "moved")
    with pytest.raises(NoExport, match=name):
        site.verify(tmp_path / "out")
    os.symlink(tmp_path / "moved", path)
    with pytest.raises(NoExport, match=name):
        site.verify(tmp_path / "out")


async def test_a_cut_file_of_records_is_found_by_the_manifest_and_by_the_chain(site, tmp_path):
    await site.export(tmp_path / "out")
    path = tmp_path / "out" / RECORDS
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))

    kinds = [problem.kind for problem in site.verify(tmp_path / "out").problems]

    assert kinds[0] is Kind.BAD_EXPORT
    assert Kind.CUT_TAIL in kinds


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Site, Path]:
    """An export that the properties below corrupt copies of."""
    base = tmp_path_factory.mktemp("exported")

    async def make() -> Site:
        site = Site(MemoryBus(), base / "audit")
        await site.tell("disk.free_space", "disk.other")
        await site.tell()
        await site.export(base / "out")
        await site.bus.close()
        return site

    return asyncio.run(make()), base / "out"


def corrupted(out: Path, name: str, body: bytes) -> Path:
    """A copy with one file replaced."""
    copy = out.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(out, copy)
    (copy / name).write_bytes(body)
    return copy


def holds(site: Site, directory: Path) -> bool:
    try:
        return site.verify(directory).ok
    except NoExport:
        return False


def equal(one: bytes, two: bytes) -> bool:
    """Only a manifest has other spellings of the same: what is signed is what it says."""
    try:
        return json.loads(one) == json.loads(two)
    except (ValueError, RecursionError):
        return False


FILES = st.sampled_from([RECORDS, CHECKPOINTS, KEYS, MANIFEST])
PROPERTY = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@PROPERTY
@given(data=st.data(), name=FILES)
def test_any_flipped_byte_of_any_file_is_found(exported, data, name):
    site, out = exported
    body = bytearray((out / name).read_bytes())
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))

    same = name == MANIFEST and equal(bytes(body), (out / name).read_bytes())

    assert holds(site, corrupted(out, name, bytes(body))) == same


@PROPERTY
@given(data=st.data(), name=st.sampled_from([RECORDS, CHECKPOINTS]), what=st.sampled_from(["drop", "swap", "double"]))
def test_any_drop_swap_and_duplication_of_lines_is_found(exported, data, name, what):
    site, out = exported
    lines = (out / name).read_bytes().splitlines(keepends=True)
    one = data.draw(st.integers(0, len(lines) - 1))
    two = data.draw(st.integers(0, len(lines) - 1).filter(lambda number: what != "swap" or number != one))
    if what == "drop":
        del lines[one]
    elif what == "swap":
        lines[one], lines[two] = lines[two], lines[one]
    else:
        lines.insert(two, lines[one])

    assert not holds(site, corrupted(out, name, b"".join(lines)))


def test_an_untouched_copy_is_whole(exported):
    site, out = exported

    assert holds(site, corrupted(out, RECORDS, (out / RECORDS).read_bytes()))


def test_times_are_in_utc(exported):
    _, out = exported
    manifest = json.loads((out / MANIFEST).read_text())

    assert datetime.fromisoformat(manifest["created_at"]).utcoffset() == timedelta(0)
    assert datetime.fromisoformat(manifest["created_at"]) <= datetime.now(UTC)
