"""Archiving on a real nats-server: what goes away is in the archive, what remains says where it went."""

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bus.jetstream import JetStreamBus, connect
from bus.port import Rejected, StreamName, Usage
from functions.core.ports import NotStored
from infra.audit import archive as archiving
from infra.audit.archive import NAMED, ROOM, Archived, ArchiveFailed, Order, archive
from infra.audit.export import RECORDS, Selection, export
from infra.audit.exported import verify_exports
from infra.audit.findings import Kind, Verification
from infra.audit.keys import Keyring
from infra.audit.online import verify_stream
from infra.audit.tombstones import Claim
from infra.audit.trust import Trust, local_keys
from infra.hosts.story import BusStory
from schemas.audit import Step
from schemas.remediation import Mode
from schemas.settings.bus import BusSettings
from tests.servers import running_server

HOST = "web-1"
LIMIT = 2**20


class Killed(BaseException):
    """As if the process ended here: nobody expects it, nobody handles it."""


def quiet(_: int, __: int) -> None:
    """No progress is shown."""


class Site:
    """A server with a small audit stream, and this machine's keys."""

    def __init__(self, bus: JetStreamBus, base: Path) -> None:
        self.bus = bus
        self.base = base
        self.state = base / "audit"
        self.keyring = Keyring(self.state / "keys")
        self._stories = 0

    def story(self) -> BusStory:
        self._stories += 1
        return BusStory(self.bus, self.bus, HOST, f"e{self._stories}", keyring=self.keyring, state=self.state)

    async def tell(self, story: BusStory, records: int = 3, function: str = "disk.free_space", size: int = 10) -> None:
        for number in range(records):
            await story.audit(
                "c1", function=function, mode=Mode.AUTO, step=Step.ACTING, text=f"number {number}",
                data={"padding": "x" * size},
            )  # fmt: skip

    @property
    def trust(self) -> Trust:
        return local_keys(HOST, self.keyring)

    async def archive(self, name: str, until: datetime | None = None) -> Archived | None:
        order = Order(self.base / name, until or datetime.now(UTC), "anna on web-1")
        story = self.story()
        try:
            return await archive(self.bus, order, story, self.keyring.current(), self.trust, LIMIT, quiet)
        finally:
            await story.stop()

    async def whole(self) -> Verification:
        found = await verify_stream(self.bus, self.trust, self.state / "heads", quiet)
        assert found.problems == ()
        return found

    async def usage(self) -> Usage:
        return await self.bus.usage(StreamName.AUDIT)

    async def moment(self) -> datetime:
        """Between what is stored and what comes."""
        await asyncio.sleep(0.01)
        return datetime.now(UTC)

    async def joined(self, *names: str) -> Verification:
        """The archives, and an export of the rest, verified as one trail."""
        rest = self.base / "rest"
        shutil.rmtree(rest, ignore_errors=True)
        await export(self.bus, rest, Selection(), self.keyring.current(), self.trust, "auditor", quiet)
        return verify_exports([*(self.base / name for name in names), rest], self.trust, quiet)


@pytest.fixture
async def site(tmp_path) -> AsyncIterator[Site]:
    async with running_server(tmp_path / "nats") as server:
        bus = await connect(BusSettings(url=server.url, audit_max_size=LIMIT), name="archive test", url=server.url)
        yield Site(bus, tmp_path)
        await bus.close()


async def test_older_records_go_and_the_chains_go_on_behind_a_tombstone(site):
    running, ended = site.story(), site.story()
    await site.tell(running)
    await site.tell(ended, function="disk.other")
    await ended.stop()
    until = await site.moment()
    await site.tell(running)

    done = await site.archive("first", until)
    await site.tell(running)
    await running.stop()

    assert done.verification.ok
    assert (done.purged, done.checkpoints_purged) == (done.verification.messages, 1)
    assert (await site.usage()).first_sequence == done.verification.last_sequence + 1
    found = await site.whole()
    assert [chain.first for chain in found.chains if chain.function == "disk.free_space"] == [5]
    assert any("tombstone" in note for note in found.notes)
    together = await site.joined("first")
    assert together.problems == ()
    assert [chain.first for chain in together.chains if chain.function == "disk.free_space"] == [1]


async def test_archives_follow_on_one_another_while_a_chain_is_written(site):
    running = site.story()
    for number in range(4):
        await site.tell(running)
        await site.archive(f"a{number}")
        await site.whole()
    await running.stop()

    assert (await site.joined("a0", "a1", "a2", "a3")).problems == ()
    assert (await site.joined("a2", "a3")).problems == ()
    missing = await site.joined("a0", "a2", "a3")
    assert not missing.ok or any("not judged" in note for note in missing.notes)


async def test_an_archive_that_lacks_a_record_does_not_join(site):
    running = site.story()
    await site.tell(running)
    await site.archive("first")
    await running.stop()
    path = site.base / "first" / RECORDS
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))

    kinds = {problem.kind for problem in (await site.joined("first")).problems}

    assert kinds >= {Kind.BAD_EXPORT, Kind.DROPPED}


