from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as some

from functions.disk.candidates import TEMP_EXCLUDE
from functions.disk.logs import NEVER_LOGS, ROTATED_NAMES
from infra.adapters.files.globs import Globs

alphabet = "ab.-*?[]!0\n#"


@given(some.lists(some.text(alphabet, max_size=6), max_size=6), some.text(alphabet, min_size=1, max_size=8))
def test_it_answers_as_fnmatch_does(patterns, name):
    assert Globs(patterns).match(name) == any(fnmatchcase(name, pattern) for pattern in patterns)


ALL = TEMP_EXCLUDE + NEVER_LOGS + ROTATED_NAMES


@given(
    some.sampled_from(ALL).flatmap(
        lambda glob: some.text("ax0.-", max_size=3).map(lambda text: glob.replace("*", text))
    )
)
def test_so_it_does_for_the_globs_in_use(name):
    assert Globs(ALL).match(name) == any(fnmatchcase(name, glob) for glob in ALL)


@pytest.mark.parametrize("name", ["systemd-private-1-x", "a.pid", "ssh-Xy", "mysql-bin.000001", "x-relay-bin.0001"])
def test_names_that_belong_to_somebody_match(name):
    assert Globs(ALL).match(name)
