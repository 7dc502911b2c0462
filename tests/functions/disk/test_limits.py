"""How files are cut into actions."""

from hypothesis import given
from hypothesis import strategies as st

from functions.disk.limits import portions
from schemas.facts.files import FileItem

SIZES = st.lists(st.integers(1, 1000), max_size=60)


def items(sizes):
    return [
        FileItem(path=str(number), device=1, inode=number, mtime_ns=0, size=size, allocated=size)
        for number, size in enumerate(sizes)
    ]


def allocated(file):
    return file.allocated


@given(SIZES, st.integers(-10, 20_000), st.integers(1, 20))
def test_cutting_loses_nothing_keeps_the_order_and_the_limit(sizes, need, most):
    files = items(sizes)
    cut = list(portions(files, allocated, need, most))
    assert [file for portion in cut for file in portion] == files
    assert all(0 < len(portion) <= most for portion in cut)


@given(SIZES, st.integers(1, 20_000))
def test_a_cut_lies_exactly_where_the_need_is_met(sizes, need):
    before = 0
    for portion in portions(items(sizes), allocated, need, 10):
        if before < need <= before + sum(file.allocated for file in portion):
            assert before + sum(file.allocated for file in portion[:-1]) < need
        before += sum(file.allocated for file in portion)


@given(SIZES, st.integers(10, 20_000))
def test_up_to_twice_the_need_no_portion_of_several_files_is_more_than_a_tenth_of_it(sizes, need):
    before = 0
    for portion in portions(items(sizes), allocated, need, 5):
        size = sum(file.allocated for file in portion)
        assert before >= 2 * need or len(portion) == 1 or size <= need / 10
        before += size