async def test_nothing_that_old_is_nothing_to_do(site):
    assert await site.archive("first") is None
    until = await site.moment()
    await site.tell(site.story())

    assert await site.archive("first", until) is None
    assert not (site.base / "first").exists()


async def test_what_does_not_verify_is_not_removed(site):
    story = site.story()
    await site.tell(story)
    await story.stop()
    await site.bus.publish("ansai.audit.web-1.disk.free_space.intruder", b"junk", message_id="x")
    before = await site.usage()

    done = await site.archive("first")

    assert [problem.kind for problem in done.verification.problems] == [Kind.NOT_A_RECORD]
    assert (done.purged, done.tombstone) == (0, 0)
    assert await site.usage() == before


async def fill(site: Site) -> BusStory:
    """Audit until the stream is full."""
    story = site.story()
    with pytest.raises(NotStored):
        await site.tell(story, records=1_000, size=20_000)
    with pytest.raises(NotStored):
        await site.tell(story, records=1_000, size=500)
    return story


async def test_a_full_stream_is_freed_and_has_its_limit_again(site):
    story = await fill(site)

    done = await site.archive("first")

    assert done.verification.ok
    usage = await site.usage()
    assert usage.limit == LIMIT
    assert usage.share < 0.1
    await site.tell(story)
    await story.stop()
    await site.whole()
    assert (await site.joined("first")).ok


async def test_the_limit_is_set_back_when_the_tombstone_can_not_be_stored(site):
    await fill(site)
    before = await site.usage()

    class Refusing:
        async def audit(self, correlation: str, **fields: object) -> None:
            assert (await site.usage()).limit == LIMIT + ROOM
            raise NotStored("no")

        async def stop(self) -> None:
            """Nothing was begun."""

    order = Order(site.base / "first", datetime.now(UTC), "anna")
    with pytest.raises(NotStored):
        await archive(site.bus, order, Refusing(), site.keyring.current(), site.trust, LIMIT, quiet)
    assert await site.usage() == before


@pytest.mark.parametrize("killed", ["before the tombstone", "before the purge", "between the purges"])
async def test_killed_anywhere_a_second_run_finishes_and_nothing_is_lost(site, monkeypatch, killed):
    running = site.story()
    await site.tell(running, records=20)
    steps = {"before the tombstone": "_bury", "before the purge": "purge", "between the purges": "_purge_checkpoints"}
    step = steps[killed]

    async def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        target = site.bus if step == "purge" else archiving
        patched.setattr(target, step, die)
        with pytest.raises(Killed):
            await site.archive("first")
    await site.whole()
    await site.tell(running)

    if killed == "before the tombstone":
        done = await site.archive("first")
        assert done.purged == done.verification.messages == 20
    else:
        purged = killed == "between the purges"
        with pytest.raises(ArchiveFailed, match="is not an archive of") if purged else contextlib.nullcontext():
            await site.archive("first")
        await site.archive("second")
    await running.stop()

    await site.whole()
    kept = [name for name in ("first", "second") if (site.base / name).exists()]
    assert (await site.joined(*kept)).problems == ()


async def test_another_directory_of_that_name_is_left_alone(site):
    await site.tell(site.story())
    await site.archive("first")
    await site.tell(site.story())
    before = await site.usage()

    with pytest.raises(ArchiveFailed, match="Name another directory"):
        await site.archive("first")
    assert (await site.usage()).first_sequence == before.first_sequence


async def test_the_limit_that_a_killed_run_left_wide_is_set_back(site):
    await site.tell(site.story())
    await site.bus.resize(StreamName.AUDIT, LIMIT + ROOM)

    await site.archive("first")

    assert (await site.usage()).limit == LIMIT


async def test_a_stream_is_never_made_smaller_than_what_it_holds(site):
    await fill(site)

    with pytest.raises(Rejected):
        await site.bus.resize(StreamName.AUDIT, LIMIT // 2)


def test_of_too_many_chains_the_newest_are_named_and_the_last_of_each_function(tmp_path):
    def end(day: int, number: int) -> dict[str, object]:
        return {"sequence": 1, "head": "0" * 64, "at": f"2026-01-{day:02}T{number // 60:02}:{number % 60:02}:00Z"}

    old = {f"web-1.disk.rare.r{number}": end(1, number) for number in range(3)}
    many = {f"web-1.disk.often.o{number:05}": end(2, number) for number in range(NAMED)}
    earlier = Claim(
        1, "", "", 1, dict.fromkeys(old, (1, "0" * 64)), {name: str(each["at"]) for name, each in old.items()}, 7
    )

    chains, forgotten = archiving._named([earlier], many, {"web-1.disk.rare.r0"})

    assert len(chains) == NAMED
    assert forgotten == 7 + 3
    assert {name for name in chains if "rare" in name} == {"web-1.disk.rare.r2", "web-1.disk.rare.r0"}
    assert "web-1.disk.often.o02999" in chains
    assert len(json.dumps(chains)) < 700_000
