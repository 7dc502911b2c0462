"""What can be simulated."""

import pytest

from infra.simulate import registry


def test_every_scenario_is_there_with_its_title():
    titles = {name: registry.load(name).title for name in registry.names()}

    assert list(titles) == ["disk-full", "memory-leak", "service-crash"]
    assert all(titles.values())
    assert len(set(titles.values())) == len(titles)


def test_the_nearest_name_is_offered_for_one_that_is_not_there():
    with pytest.raises(registry.UnknownScenario, match="did you mean memory-leak"):
        registry.load("memory_leaks")
