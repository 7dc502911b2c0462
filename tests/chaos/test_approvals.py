"""A plan that waits for a person, over the real bus: exactly it runs, once; a denial, silence, a clock that jumps."""

import asyncio
from datetime import timedelta

import pytest

from bus import subjects
from bus.port import Bucket, StreamName
from schemas.alert import AlertState
from schemas.approval import Approval, ApprovalState
from schemas.audit import Step
from schemas.envelope import Event
from schemas.health import Level
from schemas.incident import IncidentState
from schemas.remediation import Outcome
from tests.chaos.fleet_site import FUNCTION, HOST, TARGET, SetClock, Site, World, draining, open_site
from tests.waiting import until

HOUR = timedelta(hours=1)
ASKING = {"mode": "approve", "default": {"approval_expiry": HOUR, "cooldown": "10 minutes", "max_attempts": 2}}


@pytest.fixture
async def site(tmp_path, monkeypatch):
    monkeypatch.setattr("functions.core.engine.BUSY", timedelta(milliseconds=300))
    async with open_site(tmp_path) as made:
        yield made


@pytest.fixture
def world():
    return World(HOST, {"a": 16}, clock=SetClock(0.001))


async def asked(site: Site, world: World) -> Approval:
    """Start a host, make its tank overflow, and return what it asks for."""
    await site.host(world, draining(), policy=ASKING, ack_wait=timedelta(seconds=2))
    await site.report(at=world.clock.now())
    return (await questions(site, 1))[0]


async def questions(site: Site, count: int) -> list[Approval]:
    async def asked_so_often() -> list[Approval]:
        pattern = subjects.approval(HOST, FUNCTION, "requested")
        found = [Event[Approval].model_validate_json(each.body).data for each in await _stored(site, pattern)]
        return found if len(found) >= count else []

    return await until(asked_so_often)


async def _stored(site: Site, pattern: str):
    return await site.stored(StreamName.APPROVAL, pattern)


async def answer(site: Site, question: Approval, state: ApprovalState, who: str = "anna") -> None:
    """As `ansai approvals grant` and `deny` do."""
    said = Approval(
        host=HOST, function=FUNCTION, target=question.target, hash=question.hash, state=state, who=who,
        reason="looked at every item",
    )  # fmt: skip
    event = Event[Approval](
        source=f"/hosts/{HOST}/operators/{who}", type=Approval.type_name(), subject=said.target, data=said,
    )  # fmt: skip
    await site.bus.publish(subjects.approval(HOST, FUNCTION, state.value, who), event.body(), message_id=event.id)


async def test_nothing_is_done_until_a_person_grants_the_plan_and_then_exactly_it(site, world):
    question = await asked(site, world)
    assert (question.host, question.function, question.target) == (HOST, FUNCTION, TARGET)
    assert question.summary is not None
    assert [action.title for rung in question.summary.rungs for action in rung.actions] == [
        "drain 3 l by a from 16", "drain 3 l by a from 13",
    ]  # fmt: skip
    await until(lambda: site.alerts(AlertState.REQUESTED, saying=f"ansai approvals grant {question.hash[:12]}"))
    assert world.done == []

    await answer(site, question, ApprovalState.GRANTED)
    (healed,) = await until(lambda: site.records(Step.HEALED))

    assert world.done == ["a from 16", "a from 13"]
    (granted,) = await site.records(Step.GRANTED)
    assert granted.who == "anna (unauthenticated)"
    assert "looked at every item" in granted.text
    assert {record.plan_hash for record in (granted, healed)} == {question.hash}
    assert await (await site.bucket(Bucket.PLANS)).keys() == []
    assert (await site.verified()).problems == ()


async def test_two_grants_at_once_at_two_replicas_are_one_run(site, world):
    question = await asked(site, world)
    replica = World(HOST, world.water, world.effects, clock=world.clock)
    await site.host(replica, draining(), policy=ASKING, ack_wait=timedelta(seconds=2))

    await asyncio.gather(*(answer(site, question, ApprovalState.GRANTED, who) for who in ("anna", "ben")))
    await until(lambda: site.records(Step.HEALED))
    await until(lambda: site.records(Step.REFUSED, rule="approval"))

    assert world.done == ["a from 16", "a from 13"]
    assert len(await site.records(Step.PLANNED)) == 1
    acted = {record.who for record in await site.records(Step.ACTING)}
    refused = {record.who for record in await site.records(Step.REFUSED, rule="approval")}
    assert len(acted) == 1
    assert acted.isdisjoint(refused)
    assert (await site.verified()).problems == ()


async def test_a_grant_runs_what_was_shown_although_there_is_more_to_do_by_now(site, world):
    question = await asked(site, world)
    world.water["a"] = 19

    await answer(site, question, ApprovalState.GRANTED)
    await until(lambda: site.records(Step.UNHEALED))

    assert world.done == ["a from 16", "a from 13"]
    assert world.water["a"] == 13
    world.clock.advance(timedelta(minutes=10))
    another = (await questions(site, 2))[1]
    assert another.hash != question.hash
    assert world.done == ["a from 16", "a from 13"]


async def test_a_grant_for_a_target_that_is_healthy_by_now_changes_nothing(site, world):
    question = await asked(site, world)
    world.water["a"] = 9

    await answer(site, question, ApprovalState.GRANTED)
    await until(lambda: site.records(Step.HEALED))

    assert world.done == []


async def test_a_denied_plan_is_not_carried_out_and_not_asked_for_again(site, world):
    question = await asked(site, world)

    await answer(site, question, ApprovalState.DENIED)
    (denied,) = await until(lambda: site.records(Step.DENIED))
    await answer(site, question, ApprovalState.GRANTED, "ben")
    await until(lambda: site.records(Step.REFUSED, rule="approval"))
    world.clock.advance(2 * HOUR)
    await site.report(at=world.clock.now(), level=Level.EMERGENCY)
    await until(site.answered)

    assert denied.who == "anna (unauthenticated)"
    assert denied.outcome is Outcome.REFUSED
    assert world.done == []
    assert len(await questions(site, 1)) == 1
    (incident,) = await site.incidents()
    assert incident.state is IncidentState.STUCK


async def test_silence_is_a_refusal_and_a_grant_that_comes_late_is_none(site, world):
    question = await asked(site, world)

    world.clock.advance(HOUR)
    (refused,) = await until(lambda: site.records(Step.REFUSED, rule="approval"))
    assert refused.plan_hash == question.hash
    await answer(site, question, ApprovalState.GRANTED)
    await until(lambda: _twice_refused(site))
    assert world.done == []

    world.clock.advance(timedelta(minutes=10))
    again = (await questions(site, 2))[1]
    await answer(site, again, ApprovalState.GRANTED)
    await until(lambda: site.records(Step.HEALED))
    assert world.done == ["a from 16", "a from 13"]


async def _twice_refused(site: Site) -> bool:
    return len(await site.records(Step.REFUSED, rule="approval")) == 2


@pytest.mark.parametrize("by", [timedelta(days=1), timedelta(days=-1)], ids=["a-day-on", "a-day-back"])
async def test_a_clock_that_jumps_and_comes_back_takes_no_question_away(site, world, by):
    question = await asked(site, world)

    world.clock.jump(by)
    await site.report(at=world.clock.now())
    await until(lambda: site.alerts(AlertState.REFUSED, saying="refused by clock"))
    world.clock.jump(-by)
    await answer(site, question, ApprovalState.GRANTED)
    await until(lambda: site.records(Step.HEALED))

    assert world.done == ["a from 16", "a from 13"]
    assert len(await questions(site, 1)) == 1
