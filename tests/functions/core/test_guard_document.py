"""docs/guard.md says of each rule what the code does, and its sample is a file that can be used."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from functions.core.rules import ABOUT_PLAN, ABOUT_RISK, AMONG_HOSTS, BEFORE_PLAN, Rule
from functions.core.situation import Authority
from infra.configuration import load
from schemas.remediation import Mode, Risk
from schemas.settings.policy import EffectivePolicy, Policy
from schemas.settings.root import Configuration

PAGE = (Path(__file__).parents[3] / "docs" / "guard.md").read_text()

CAPS = ("risk_modes",)
"""It splits a plan instead of judging it, so it is no `Rule`."""

RULES: dict[str, Rule] = {rule.name: rule for rule in (*BEFORE_PLAN, *ABOUT_PLAN, *ABOUT_RISK, *AMONG_HOSTS)}


def rows() -> dict[str, list[str]]:
    table = [line for line in PAGE.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {name.strip("`"): rest for name, *rest in cells}


ROWS = rows()


def said(cell: str) -> list[str]:
    """What stands between backticks."""
    return cell.split("`")[1::2]


def test_the_table_has_every_rule_in_the_order_in_which_they_are_asked():
    grave = [rule.name for rule in ABOUT_RISK]
    last = [rule.name for rule in AMONG_HOSTS if rule.name not in grave]
    first = [rule.name for rule in (*BEFORE_PLAN, *ABOUT_PLAN)]

    assert list(ROWS) == [*first, "risk_modes", *grave, *last]


@pytest.mark.parametrize("name", RULES)
def test_the_table_says_who_skips_a_rule(name):
    rule = RULES[name]
    words = {"dry run": not rule.always, "live": Authority.LIVE in rule.skipped_by}
    words["grant"] = Authority.APPROVAL in rule.skipped_by

    assert ROWS[name][3] == (", ".join(word for word, skips in words.items() if skips) or "nobody")


def sections(cell: str) -> dict[str, Any]:
    """The defaults of a row, as they would stand under `policy`."""
    under: dict[str, Any] = {"default": {}}
    for text in said(cell):
        for key, value in yaml.safe_load(text).items():
            if key.startswith("policy."):
                under[key.removeprefix("policy.")] = value
            else:
                under["default"][key] = value
    return under


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row[1] != "none"])
def test_to_write_a_default_down_changes_nothing(name):
    written = sections(ROWS[name][1])

    assert Policy.model_validate(written).of("disk.free_space") == EffectivePolicy()


UNRULED = {"max_actions", "settle", "ineffective_share", "ineffective_for"}
"""They say how a plan is carried out, not whether."""


def test_every_value_of_the_policy_stands_in_the_table():
    written: dict[str, Any] = {}
    for row in ROWS.values():
        under = sections(row[1]) if row[1] != "none" else {}
        for key, value in (under.pop("default", {}) | under).items():
            written[key] = written[key] | value if isinstance(value, dict) and key in written else value
    written["clock_tolerance"] = written.pop("future_tolerance")

    assert set(written) == set(EffectivePolicy.model_fields) - UNRULED | {"approval_expiry"}
    for name in ("confirmation", "flapping", "budget", "fleet"):
        assert set(written[name]) == set(type(getattr(EffectivePolicy(), name)).model_fields)


def test_a_changed_default_would_be_noticed():
    assert Policy.model_validate(sections("`max_attempts: 4`")).of("disk.free_space") != EffectivePolicy()


@pytest.fixture
def sample(tmp_path) -> Configuration:
    text = PAGE.partition("```yaml\n")[2].partition("```")[0]
    file = tmp_path / "ansai.yaml"
    file.write_text(text)
    return load(str(file), {})


def test_the_sample_is_a_file_that_can_be_used(sample):
    web, db = (sample.policy.of("disk.free_space", host) for host in ("web-1", "db-1"))

    assert (web.mode, db.mode) == (Mode.AUTO, Mode.APPROVE)
    assert web.mode_for(Risk.IRREVERSIBLE) is Mode.AUTO
    assert (web.budget.per_function, web.budget.per_host, web.budget.irreversible) == (4, 20, 1)
    assert (web.max_attempts, web.cooldown) == (2, timedelta(minutes=20))
    assert [window.name for window in web.maintenance_windows] == ["nightly", "sunday"]
    assert sample.policy.of("other.function").risk_modes == {Risk.IRREVERSIBLE: Mode.APPROVE}
