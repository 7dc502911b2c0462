"""The settings of services: names as people write them, and what holds for one unit."""

import pytest
from pydantic import ValidationError

from schemas.settings.services import PROTECTED_UNITS, ServiceMonitoring


def test_a_name_without_a_suffix_is_a_service():
    settings = ServiceMonitoring(units=("app", "web-*", "*.socket"), services={"db": {"ports": [5432]}})
    assert settings.units == ("app.service", "web-*", "*.socket")
    assert settings.of("db.service").ports == (5432,)


@pytest.mark.parametrize(
    "wrong",
    [
        {"units": ("a b",)},
        {"units": ("/etc/app.service",)},
        {"units": ("",)},
        {"services": {"app": {"ports": [0]}}},
        {"services": {"app": {"ports": [65536]}}},
        {"services": {"app": {"stale_files": ["app.pid"]}}},
        {"services": {"app": {"check": ["nginx", "-t"]}}},
        {"flap_restarts": 0},
    ],
)
def test_what_can_not_be_meant_is_refused(wrong):
    with pytest.raises(ValidationError):
        ServiceMonitoring(**wrong)


@pytest.mark.parametrize(
    "unit",
    ["systemd-logind.service", "dbus.service", "dbus-broker.service", "ssh.service", "sshd.service", "sshd@1.service",
     "nats-server.service", "ansai-edge.service", "docker.service", "user@0.service"],
)  # fmt: skip
def test_without_these_nobody_gets_in_or_we_do_not_work(unit):
    assert ServiceMonitoring().protects(unit)
    assert ServiceMonitoring(protected=("app",)).protects(unit)


def test_protected_units_are_added_to_those_built_in():
    assert not ServiceMonitoring().protects("app.service")
    assert ServiceMonitoring(protected=("app",)).protects("app.service")
    assert len(PROTECTED_UNITS) == len(set(PROTECTED_UNITS))


def test_what_is_ignored_is_not_watched():
    settings = ServiceMonitoring(ignore=("noisy@*",))
    assert settings.watches("app.service")
    assert not settings.watches("noisy@1.service")
    assert not settings.watches("app.socket")


def test_whether_a_unit_may_be_restarted_is_its_own_word_or_that_of_all():
    assert ServiceMonitoring().may_restart("app.service")
    settings = ServiceMonitoring(restart=False, services={"app": {"restart": True}, "a*": {"restart": False}})
    assert settings.may_restart("app.service")
    assert not settings.may_restart("web.service")
