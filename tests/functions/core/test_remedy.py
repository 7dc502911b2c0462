"""Which targets a name stands for, and which ones a function permits."""

from dataclasses import replace

import pytest

from functions.core.remedy import is_glob, match_target
from tests.functions.core.tank import remedy

TARGETS = ["bytes:/var", "inodes:/var", "bytes:/srv"]
GLOBS = ["bytes:/srv/*", "inodes:/srv/*", "bytes:/var", "*:odd"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("bytes:/var", ["bytes:/var"]),
        ("/var", ["bytes:/var", "inodes:/var"]),
        ("/home", []),
        ("bytes:/*", []),
        ("/srv/a", []),
    ],
)
def test_a_target_is_named_in_full_or_by_its_part_after_the_colon(wanted, found):
    assert match_target(wanted, TARGETS) == found


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("bytes:/srv/a", ["bytes:/srv/a"]),
        ("bytes:/srv/a/b", ["bytes:/srv/a/b"]),
        ("/srv/a", ["bytes:/srv/a", "inodes:/srv/a"]),
        ("/var", ["bytes:/var"]),
        ("bytes:/srv/[x]", ["bytes:/srv/[x]"]),
        ("bytes:/srv", []),
        ("BYTES:/srv/a", []),
        ("/home", []),
        ("odd", ["bytes:odd", "inodes:odd"]),
        ("x:odd", ["x:odd"]),
    ],
)
def test_with_globs_the_answer_is_the_name_itself_if_one_permits_it(wanted, found):
    assert match_target(wanted, GLOBS, globs=True) == found


def test_a_function_permits_its_targets_or_what_its_globs_match():
    plain = remedy()
    globbing = replace(plain, target_globs=True)

    assert plain.permits("bytes:/var", TARGETS)
    assert not plain.permits("bytes:/srv/a", GLOBS)
    assert globbing.permits("bytes:/srv/a", GLOBS)
    assert not globbing.permits("bytes:/home", GLOBS)
    assert not globbing.permits("bytes:/home", [])


def test_what_stands_for_many_names_is_known_by_its_characters():
    assert [is_glob(name) for name in ("bytes:/srv", "bytes:/srv/*", "bytes:/srv/a?", "bytes:/srv/[ab]")] == [
        False, True, True, True,
    ]  # fmt: skip
