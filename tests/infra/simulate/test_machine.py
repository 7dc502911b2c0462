"""What a systemd of our own needs."""

import pytest

from infra.simulate.machine import obstacle

NAME = "ansai-test-obstacle"


@pytest.mark.needs("root", "unshare", "nsenter", "setpriv", "cgroups", "systemd")
def test_nothing_is_in_the_way_where_a_machine_can_be_started():
    assert obstacle(NAME) == ""


@pytest.mark.needs("root", "unshare", "nsenter", "setpriv", "cgroups", "systemd")
def test_a_controller_that_is_missing_is_named():
    assert "that count nothing_of_the_kind" in obstacle(NAME, ["nothing_of_the_kind"])


@pytest.mark.needs("root", "unshare", "nsenter", "setpriv", "memory limit", "systemd")
def test_where_a_limit_can_be_set_memory_is_counted():
    assert obstacle(NAME, ["memory"]) == ""
