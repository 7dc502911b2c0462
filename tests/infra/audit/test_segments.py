"""A record in its place: the same bytes as the canonical form of the whole, though its parts were written before."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.core.ports import NotStored
from infra.audit import form
from infra.audit.segments import Chain, document
from schemas.audit import AuditRecord, Step
from schemas.remediation import Gap, Mode, Outcome

CHAIN = Chain("web-1", "disk.free_space", "emitter")
AT = datetime(2026, 11, 30, tzinfo=UTC)
HASH = "ab" * 32

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
paths = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
fields = st.fixed_dictionaries(
    {"step": st.sampled_from(Step), "mode": st.sampled_from(Mode)},
    optional={
        "text": texts, "rung": texts, "seen": texts, "target": texts, "correlation": texts, "plan_hash": texts,
        "outcome": st.sampled_from(Outcome), "position": st.integers(0, 9), "items": st.lists(paths, max_size=3),
        "gap": st.builds(Gap, amount=st.none() | st.floats(0, 1e18), unit=texts),
        "data": st.dictionaries(texts | st.sampled_from(["previous", "sequence"]), texts | st.none(), max_size=3),
    },
)  # fmt: skip


@given(fields, st.integers(1, 2**53))
def test_a_placed_record_is_canonical_and_reads_back_as_what_was_told(told, sequence):
    placed = document(CHAIN, AT, **told).placed(sequence, HASH)

    assert placed == form.canonical(json.loads(placed))
    read = AuditRecord.model_validate_json(placed)
    assert (read.sequence, read.previous) == (sequence, HASH)
    assert read == AuditRecord(
        emitter=CHAIN.emitter, host=CHAIN.host, function=CHAIN.function, at=AT, sequence=sequence, previous=HASH, **told
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "\ud800"])
def test_what_json_can_t_hold_is_not_stored(bad):
    with pytest.raises(NotStored, match=r"can't be written"):
        document(CHAIN, AT, step=Step.ACTED, mode=Mode.AUTO, data={"bad": bad})
