"""`ansai config`: check, show, schema."""

import json

import jsonschema
import yaml


def test_without_a_file_check_says_that_defaults_are_in_force(ansai):
    assert ansai("config", "check").out == "no settings file; defaults are in force\n"


def test_what_show_prints_can_be_used_as_a_file(ansai, tmp_path):
    shown = ansai("config", "show", ANSAI_HOST="web-1").out
    (tmp_path / "ansai.yaml").write_text(shown)

    again = ansai("config", "show").out

    values = [line.split("#")[0].rstrip() for line in shown.splitlines()]
    assert [line.split("#")[0].rstrip() for line in again.splitlines()] == values
    assert "ansai.yaml:1" in again.splitlines()[0]


def test_the_schema_accepts_what_is_valid_and_refuses_what_is_not(ansai):
    schema = json.loads(ansai("config", "schema").out)
    check = jsonschema.Draft202012Validator(schema)
    check.check_schema(schema)

    valid = "disk_monitoring:\n  auto_cleanup:\n    logs_older_than: 30 days\n    journal_size: 100M\n"
    assert check.is_valid(yaml.safe_load(valid))
    assert check.is_valid(yaml.safe_load(ansai("config", "show").out))
    assert not check.is_valid({"disk_monitoring": {"target": "high"}})
    assert not check.is_valid({"bus": {"ulr": "nats://x"}})
