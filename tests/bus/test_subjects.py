"""Subjects and keys: what is published is heard by whom it concerns, fits its stream, and comes apart again."""

import pytest

from bus import subjects
from bus.port import StreamName
from bus.streams import stream_for
from bus.subjects import BadSubject, Subject, matches, parse

HOST, FUNCTION, TARGET = "web-1.example.org", "disk.free_space", "filesystem:/var/lib/my data@x"


@pytest.mark.parametrize(
    ("subject", "stream", "parsed"),
    [
        (
            subjects.checkpoint(HOST, FUNCTION, "e-1"),
            StreamName.CHECKPOINT,
            Subject("checkpoint", "web-1-example-org", "disk", "free_space", "e-1"),
        ),
        (
            subjects.audit(HOST, FUNCTION, "e-1"),
            StreamName.AUDIT,
            Subject("audit", "web-1-example-org", "disk", "free_space", "e-1"),
        ),
        (
            subjects.approval(HOST, FUNCTION, "requested"),
            StreamName.APPROVAL,
            Subject("approval", "web-1-example-org", "disk", "free_space", "requested"),
        ),
        (
            subjects.approval(HOST, FUNCTION, "granted", "anna"),
            StreamName.APPROVAL,
            Subject("approval", "web-1-example-org", "disk", "free_space", "granted.anna"),
        ),
    ],
)
def test_a_subject_belongs_to_its_stream_and_comes_apart_again(subject: str, stream: StreamName, parsed: Subject):
    assert stream_for(subject) is stream
    assert parse(subject) == parsed
    assert parsed.function == FUNCTION


@pytest.mark.parametrize("state", ["granted", "denied"])
@pytest.mark.parametrize("who", [None, "anna"])
def test_a_function_hears_each_answer_once(state: str, who: str | None):
    answer = subjects.approval(HOST, FUNCTION, state, who)
    heard = [pattern for pattern in subjects.answer_patterns(HOST, FUNCTION) if matches(pattern, answer)]
    assert len(heard) == 1


@pytest.mark.parametrize(
    "subject",
    [
        subjects.approval(HOST, FUNCTION, "requested"),
        subjects.approval(HOST, FUNCTION, "requested", "anna"),
        subjects.approval(HOST, "disk.archive_cold_files", "granted", "anna"),
        subjects.approval("web-2", FUNCTION, "granted", "anna"),
        subjects.trigger(HOST, FUNCTION, "anna"),
        subjects.approval(HOST, FUNCTION, "granted", "anna") + ".more",
    ],
)
def test_a_function_hears_no_request_and_nothing_that_is_for_others(subject: str):
    assert not any(matches(pattern, subject) for pattern in subjects.answer_patterns(HOST, FUNCTION))


def test_what_would_be_two_tokens_or_a_pattern_makes_no_subject():
    for bad in ("a.b", "*", ">", "", "a b", "ä", "x" * 64):
        with pytest.raises(BadSubject):
            subjects.approval(HOST, FUNCTION, bad)
        with pytest.raises(BadSubject):
            subjects.checkpoint(HOST, FUNCTION, bad)
        with pytest.raises(BadSubject):
            subjects.group_key("slots", bad, FUNCTION)
        if bad:
            with pytest.raises(BadSubject):
                subjects.approval(HOST, FUNCTION, "granted", bad)
    for bad in ("disk", "disk.*", "disk.free.space", ".x", "x."):
        with pytest.raises(BadSubject):
            subjects.checkpoint(HOST, bad, "e1")
        with pytest.raises(BadSubject):
            subjects.group_key("slots", "web", bad)


HASH = "0123456789abcdef" * 4
KEYS = {
    "plan": subjects.plan_key(HOST, FUNCTION, TARGET, HASH),
    "lease of a target": subjects.state_key(HOST, FUNCTION, TARGET),
    "lease of a scope": subjects.scope_key(HOST, TARGET),
    "member": subjects.group_key("member", "web", FUNCTION, HOST),
    "slots": subjects.group_key("slots", "web", FUNCTION),
    "storm": subjects.group_key("storm", "web", FUNCTION),
    "spent": subjects.spent_key(HOST),
    "signer": subjects.key_of_signer(HOST, HASH),
    "claim": subjects.host_key(HOST),
    "freeze": subjects.FREEZE,
}


def test_every_key_is_one_that_a_bucket_takes_and_no_two_are_the_same():
    assert all(subjects.valid_key(key) for key in KEYS.values()), KEYS
    assert len(set(KEYS.values())) == len(KEYS)


def test_keys_read_as_they_are_documented():
    assert KEYS["member"] == "member.web.disk.free_space.web-1-example-org"
    assert KEYS["slots"] == "slots.web.disk.free_space"
    assert KEYS["spent"] == "spent.web-1-example-org"
    assert KEYS["signer"] == "signer.web-1-example-org.0123456789abcdef"
    assert KEYS["plan"] == f"{KEYS['lease of a target']}.0123456789abcdef"


def test_plans_of_one_function_are_found_by_its_prefix_and_others_are_not():
    prefix = subjects.state_prefix(HOST, FUNCTION)
    assert KEYS["plan"].startswith(prefix)
    assert not subjects.plan_key(HOST, "disk.free_space_soon", TARGET, HASH).startswith(prefix)
    assert not subjects.plan_key("web-1", FUNCTION, TARGET, HASH).startswith(prefix)


def test_a_lease_is_the_same_for_whoever_asks_and_another_for_each_thing():
    assert subjects.scope_key(HOST, TARGET) == subjects.scope_key("web-1-example-org", TARGET)
    assert subjects.scope_key(HOST, TARGET) != subjects.scope_key(HOST, TARGET + "/")
    assert subjects.scope_key(HOST, TARGET) != subjects.scope_key("web-2", TARGET)
    two_plans = {subjects.plan_key(HOST, FUNCTION, TARGET, digest * 64) for digest in "ab"}
    assert len(two_plans) == 2
