"""What `ansai audit explain` makes of records."""

from datetime import UTC, datetime, timedelta

from infra.cli.audit_story import stories
from schemas.audit import AuditRecord, Step
from schemas.remediation import (
    ActionResult,
    ActionSummary,
    Estimate,
    Gap,
    ItemResult,
    Mode,
    Outcome,
    PlanSummary,
    Risk,
    RungSummary,
)

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ACTION = ActionSummary(
    action="remove_files", title="Remove 3 old files", risk=Risk.IRREVERSIBLE, undo="none; evidence is kept", items=3,
    estimates=(Estimate(amount=3 * 2**20, unit="bytes", exact=False),),
)  # fmt: skip
GAP = Gap(amount=5 * 2**20, unit="bytes")


def told(*steps: tuple[Step, dict]) -> list[AuditRecord]:
    """Records in this order, a second apart."""
    return [
        AuditRecord(
            **{
                "emitter": "e1", "sequence": number, "at": AT + timedelta(seconds=number), "correlation": "c1",
                "host": "web-1", "function": "disk.free_space", "target": "bytes:/var", "mode": Mode.AUTO, "step": step,
                **fields,
            }
        )
        for number, (step, fields) in enumerate(steps, 1)
    ]  # fmt: skip


def acting(**fields) -> dict:
    return {"action": ACTION, "rung": "old", "position": 0, **fields}


def test_a_change_and_its_result_are_one_sentence_with_the_way_back():
    result = ActionResult(
        outcome=Outcome.PARTIAL, done=2, freed={"bytes": 2.0 * 2**20}, kept={"/a": "/a.gz"},
        not_done=(ItemResult(name="/c", outcome=Outcome.SKIPPED, reason="changed since it was seen"),),
    )  # fmt: skip
    (story,) = stories(
        told(
            (Step.ACTING, acting(items=("/a", "/b", "/c"), data={"items_not_named": 4})),
            (Step.ACTED, acting(outcome=Outcome.PARTIAL, result=result)),
        )
    )

    (sentence,) = story.sentences
    assert sentence.text == "changed: Remove 3 old files: partial, 2 of 3 done, freed 2.0 MiB"
    assert sentence.details == (
        "items: /a, /b, /c and 2 more",
        "way back: none; evidence is kept (irreversible)",
        "/a is kept as /a.gz",
    )
    assert story.not_done == ("/c: skipped — changed since it was seen",)
    assert story.ending == "acted (partial)"


def test_a_change_without_a_result_is_not_told_as_one_that_was_made():
    (story,) = stories(told((Step.ACTING, acting())))

    assert story.sentences[0].text == "began: Remove 3 old files; how it ended is not recorded"
    assert "the trail ends in the middle of a change" in story.ending


def test_the_plan_names_every_action_what_is_expected_and_its_way_back():
    plan = PlanSummary(
        hash="f" * 64, function="disk.free_space", target="bytes:/var", gap=GAP,
        rungs=(RungSummary(rung="old", title="Old files", actions=(ACTION,)),),
    )  # fmt: skip
    (story,) = stories(told((Step.PLANNED, {"plan": plan, "plan_hash": plan.hash, "text": "1 rung"})))

    assert story.sentences[0].text == "planned: 1 rung (plan ffffffffffff)"
    assert story.sentences[0].details == (
        "Old files: Remove 3 old files (3 items, expected ≤ 3.0 MiB; irreversible; way back: none; evidence is kept)",
    )


def test_who_asked_which_policies_and_modes_held_and_how_it_stands():
    (story,) = stories(
        told(
            (Step.RECEIVED, {"who": "anna", "text": "deploy at noon", "policy": "p1"}),
            (Step.OPENED, {"gap": GAP, "text": "/var is 91 % full", "policy": "p1", "incident": "i1"}),
            (Step.GRANTED, {"who": "ben", "text": "ben granted the plan", "policy": "p2"}),
            (Step.HEALED, {"gap": Gap(amount=0, unit="bytes"), "outcome": Outcome.DONE, "policy": "p2", "text": "ok"}),
        )
    )

    assert (story.people, story.policies, story.incidents) == (("anna", "ben"), ("p1", "p2"), ("i1",))
    assert [sentence.text for sentence in story.sentences] == [
        "anna asked: deploy at noon",
        "seen: /var is 91 % full (5.0 MiB over target)",
        "ben granted the plan",
        "healed: ok (at or below target)",
    ]
    assert story.not_done == ()
    assert story.ending == "healed (done)"


def test_each_target_has_its_own_story_and_the_trail_about_itself_has_none():
    records = told(
        (Step.BEGAN, {"target": "", "correlation": ""}),
        (Step.OPENED, {}),
        (Step.OPENED, {"target": "bytes:/srv"}),
        (Step.ENDED, {"target": "", "correlation": ""}),
    )

    assert [story.target for story in stories(records)] == ["bytes:/var", "bytes:/srv"]


def test_every_step_has_words():
    for step in Step:
        for story in stories(told((step, {}))):
            assert story.sentences[0].text
