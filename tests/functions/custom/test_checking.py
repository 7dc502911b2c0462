"""An entry is held against the event that it listens to."""

import pytest

from functions.custom.checking import problems
from schemas.disk import DiskPressure
from tests.functions.custom.entries import entry


def test_an_entry_that_fits_has_no_problem():
    fitting = entry(
        verify=["/bin/check", "{mount}"],
        undo=["/bin/undo", "{target_name}", "{}"],
        when={"percent": 3, "total": {"at_most": 1}},
    )

    assert list(problems(fitting, DiskPressure)) == []


@pytest.mark.parametrize(
    ("fields", "key", "words"),
    [
        ({"when": {"percnt": 90}}, ("when", "percnt"), "has no field percnt; the nearest is percent"),
        ({"when": {"mount": {"at_least": 1}}}, ("when", "mount"), "mount is no number"),
        ({"run": ["/bin/x", "-f", "{mout}"]}, ("run", 2), "has no field mout; the nearest is mount"),
        ({"verify": ["/bin/x", "{qqq}"]}, ("verify", 1), "has no field qqq; there are target, level"),
        ({"undo": ["/bin/x", "--at={mount}"]}, ("undo", 1), "{mount} must be a whole argument"),
        ({"run": ["/{mount}/x"]}, ("run", 0), "must be a whole argument"),
    ],
)
def test_each_problem_names_its_key(fields, key, words):
    ((found, what),) = problems(entry(**fields), DiskPressure)

    assert found == key
    assert words in what
