"""The table of functions."""

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from functions import registry
from functions.core import entries
from functions.disk.free_space import REMEDY
from schemas import registry as messages
from schemas.disk import DiskPressure
from tests.functions.custom.entries import entry
from tests.functions.installed import MODULE


def install(monkeypatch, **values: str) -> None:
    """As if a package were installed that brings functions."""
    points = [EntryPoint(name.replace("__", "."), value, entries.GROUP) for name, value in values.items()]
    monkeypatch.setattr(entries, "entry_points", lambda group: EntryPoints(points).select(group=group))


def test_every_name_in_the_table_loads_the_function_of_that_name():
    assert [registry.load(name).name for name in registry.FUNCTIONS] == list(registry.FUNCTIONS)


def test_each_function_listens_to_its_section_and_has_actions_that_can_be_told_apart():
    for name in registry.FUNCTIONS:
        remedy = registry.load(name)
        kinds = [kind.model_fields["action"].default for kind in remedy.actions]
        assert len(set(kinds)) == len(kinds) > 0
        assert all(kind.startswith(f"{remedy.domain}.") for kind in kinds)


@pytest.mark.parametrize("wrong", ["disk.free-space", "disk.freespace", "free_space", "disk.free_spcae"])
def test_an_unknown_name_is_answered_with_the_nearest(wrong):
    with pytest.raises(registry.UnknownFunction, match=r"did you mean disk\.free_space\?"):
        registry.load(wrong)


def test_a_name_near_to_none_is_answered_with_all():
    with pytest.raises(registry.UnknownFunction, match=r"there are: .*disk\.free_space"):
        registry.load("zzz")


def test_functions_of_installed_packages_are_listed_and_loaded(monkeypatch):
    install(monkeypatch, shop__refill="tests.functions.installed:REFILL")
    assert registry.names() == sorted([*registry.FUNCTIONS, "shop.refill"])
    assert registry.load("shop.refill").name == "shop.refill"


def test_an_installed_package_cannot_take_over_a_name_of_ours(monkeypatch):
    install(monkeypatch, disk__free_space="tests.functions.installed:REFILL")
    assert registry.load("disk.free_space") is REMEDY
    assert registry.names() == sorted(registry.FUNCTIONS)


@pytest.mark.parametrize(
    "value", ["no.such.module:X", "tests.functions.installed:MISSING", "tests.functions.installed:NO_REMEDY"]
)
def test_an_installed_function_that_is_none_is_named_in_one_line(monkeypatch, value):
    install(monkeypatch, shop__refill=value)
    with pytest.raises(registry.BadFunction, match=r"function shop\.refill is installed as .*") as caught:
        registry.load("shop.refill")
    assert "\n" not in str(caught.value)


def test_a_function_installed_under_another_name_is_refused(monkeypatch):
    install(monkeypatch, shop__other="tests.functions.installed:REFILL")
    with pytest.raises(registry.BadFunction, match="no Remedy of that name"):
        registry.load("shop.other")


def test_a_real_distribution_is_listed_loaded_and_its_health_events_are_known(install_shop):
    install_shop()

    assert registry.names() == sorted([*registry.FUNCTIONS, "shop.refill"])
    assert registry.load("shop.refill").section_name == "shop_monitoring"
    assert registry.health_model("ansai.health.shop.stock.v1").model_fields.keys() > {"pieces", "target"}
    assert [remedy.name for remedy in registry.installed()] == ["shop.refill"]


def test_without_one_only_our_health_events_are_known():
    ours = [name for name in messages.names() if name.startswith("ansai.health.")]
    assert "ansai.health.disk.pressure.v1" in ours
    assert list(registry.health_models()) == ours
    with pytest.raises(registry.UnknownEvent, match=r"the nearest is ansai\.health\.disk\.pressure\.v1"):
        registry.health_model("ansai.health.disk.presure.v1")


def test_an_installed_package_cannot_take_over_a_health_event_of_ours(install_shop):
    module = MODULE.replace('"shop"\n', '"disk"\n').replace('"stock"', '"pressure"')
    install_shop(module=module)

    assert registry.load("shop.refill").listens[0].type_name() == DiskPressure.type_name()
    assert registry.health_model("ansai.health.disk.pressure.v1") is DiskPressure


def test_the_names_of_custom_actions_are_left_to_the_configuration(install_shop):
    install_shop(name="custom.refill", module=MODULE.replace('"shop.refill"', '"custom.refill"'))

    with pytest.raises(registry.BadFunction, match=r"names that begin with custom\. are for custom_actions"):
        registry.load("custom.refill")


def test_what_the_configuration_declares_is_listed_and_loaded_beside_ours():
    declared = (entry(), entry(name="restart_importer"))

    assert registry.names(declared) == ["custom.clear_exports", "custom.restart_importer", *sorted(registry.FUNCTIONS)]
    assert registry.load("custom.clear_exports", declared).listens == (DiskPressure,)
    assert registry.load("disk.free_space", declared) is REMEDY


def test_a_custom_action_that_was_not_declared_is_answered_with_the_nearest():
    with pytest.raises(registry.UnknownFunction, match=r"did you mean custom\.clear_exports\?"):
        registry.load("custom.clear_export", (entry(),))
    with pytest.raises(registry.UnknownFunction):
        registry.load("custom.clear_exports")


def test_a_custom_action_may_listen_to_what_an_installed_function_hears(install_shop):
    install_shop()
    declared = entry(on="ansai.health.shop.stock.v1", when={"pieces": {"at_most": 3}}, targets=["shelf:*"])

    assert registry.load("custom.clear_exports", (declared,)).listens[0].type_name() == "ansai.health.shop.stock.v1"


def test_importing_a_function_pulls_in_no_client():
    code = (
        "import sys; from functions import registry; [registry.load(name) for name in registry.FUNCTIONS];"
        "print(*{'nats', 'docker', 'psutil', 'isal', 'yaml', 'rich', 'typer', 'infra', 'bus'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == ""
