"""Each way of corrupting a trail is found and named; a trail that nobody touched is not."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.audit import form
from infra.audit.findings import Kind, Verification
from infra.audit.keys import Keyring
from infra.audit.trust import ANY, Trust
from schemas.audit import Step
from tests.infra.audit.trails import HOST, Trail, edited, renumbered, resealed


@pytest.fixture
def trail(tmp_path) -> Trail:
    """Two chains side by side, one of which ended and was followed by a third; with checkpoints."""
    return build(tmp_path)


def build(state: Path) -> Trail:
    trail = Trail(state)
    first, other = trail.writer("e1").begin(), trail.writer("x1", function="disk.other").begin()
    first.write(Step.OPENED, (Step.PLANNED, {"text": "zwölf ☃ steps"}), Step.ACTING)
    other.write(Step.OPENED)
    first.checkpoint()
    first.write(Step.ACTED)
    first.write((Step.HEALED, {"seen": "1.5"}), Step.ENDED)
    other.checkpoint()
    other.write(Step.REFUSED, Step.STUCK)
    second = trail.writer("e2").begin(after=first)
    second.write(Step.OPENED, Step.HEALED)
    second.checkpoint()
    other.checkpoint()
    return trail


def first_problem(found: Verification) -> tuple[Kind, str, int | None]:
    problem = found.problems[0]
    return problem.kind, problem.emitter, problem.sequence


def test_an_untouched_trail_is_whole(trail):
    found = trail.verify()

    assert found.problems == ()
    assert found.notes == ()
    assert {(chain.emitter, chain.records, chain.ended) for chain in found.chains} == {
        ("e1", 7, True), ("x1", 4, False), ("e2", 3, False),
    }  # fmt: skip
    assert (found.messages, found.records, found.checkpoints) == (9, 14, 4)
    assert found.keys == ((HOST, trail.keyring.current().fingerprint),)


def test_the_answer_as_a_document_is_json(trail):
    document = json.loads(json.dumps(trail.verify(trail.messages[:-1]).document()))

    assert document["ok"] is False
    assert document["problems"][0]["kind"] == "cut_tail"


# One message.


@pytest.mark.parametrize(
    ("change", "kind", "sequence"),
    [
        (lambda data: data["records"][1].update(text="another"), Kind.ALTERED, 3),
        (lambda data: data["records"][0].update(step="healed"), Kind.ALTERED, 2),
        (lambda data: data["records"][2].update(unknown_field=1), Kind.ALTERED, 4),
        (lambda data: data["records"][1].update(sequence=9), Kind.ALTERED, 3),
        (lambda data: data["records"].reverse(), Kind.ALTERED, 2),
        (lambda data: data.update(head="0" * 64), Kind.ALTERED, 4),
        (lambda data: data.update(signature="0" * 128), Kind.BAD_SIGNATURE, 2),
        (lambda data: data.update(signature=data["signature"].upper()), Kind.BAD_SIGNATURE, 2),
        (lambda data: data.update(boot="boot-2"), Kind.BAD_SIGNATURE, 2),
        (lambda data: data.update(extra=True), Kind.BAD_SIGNATURE, 2),
        (lambda data: data.update(key="0" * 64), Kind.UNKNOWN_KEY, 2),
        (lambda data: data["records"].pop(), Kind.NOT_A_RECORD, None),
        (lambda data: data.update(host="web-2"), Kind.NOT_A_RECORD, None),
        (lambda data: data.update(first=-1, last=1), Kind.NOT_A_RECORD, None),
        (lambda data: data.update(records={}), Kind.NOT_A_RECORD, None),
        (lambda data: data["records"][0].update(amount=10**400), Kind.ALTERED, 2),
    ],
)
def test_a_changed_message_is_found_and_its_first_bad_record_named(trail, change, kind, sequence):
    third = trail.messages[2]
    trail.messages[2] = edited(third, lambda event: change(event["data"]))

    found = trail.verify()

    assert first_problem(found) == (kind, "e1", sequence)
    assert found.problems[0].stream_sequence == 3
    assert [chain.ok for chain in found.chains if chain.emitter != "e1"] == [True, True]


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"\x00\xff", b'{"type": "ansai.audit.v1"}', b'{"type": "ansai.audit.v1", "data": {"a": NaN}}',
        b'{"a": 1, "a": 2}', b"[" * 100_000, b'{"type": "ansai.action.v1", "data": {}}', b"1" * 5_000,
    ],
)  # fmt: skip
def test_what_is_no_record_is_told_and_harms_no_chain(trail, body):
    junk = trail.store("ansai.audit.web-1.disk.free_space.intruder", body)

    (problem,) = trail.verify().problems

    assert (problem.kind, problem.stream_sequence) == (Kind.NOT_A_RECORD, junk.sequence)
    assert all(chain.ok for chain in trail.verify().chains)


def test_a_key_that_is_written_twice_makes_it_no_record(trail):
    twice = trail.messages[2].body.replace(b'"boot":"boot-1"', b'"boot":"x","boot":"boot-1"')
    trail.messages[2] = replace(trail.messages[2], body=twice)

    assert first_problem(trail.verify())[0] is Kind.NOT_A_RECORD


@pytest.mark.parametrize("name", ["source", "time", "correlationid", "type"])
def test_an_envelope_that_says_something_else_than_its_data_is_found(trail, name):
    trail.messages[2] = edited(trail.messages[2], lambda event: event.update({name: "2026-01-01T00:00:00Z"}))

    assert first_problem(trail.verify())[:2] == (Kind.NOT_A_RECORD, "e1")


def test_a_segment_under_the_subject_of_another_chain_is_found(trail):
    trail.messages[2] = replace(trail.messages[2], subject="ansai.audit.web-1.disk.other.x1")

    assert first_problem(trail.verify()) == (Kind.NOT_A_RECORD, "x1", None)


# Several messages.


def test_a_dropped_segment_is_named_by_its_records(trail):
    del trail.messages[2]

    found = trail.verify(renumbered(trail.messages))

    assert first_problem(found) == (Kind.DROPPED, "e1", 2)
    assert found.problems[0].text == "records 2 to 4 are missing"


def test_a_dropped_first_segment_is_a_missing_head(trail):
    del trail.messages[0]

    assert first_problem(trail.verify(renumbered(trail.messages))) == (Kind.HEAD_MISSING, "e1", 1)


def test_a_hole_in_the_numbers_of_the_stream_is_found_where_no_chain_shows_it(trail):
    trail.store("ansai.audit.web-1.disk.free_space.e9", b"removed by somebody")
    trail.writer("e3", function="disk.late").begin()
    del trail.messages[-2]

    (problem,) = trail.verify().problems

    assert (problem.kind, problem.stream_sequence) == (Kind.MISSING_MESSAGE, 10)
    assert trail.verify(whole=False).ok, "an export of one function has holes"


@pytest.mark.parametrize(("one", "two"), [(2, 4), (2, 5), (4, 5), (0, 2), (0, 5), (3, 6)])
def test_swapped_segments_are_told_as_such(trail, one, two):
    swapped = list(trail.messages)
    swapped[one], swapped[two] = swapped[two], swapped[one]

    found = trail.verify(renumbered(swapped))

    assert {problem.kind for problem in found.problems} <= {Kind.OUT_OF_ORDER, Kind.HEAD_MISSING, Kind.FORKED}
    assert found.problems
    if one:
        assert found.problems[0].kind is Kind.OUT_OF_ORDER


def test_lines_that_keep_their_numbers_and_change_places_are_found(trail):
    swapped = list(trail.messages)
    swapped[0], swapped[1] = swapped[1], swapped[0]

    assert trail.verify(swapped).problems[0].kind is Kind.OUT_OF_ORDER


def test_a_duplicated_segment_is_told_from_a_forged_one(trail):
    doubled = renumbered([*trail.messages, trail.messages[2]])

    found = trail.verify(doubled)

    assert [(problem.kind, problem.emitter, problem.sequence) for problem in found.problems] == [
        (Kind.DUPLICATED, "e1", 2)
    ]
    assert found.problems[0].stream_sequence == 10


def test_two_records_with_one_number_are_a_fork(trail):
    (writer,) = [trail.writer("e3", function="disk.late")]
    writer.begin()
    before = writer.position
    writer.write(Step.OPENED)
    writer.position = before
    writer.write(Step.REFUSED)

    assert first_problem(trail.verify()) == (Kind.FORKED, "e3", 2)


def test_a_segment_of_another_branch_is_a_fork(trail):
    writer = trail.writer("e3", function="disk.late").begin()
    begun = writer.position
    writer.write(Step.OPENED)
    kept = writer.position
    writer.position = begun
    writer.write(Step.REFUSED)
    writer.write(Step.STUCK)
    trail.messages.pop(-2)
    assert kept.sequence == 2

    assert first_problem(trail.verify(renumbered(trail.messages))) == (Kind.FORKED, "e3", 3)


# What a chain alone doesn't show.


def test_a_cut_tail_is_known_from_a_checkpoint(trail):
    found = trail.verify(trail.messages[:-1])

    assert first_problem(found) == (Kind.CUT_TAIL, "e2", 2)
    assert "knows record 3" in found.problems[0].text


def test_a_chain_that_is_gone_is_known_from_its_checkpoint(trail):
    left = renumbered([message for message in trail.messages if not message.subject.endswith(".x1")])

    found = trail.verify(left)

    assert first_problem(found) == (Kind.CUT_TAIL, "x1", 1)
    assert "is not there at all" in found.problems[0].text


def test_a_cut_tail_is_known_from_the_chain_that_came_after(trail):
    trail.checkpoints.clear()
    last = next(message for message in reversed(trail.messages) if message.subject.endswith(".e1"))
    trail.messages.remove(last)

    found = trail.verify(renumbered(trail.messages))

    assert first_problem(found) == (Kind.CUT_TAIL, "e1", 6)
    assert "the beginning of the next chain" in found.problems[0].text


def test_a_store_that_was_rolled_back_is_told_from_a_cut_tail(trail):
    found = trail.verify(trail.messages[:3])

    assert {problem.kind for problem in found.problems} == {Kind.ROLLED_BACK}
    assert {problem.emitter for problem in found.problems} == {"e2", "x1"}


def test_a_bus_that_was_rolled_back_as_a_whole_is_known_from_what_the_machine_remembers(tmp_path):
    trail = Trail(tmp_path)
    writer = trail.writer("e1").begin()
    writer.write(Step.OPENED)
    writer.write(Step.HEALED)

    whole, back = trail.verify(anchors=[writer.anchor()]), trail.verify(trail.messages[:2], anchors=[writer.anchor()])

    assert whole.ok
    assert first_problem(back) == (Kind.ROLLED_BACK, "e1", 3)


def test_a_chain_that_was_written_anew_with_the_right_key_differs_from_its_checkpoints(trail):
    signer = trail.keyring.current()
    position, previous = 0, ""
    for number, message in enumerate(trail.messages):
        if message.subject.endswith(".x1"):
            head = previous

            def rewrite(event, head=head):
                event["data"]["previous"] = head
                for record in event["data"]["records"]:
                    record["text"] = "it never happened"

            trail.messages[number] = resealed(message, rewrite, signer)
            previous = json.loads(trail.messages[number].body)["data"]["head"]
            position += 1

    assert position == 3
    assert first_problem(trail.verify()) == (Kind.FORKED, "x1", 2)


def test_a_forged_checkpoint_is_no_evidence_but_a_problem(trail):
    trail.checkpoints[0] = edited(trail.checkpoints[0], lambda event: event["data"].update(sequence=400))

    assert [problem.kind for problem in trail.verify().problems] == [Kind.BAD_CHECKPOINT]


def test_what_is_no_checkpoint_is_told(trail):
    trail.store_checkpoint("ansai.checkpoint.web-1.disk.free_space.e1", b"junk")

    assert [problem.kind for problem in trail.verify().problems] == [Kind.BAD_CHECKPOINT]


def test_a_chain_that_stopped_without_a_word_is_a_note(tmp_path):
    trail = Trail(tmp_path)
    killed = trail.writer("e1").begin()
    killed.write(Step.ACTING)
    trail.writer("e2").begin(after=killed)

    found = trail.verify()

    assert found.ok
    assert "did not stop in order" in found.notes[0]


def test_what_the_writer_itself_reports_is_a_problem(trail):
    trail.writer("e3").begin().write((Step.DISCONTINUITY, {"text": "record 7 of e2 is not in the stream"}))

    assert [(each.kind, each.text) for each in trail.verify().problems] == [
        (Kind.DISCONTINUITY, "record 7 of e2 is not in the stream")
    ]


# Keys.


def test_a_replaced_key_is_found_where_it_signed_first(trail, tmp_path):
    stranger = Keyring(tmp_path / "stranger").current()
    trust = trail.trust
    trail.writer("e3", signer=stranger).begin()

    found = trail.verify(trust=trust)

    assert first_problem(found) == (Kind.UNTRUSTED_KEY, "e3", 1)
    assert stranger.fingerprint in found.problems[0].text


def test_a_whole_trail_that_was_forged_with_another_key_is_found(trail, tmp_path):
    forged = build(tmp_path / "forger")

    found = forged.verify(trust=trail.trust)

    assert {problem.kind for problem in found.problems} == {Kind.UNTRUSTED_KEY}
    assert found.problems[0].stream_sequence == 1


def test_a_key_of_one_host_does_not_sign_for_another(trail):
    trail.writer("y1", host="db-1").begin()

    assert first_problem(trail.verify()) == (Kind.UNTRUSTED_KEY, "y1", 1)


def test_a_key_is_trusted_after_one_that_is_has_signed_for_it(tmp_path):
    trail = Trail(tmp_path)
    trust = trail.trust if trail.keyring.current() else None
    writer = trail.writer("e1").begin()
    for _ in range(2):
        rotation = trail.keyring.rotate()
        writer.write((Step.KEY_CHANGED, {"data": rotation.document()}))
        writer.signer = trail.keyring.current()
        writer.write(Step.OPENED)
    other = trail.writer("e2").begin()
    other.checkpoint()

    assert trail.verify(trust=trust).ok
    named = Trust({ANY: frozenset({rotation.old_fingerprint})})
    assert not trail.verify(trust=named).ok, "a later key doesn't vouch for earlier ones"


def test_a_rotation_that_only_the_new_key_signed_convinces_nobody(trail, tmp_path):
    trust = trail.trust
    thief = Keyring(tmp_path / "thief").current()
    old = trail.keyring.current()
    document = {"old": old.public.hex(), "new": thief.public.hex(), "at": "2026-01-01T00:00:00Z"}
    signed = thief.sign(form.signed_rotation(document)).hex()
    writer = trail.writer("e3", signer=thief).begin()
    writer.write((Step.KEY_CHANGED, {"data": {**document, "signature_by_old": signed, "signature_by_new": signed}}))

    kinds = {problem.kind for problem in trail.verify(trust=trust).problems}

    assert kinds == {Kind.BAD_ROTATION, Kind.UNTRUSTED_KEY}


# Tombstones.


def bury(trail: Trail, before: int) -> None:
    """A tombstone for everything before the message *before*."""
    chains = {}
    for chain in trail.verify(trail.messages[: before - 1]).chains:
        chains[chain.name] = {"sequence": chain.last, "head": chain.head}
    keys = [public.hex() for public in trail.keyring.public_keys().values()]
    data = {"archive": "0" * 64, "before": before, "chains": chains, "keys": keys, "rotations": []}
    writer = trail.writer(f"t{before}", function="operator.archive").begin()
    writer.write((Step.TOMBSTONE, {"data": data}))
    writer.write(Step.ENDED)
    writer.checkpoint()


@pytest.mark.parametrize("before", [2, 4, 6, 8])
def test_a_tombstone_says_where_the_chains_go_on(trail, before):
    bury(trail, before)
    left = [message for message in trail.messages if message.sequence >= before]

    found = trail.verify(left, trust=Trust({HOST: frozenset(trail.keyring.public_keys())}))

    assert found.problems == ()
    assert "tombstone" in found.notes[0]
    assert trail.verify().ok, "before the purge, or joined with the archive, it is whole as well"


def test_more_is_missing_than_the_tombstone_says(trail):
    bury(trail, 4)
    left = [message for message in trail.messages if message.sequence >= 6]

    assert first_problem(trail.verify(left)) == (Kind.DROPPED, "e1", 5)


def test_a_tombstone_without_a_good_signature_excuses_nothing(trail):
    bury(trail, 6)
    at = next(number for number, each in enumerate(trail.messages) if b'"tombstone"' in each.body)
    trail.messages[at] = edited(trail.messages[at], lambda event: event["data"].update(boot="x"))

    kinds = {problem.kind for problem in trail.verify(trail.messages[5:]).problems}

    assert kinds >= {Kind.BAD_SIGNATURE, Kind.HEAD_MISSING}


def test_what_was_archived_and_what_remains_must_be_the_same_chain(trail):
    bury(trail, 6)
    trail.messages[4] = resealed(
        trail.messages[4], lambda event: event["data"]["records"][0].update(text="other"), trail.keyring.current()
    )

    assert Kind.FORKED in {problem.kind for problem in trail.verify().problems}


# Whatever is done to it.


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> Trail:
    return build(tmp_path_factory.mktemp("trail"))


def meaning(body: bytes) -> object:
    """What a message says: its parsed form, without what the envelope adds and nobody relies on."""
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        return body
    keep = {"data", "type", "source", "time", "correlationid"}
    return {name: value for name, value in event.items() if name in keep} if isinstance(event, dict) else body


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_flipped_byte_that_changes_what_a_message_says_is_found(untouched, data):
    position = data.draw(st.integers(0, len(untouched.messages) - 1))
    message = untouched.messages[position]
    at = data.draw(st.integers(0, len(message.body) - 1))
    body = bytearray(message.body)
    body[at] ^= data.draw(st.integers(1, 255))
    changed = [*untouched.messages]
    changed[position] = replace(message, body=bytes(body))

    found = untouched.verify(changed)

    assert found.ok == (meaning(bytes(body)) == meaning(message.body))
    if not found.ok:
        assert found.problems[0].stream_sequence == message.sequence


@pytest.mark.parametrize("keep_numbers", [True, False])
def test_any_drop_and_any_duplication_is_found(untouched, keep_numbers):
    number = list if keep_numbers else renumbered
    for at in range(len(untouched.messages)):
        without = [*untouched.messages[:at], *untouched.messages[at + 1 :]]
        assert not untouched.verify(number(without)).ok, f"without {at}"
        for to in range(len(untouched.messages) + 1):
            doubled = [*untouched.messages[:to], untouched.messages[at], *untouched.messages[to:]]
            assert not untouched.verify(number(doubled)).ok, f"{at} again before {to}"


def test_any_swap_within_a_chain_and_any_swap_of_numbered_lines_is_found(untouched):
    for one, two in itertools.combinations(range(len(untouched.messages)), 2):
        swapped = [*untouched.messages]
        swapped[one], swapped[two] = swapped[two], swapped[one]
        assert not untouched.verify(swapped).ok
        if swapped[one].subject == swapped[two].subject:
            assert not untouched.verify(renumbered(swapped)).ok
