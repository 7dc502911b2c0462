"""A holder that sleeps beyond its lease (a virtual machine that was paused, a host that swaps) and wakes up too late.

It stops itself with SIGSTOP at a boundary; another process recovers and acts; SIGCONT lets the first go on.
"""

import signal
from collections.abc import AsyncIterator

import pytest

from bus.port import StreamName
from infra.audit.keys import Keyring
from infra.audit.online import verify_stream
from infra.audit.trust import local_keys
from schemas.alert import AlertState
from schemas.audit import AuditRecord, AuditSegment, Step
from schemas.envelope import Event
from schemas.incident import IncidentState
from tests.chaos import world
from tests.chaos.trials import Process, Range, firing_range
from tests.waiting import until

BEFORE_THE_FENCE = "fence #2 before"
"""The second action is announced, in the audit and in the incident, and its thread stands right before the change."""
IN_A_CHANGE = "y part 1 #1 after"
BETWEEN_TWO_ACTIONS = "incident update acting #1 after"


@pytest.fixture
async def place(tmp_path) -> AsyncIterator[Range]:
    async with firing_range(tmp_path) as made:
        yield made


class Pair:
    """Two processes of one function on one host: the first one sleeps at a boundary."""

    def __init__(self, place: Range, scenario: str) -> None:
        self.place = place
        self.scenario = scenario
        self.host, self.directory = place.new_host(scenario)

    async def sleeping(self, at: str) -> Process:
        await self.place.report(self.host)
        process = await self.place.start(self.host, self.scenario, at=at, signal=int(signal.SIGSTOP))
        await until(process.stopped)
        return process

    async def other(self) -> Process:
        """It waits for the lease to run out, recovers, and comes to an end."""
        process = await self.place.start(self.host, self.scenario)
        await until(lambda: self.place.over(self.host))
        return process

    async def wake(self, process: Process, *others: Process) -> None:
        """Let it go on until it has nothing more to do; stop all of them in order."""
        await process.resume()
        assert await self.place.end_of(process)
        for each in (process, *others):
            assert await each.terminate() == 0, (self.directory / "log").read_text()

    async def records(self, process: Process) -> list[AuditRecord]:
        """What one process wrote."""
        stored = [each async for each in self.place.bus.read(StreamName.AUDIT)]
        segments = [Event[AuditSegment].model_validate_json(each.body).data for each in stored]
        pid = await process.pid()
        return [
            record
            for segment in segments
            if any(
                first.emitter == segment.emitter and first.records[0].data.get("pid") == pid
                for first in segments
                if first.first == 1
            )
            for record in segment.records
        ]

    async def check_that_the_trail_verifies(self) -> None:
        state = self.directory / "state" / "audit"
        trust = local_keys(self.host, Keyring(state / "keys"))
        found = await verify_stream(self.place.bus, trust, state / "heads", lambda done, of: None)
        assert [problem.text for problem in found.problems] == []

    def told(self, state: AlertState) -> bool:
        return any(alert.state is state for alert in self.place.alerts.get(self.host, ()))

    def effects(self) -> list[world.Effect]:
        return world.read(self.directory / "tanks" / "a")


@pytest.fixture
def pair(place, request) -> Pair:
    return Pair(place, request.param)


async def refused(pair: Pair, process: Process) -> bool:
    return any(record.rule == "fenced" for record in await pair.records(process))


@pytest.mark.parametrize("pair", ["reversible"], indirect=True)
async def test_who_slept_right_before_the_change_is_refused_when_another_has_acted(pair):
    first = await pair.sleeping(BEFORE_THE_FENCE)
    second = await pair.other()
    done = pair.effects()
    await pair.wake(first, second)

    assert world.double_effects(done) == 0
    assert pair.effects() == done, "nothing more was done"
    assert world.wholly_done(done) == set(world.NAMES)
    (refusal,) = [record for record in await pair.records(first) if record.rule == "fenced"]
    assert refusal.step is Step.REFUSED
    assert "later token" in refusal.text
    await pair.check_that_the_trail_verifies()


@pytest.mark.parametrize("pair", ["irreversible"], indirect=True)
async def test_who_slept_is_refused_although_the_other_only_called_a_person(pair):
    first = await pair.sleeping(BEFORE_THE_FENCE)
    second = await pair.other()
    assert pair.place.incidents[pair.host].state is IncidentState.STUCK
    done = pair.effects()
    await pair.wake(first, second)

    assert {effect.name for effect in done} == {"x"}
    assert pair.effects() == done, "what a person was called for is not done behind his back"
    assert await refused(pair, first)
    await pair.check_that_the_trail_verifies()


@pytest.mark.parametrize("pair", ["reversible", "irreversible"], indirect=True)
async def test_who_slept_between_two_actions_begins_no_other(pair):
    first = await pair.sleeping(BETWEEN_TWO_ACTIONS)
    second = await pair.other()
    done = pair.effects()
    await pair.wake(first, second)

    assert world.double_effects(done) == 0
    assert pair.effects() == done
    assert world.wholly_done(done) == set(world.NAMES)
    assert [record.position for record in await pair.records(first) if record.step is Step.ACTING] == [0]
    assert await refused(pair, first)
    await pair.check_that_the_trail_verifies()


@pytest.mark.parametrize("pair", ["reversible", "irreversible"], indirect=True)
async def test_who_sleeps_in_the_middle_of_a_change_is_not_overtaken_and_ends_it_when_he_wakes(pair):
    first = await pair.sleeping(IN_A_CHANGE)
    second = await pair.place.start(pair.host, pair.scenario)
    await until(lambda: pair.told(AlertState.REFUSED))
    (said,) = [alert.title for alert in pair.place.alerts[pair.host] if alert.state is AlertState.REFUSED]
    assert "another process has held" in said
    assert [effect.part for effect in pair.effects() if effect.name == "y"] == [1], "he stands in the middle of it"
    await pair.wake(first, second)

    assert world.double_effects(pair.effects()) == 0
    assert world.wholly_done(pair.effects()) == set(world.NAMES)
    assert await refused(pair, first), "nothing more than that"
    assert [record.position for record in await pair.records(first) if record.step is Step.ACTED] == [0, 1]
    assert pair.place.incidents[pair.host].state is IncidentState.CLOSED
    await pair.check_that_the_trail_verifies()


@pytest.mark.parametrize("pair", ["reversible"], indirect=True)
async def test_a_bucket_of_leases_that_was_made_anew_meanwhile_makes_nobody_the_later_one_who_is_not(pair):
    """Its revisions begin again at 1, below those of the one who sleeps."""
    first = await pair.sleeping(BEFORE_THE_FENCE)
    await pair.place.bus._outbox.api("STREAM.DELETE.KV_leases")
    second = await pair.other()
    done = pair.effects()
    await pair.wake(first, second)

    assert world.double_effects(done) == 0
    assert pair.effects() == done
    assert world.wholly_done(done) == set(world.NAMES)
    assert await refused(pair, first)
    await pair.check_that_the_trail_verifies()
