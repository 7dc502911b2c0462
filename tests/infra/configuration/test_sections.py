"""Installed functions bring sections of their own into the settings file; what can't be one is refused in one line."""

import sys
from dataclasses import replace

import pytest

from functions.disk.free_space import REMEDY
from infra.configuration import ConfigurationError, load, read
from infra.configuration.sections import BadSection, extended
from infra.configuration.text import to_yaml
from schemas.settings.base import Settings
from schemas.settings.root import Configuration
from tests.functions.installed import distribution


class ShopSettings(Settings):
    wanted: int = 10


class Incomplete(Settings):
    wanted: int


def brings(section_name: str, section: type = ShopSettings, name: str = "shop.refill"):
    return replace(REMEDY, name=name, section_name=section_name, section=section)


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """Somebody else's package, really installed."""

    def install(**options) -> None:
        monkeypatch.syspath_prepend(distribution(tmp_path / "site", **options))

    yield install
    sys.modules.pop("ansai_shop", None)


@pytest.fixture
def write(tmp_path):
    def written(text: str) -> str:
        path = tmp_path / "ansai.yaml"
        path.write_text(text)
        return str(path)

    return written


def test_without_installed_functions_the_model_is_ours():
    assert extended([]) is Configuration


def test_a_section_is_added_with_its_defaults():
    root = extended([brings("shop_monitoring")])

    assert issubclass(root, Configuration)
    assert root().shop_monitoring == ShopSettings()  # type: ignore[attr-defined]
    assert root.model_validate({"shop_monitoring": {"wanted": 3}}).shop_monitoring.wanted == 3  # type: ignore[attr-defined]


def test_functions_may_share_a_section_also_one_of_ours():
    assert extended([brings("disk_monitoring", REMEDY.section)]) is Configuration
    shared = extended([brings("shop_monitoring"), brings("shop_monitoring", name="shop.count")])
    assert "shop_monitoring" in shared.model_fields


@pytest.mark.parametrize(
    ("remedies", "words"),
    [
        ([brings("policy")], "shop.refill wants the section policy of ansai.yaml for itself, but it is one of ours"),
        ([brings("disk_monitoring")], "disk_monitoring of ansai.yaml for itself, but it is one of ours"),
        ([brings("custom_actions")], "custom_actions of ansai.yaml for itself, but it is one of ours"),
        (
            [brings("shop"), brings("shop", Incomplete, "shop.count")],
            "shop.count wants the section shop of ansai.yaml for itself, but it is that of shop.refill",
        ),
        ([brings("model_config")], "'model_config' can't be a key of ansai.yaml"),
        ([brings("_shop")], "'_shop' can't be a key"),
        ([brings("two words")], "'two words' can't be a key"),
        ([brings("copy")], "'copy' can't be a key"),
        ([brings("shop", dict)], "'shop' is no model of settings"),
        ([brings("shop", Incomplete)], "'shop' is not complete by its defaults (wanted)"),
    ],
)
def test_what_cannot_be_a_section_is_told_in_one_line(remedies, words):
    with pytest.raises(BadSection) as refused:
        extended(remedies)

    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_really_installed_function_is_configured_like_ours(shop, write):
    shop()
    path = write("shop_monitoring:\n  wanted: 4\npolicy:\n  functions:\n    shop.refill: {mode: auto}\n")

    loaded = read(path, {"ANSAI_SHOP_MONITORING__DIRECTORY": "/srv/shop"})

    assert loaded.configuration.shop_monitoring.wanted == 4  # type: ignore[attr-defined]
    assert str(loaded.configuration.shop_monitoring.directory) == "/srv/shop"  # type: ignore[attr-defined]
    assert loaded.origin(("shop_monitoring", "wanted")) == f"{path}:2"
    assert "  directory: /srv/shop" in to_yaml(loaded)


def test_its_mistakes_are_told_with_line_and_nearest_key(shop, write):
    shop()

    with pytest.raises(ConfigurationError) as refused:
        load(write("shop_monitoring:\n  wantd: 4\npolicy:\n  functions:\n    shop.refil: {mode: auto}\n"), {})

    assert refused.value.problems[0].endswith(
        "ansai.yaml:2: shop_monitoring.wantd: unknown key; the nearest valid key is wanted"
    )


def test_a_policy_for_a_misspelt_installed_function_names_the_nearest(shop, write):
    shop()

    with pytest.raises(ConfigurationError, match=r"policy\.functions\.shop\.refil: .* the nearest is shop\.refill"):
        load(write("policy:\n  functions:\n    shop.refil: {mode: auto}\n"), {})


def test_when_it_is_not_installed_any_more_its_section_is_unknown(write):
    with pytest.raises(ConfigurationError, match="shop_monitoring: unknown key"):
        load(write("shop_monitoring: {}\n"), {})


def test_a_clash_stops_the_start_in_one_line(shop, write):
    shop(section="policy")

    with pytest.raises(ConfigurationError) as refused:
        load(write(""), {})

    (problem,) = refused.value.problems
    assert problem.startswith("function shop.refill wants the section policy of ansai.yaml for itself")


def test_a_package_that_cannot_be_loaded_stops_the_start_in_one_line(shop, write):
    shop(module="import no_such_module\n")

    with pytest.raises(ConfigurationError) as refused:
        load(write(""), {})

    assert str(refused.value) == (
        "function shop.refill is installed as ansai_shop:REMEDY but can't be loaded: No module named 'no_such_module';"
        " mend or uninstall that package"
    )
