"""The canonical form: what it promises to every writer and verifier, of whatever version or language."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.audit import form

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip
documents = st.dictionaries(st.text(), values, max_size=6)


@given(documents)
def test_reading_it_and_writing_it_again_gives_the_same_bytes(document):
    written = form.canonical(document)

    assert form.canonical(json.loads(written)) == written


@given(documents)
def test_the_order_of_keys_and_the_white_space_do_not_matter(document):
    shuffled = json.loads(json.dumps(dict(reversed(document.items())), indent=3))

    assert form.canonical(shuffled) == form.canonical(document)


def test_keys_are_sorted_without_white_space_or_needless_escapes():
    assert form.canonical({"b": [1, 2.5, 1e22], "a": "é\n\u2028"}) == '{"a":"é\\n\u2028","b":[1,2.5,1e+22]}'.encode()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_in_json_has_no_form(number):
    with pytest.raises(ValueError):
        form.canonical({"a": number})


def test_the_hash_of_a_record_covers_the_hash_of_the_one_before():
    record = {"sequence": 2, "previous": "aa", "text": "x"}

    assert form.record_hash(record) != form.record_hash({**record, "previous": "ab"})
    assert form.record_hash(record) == form.digest(b'{"previous":"aa","sequence":2,"text":"x"}')


def test_the_signature_of_a_segment_covers_all_but_its_records_and_itself():
    segment = {"head": "aa", "records": [1], "signature": "bb", "unknown": 1}

    assert form.signed_segment(segment) == form.SEGMENT + b'{"head":"aa","unknown":1}'


def test_both_keys_sign_the_same_of_a_rotation():
    rotation = {"old": "aa", "new": "bb", "at": "now", "signature_by_old": "x", "signature_by_new": "y"}

    assert form.signed_rotation(rotation) == form.ROTATION + b'{"at":"now","new":"bb","old":"aa"}'


def test_no_signature_can_stand_for_another_kind():
    same = {"head": "aa"}
    forms = (form.signed_segment, form.signed_checkpoint, form.signed_manifest, form.signed_rotation)

    assert len({each(same) for each in forms}) == len(forms)
