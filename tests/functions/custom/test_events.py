"""Conditions about an event are true, false, or unknown."""

import math
import os

import pytest

from functions.custom.events import field_names, matches, values_of
from schemas.disk import DiskPressure
from schemas.settings.custom import Bounds
from tests.functions.custom.entries import TARGET, event

VALUES = {"level": "critical", "percent": 95.5, "mount": "/srv/exports", "total": None, "local": True, "count": 1}


@pytest.mark.parametrize(
    ("conditions", "answer"),
    [
        ({}, True),
        ({"level": "critical"}, True),
        ({"level": "warning"}, False),
        ({"level": ("warning", "critical")}, True),
        ({"mount": "/srv/*"}, True),
        ({"mount": "/SRV/*"}, False),
        ({"mount": ("/home/*", "/srv/exports")}, True),
        ({"percent": Bounds(at_least=95.5)}, True),
        ({"percent": Bounds(at_least=95.6)}, False),
        ({"percent": Bounds(at_most=95.5)}, True),
        ({"percent": Bounds(at_least=90, at_most=95)}, False),
        ({"percent": 95.5}, True),
        ({"percent": "95*"}, False),
        ({"local": True}, True),
        ({"local": 1}, False),
        ({"count": 1}, True),
        ({"count": True}, False),
        ({"total": Bounds(at_least=1)}, None),
        ({"total": "x"}, None),
        ({"nothing": "x"}, None),
        ({"level": Bounds(at_least=1)}, None),
        ({"local": Bounds(at_least=1)}, None),
        ({"level": "critical", "total": 1}, None),
        ({"level": "warning", "total": 1}, False),
    ],
)
def test_all_conditions_must_hold_and_what_is_missing_is_unknown(conditions, answer):
    assert matches(conditions, VALUES) is answer


def test_a_figure_that_is_no_number_is_unknown():
    assert matches({"percent": Bounds(at_least=90)}, {"percent": math.nan}) is None


def test_every_single_value_of_an_event_has_the_name_of_its_field():
    values = values_of(TARGET, event(findings=("a", "b"), mount=os.fsdecode(b"/srv/\xff")))

    assert values["level"] == "critical"
    assert values["percent"] == 95.5
    assert values["mount"] == os.fsdecode(b"/srv/\xff")
    assert values["observed_at"] == "2026-03-01T12:00:00Z"
    assert values["total"] is None
    assert "findings" not in values
    assert (values["target"], values["target_name"]) == (TARGET, "/srv/exports")
    assert values.keys() < set(field_names(DiskPressure))


def test_without_an_event_there_is_the_target_only():
    assert values_of(TARGET, None) == {"target": TARGET, "target_name": "/srv/exports"}
