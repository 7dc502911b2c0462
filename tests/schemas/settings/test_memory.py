"""Whose memory is watched, and who may be restarted: what is written holds for what is meant."""

import pytest
from pydantic import ValidationError

from schemas.settings.memory import MemoryMonitoring

APP = "unit:app.service"


@pytest.mark.parametrize("written", ["unit:app", "unit:app.service"])
def test_a_unit_is_known_with_and_without_its_suffix(written):
    settings = MemoryMonitoring(restart=True, services={written: {"restart": False}}, ignore=("unit:other",))
    assert not settings.may_restart(APP)
    assert settings.may_restart("unit:app2.service")
    assert not settings.watches("unit:other.service")


def test_its_own_name_says_more_than_any_glob():
    globs = {"unit:app.servic*": {"restart": True}, "unit:*[a-z].service": {"restart": True}}
    assert not MemoryMonitoring(services={**globs, APP: {"restart": False}}).may_restart(APP)
    assert MemoryMonitoring(services=globs).may_restart(APP)


def test_of_globs_the_longest_gives_all():
    settings = MemoryMonitoring(services={"unit:*": {"restart": True, "high": "1G"}, "unit:app*": {"maximum": "2G"}})
    assert settings.of(APP).high is None
    assert (settings.may_restart(APP), settings.limits(APP)) == (False, True)


def test_what_is_permitted_by_a_glob_is_not_permitted_by_name():
    settings = MemoryMonitoring(services={"unit:*": {"restart": True}, "unit:db": {"restart": True}})
    assert [settings.permits_by_name(f"unit:{name}.service") for name in ("app", "db")] == [False, True]


@pytest.mark.parametrize("glob", ["app.service", "host:memory", "unit:", "unit:a b"])
def test_what_names_no_service_is_refused(glob):
    with pytest.raises(ValidationError, match="is no"):
        MemoryMonitoring(services={glob: {"restart": True}})


def test_what_is_no_expression_is_refused_at_once_and_not_with_every_read():
    with pytest.raises(ValidationError, match="is no regular expression: unterminated"):
        MemoryMonitoring(processes={"worker": {"command": "worker["}})
