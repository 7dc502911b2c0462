"""The table of functions."""

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from functions import registry
from functions.disk.free_space import REMEDY


def install(monkeypatch, **entries: str) -> None:
    """As if a package were installed that brings functions."""
    points = [EntryPoint(name.replace("__", "."), value, registry.GROUP) for name, value in entries.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: EntryPoints(points).select(group=group))


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
    assert registry.names() == ["disk.free_space", "shop.refill"]
    assert registry.load("shop.refill").name == "shop.refill"


def test_an_installed_package_cannot_take_over_a_name_of_ours(monkeypatch):
    install(monkeypatch, disk__free_space="tests.functions.installed:REFILL")
    assert registry.load("disk.free_space") is REMEDY
    assert registry.names() == ["disk.free_space"]


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


def test_importing_a_function_pulls_in_no_client():
    code = (
        "import sys; from functions import registry; [registry.load(name) for name in registry.FUNCTIONS];"
        "print(*{'nats', 'docker', 'psutil', 'isal', 'yaml', 'rich', 'typer', 'infra', 'bus'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == ""
