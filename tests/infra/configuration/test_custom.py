"""`custom_actions` in the settings file: what is valid, how mistakes are told, and what speaks against it here."""

import os
import textwrap

import pytest

from infra.configuration import ConfigurationError, load, read
from infra.configuration.custom import doubts
from infra.configuration.text import to_yaml
from schemas.remediation import Risk
from schemas.settings.custom import Bounds

WHOLE = """
custom_actions:
  - name: clear_exports
    on: ansai.health.disk.pressure.v1
    targets: ["bytes:/srv/*"]
    when: {level: [critical, emergency], percent: {at_least: 90}}
    run: [/usr/local/bin/clear-exports, "{target}"]
    input: event
    timeout: 60 s
    user: nobody
    directory: /
    risk: reversible
    verify: [/usr/local/bin/check, "{target}"]
    undo: [/usr/local/bin/restore, "{target}"]
"""


@pytest.fixture
def write(tmp_path):
    def written(text: str) -> str:
        path = tmp_path / "ansai.yaml"
        path.write_text(textwrap.dedent(text))
        return str(path)

    return written


@pytest.fixture
def problems(write):
    """What is wrong with one entry whose keys are changed; None takes a key away."""

    def complained(**changes) -> list[str]:
        fields = {
            "name": "x", "on": "ansai.health.disk.pressure.v1", "targets": "['bytes:/srv/*']", "run": "[/bin/true]",
            "risk": "reversible", **changes,
        }  # fmt: skip
        lines = [f"    {name}: {value}\n" for name, value in fields.items() if value is not None]
        path = write("custom_actions:\n  -\n" + "".join(lines))
        with pytest.raises(ConfigurationError) as refused:
            load(path, {})
        return [problem.replace(path, "ansai.yaml") for problem in refused.value.problems]

    return complained


def test_a_whole_entry_is_read(write):
    (action,) = load(write(WHOLE), {}).custom_actions

    assert action.function == "custom.clear_exports"
    assert action.when == {"level": ("critical", "emergency"), "percent": Bounds(at_least=90)}
    assert action.run == ("/usr/local/bin/clear-exports", "{target}")
    assert (action.timeout.total_seconds(), action.risk, action.repeatable) == (60, Risk.REVERSIBLE, False)


def test_what_is_shown_is_a_valid_file_that_means_the_same(write, tmp_path):
    loaded = read(write(WHOLE), {})
    shown = tmp_path / "shown.yaml"
    shown.write_text(to_yaml(loaded))

    assert load(str(shown), {}) == loaded.configuration


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "Clear-Exports"}, "ansai.yaml:3: custom_actions.0.name: "),
        ({"risk": None}, "custom_actions.0.risk: is required"),
        ({"targets": None}, "custom_actions.0.targets: is required"),
        ({"targets": "[]"}, "custom_actions.0.targets: "),
        ({"targets": "['*']"}, "ansai.yaml:5: custom_actions.0.targets.0: '*' is no target; write the kind"),
        ({"targets": "['*:/srv']"}, "'*:/srv' is no target"),
        ({"targets": "[/srv]"}, "'/srv' is no target"),
        ({"run": "[clear, x]"}, "ansai.yaml:6: custom_actions.0.run: the program must be an absolute path, like"),
        ({"run": "[]"}, "custom_actions.0.run: "),
        ({"run": "/bin/rm -rf /srv"}, "custom_actions.0.run: "),
        ({"run": "[/bin/sleep, 5]"}, "custom_actions.0.run.1: must be a valid string; got 5"),
        ({"run": None}, "custom_actions.0: custom action x: give either run or call"),
        ({"call": "a.b:c"}, "custom action x: give either run or call"),
        ({"run": None, "call": "a.b"}, "custom_actions.0.call: 'a.b' names no callable; write package.module:function"),
        ({"run": None, "call": "os; x:y"}, "names no callable"),
        ({"run": None, "call": "a:b", "input": "event"}, "call gets the event anyway; leave input out"),
        ({"timeout": "60"}, "custom_actions.0.timeout: 60 has no unit"),
        ({"timeout": "2 h"}, "custom_actions.0.timeout: "),
        ({"verify_timeout": "1 min"}, "custom_actions.0.verify_timeout: "),
        ({"directory": "srv"}, "custom_actions.0.directory: 'srv' is no absolute path"),
        (
            {"when": "{percent: {at_leas: 90}}"},
            "custom_actions.0.when.percent.at_leas: unknown key; the nearest valid key is at_least",
        ),
        ({"when": "{level: []}"}, "custom_actions.0.when.level: give at least one"),
        ({"when": "{level: null}"}, "custom_actions.0.when.level: "),
        ({"when": "{percent: {at_least: 90, at_most: 80}}"}, "no number is at least 90 and at most 80"),
        ({"when": "{percent: {}}"}, "give at_least, at_most, or both"),
        ({"whn": "{}"}, "ansai.yaml:8: custom_actions.0.whn: unknown key; the nearest valid key is when"),
        (
            {"on": "ansai.health.disk.presure.v1"},
            "ansai.yaml:4: custom_actions.0.on: there is no health event 'ansai.health.disk.presure.v1'; the nearest",
        ),
        (
            {"when": "{percnt: 90}"},
            "custom_actions.0.when.percnt: ansai.health.disk.pressure.v1 has no field percnt; the",
        ),
        ({"run": "[/bin/x, '{mout}']"}, "custom_actions.0.run.1: ansai.health.disk.pressure.v1 has no field mout"),
        ({"run": "[/bin/x, '--at={mount}']"}, "custom_actions.0.run.1: {mount} must be a whole argument"),
    ],
)
def test_a_mistake_is_told_with_line_key_and_what_to_write(problems, changes, words):
    (problem,) = problems(**changes)

    assert problem.startswith("ansai.yaml:")
    assert words in problem


def test_two_entries_of_one_name_are_refused(write):
    twice = WHOLE + WHOLE.partition("custom_actions:\n")[2]

    with pytest.raises(ConfigurationError, match="more than one is called clear_exports"):
        load(write(twice), {})


def test_its_policy_is_known_by_name_and_a_misspelt_one_is_not(write):
    policy = "policy:\n  functions:\n    custom.clear_exports: {mode: auto}\n"
    assert load(write(WHOLE + policy), {}).policy.functions["custom.clear_exports"].mode == "auto"

    with pytest.raises(ConfigurationError, match=r"there is no such function; the nearest is custom\.clear_exports"):
        load(write(WHOLE + policy.replace("exports", "export")), {})


def test_entries_may_come_from_a_variable():
    text = "[{name: x, on: ansai.health.disk.pressure.v1, targets: ['bytes:/srv'], run: [/bin/true], risk: reversible}]"

    (action,) = load(os.devnull, {"ANSAI_CUSTOM_ACTIONS": text}).custom_actions

    assert action.name == "x"


@pytest.fixture
def entry(write):
    def made(**fields):
        lines = "".join(f"    {name}: {value}\n" for name, value in fields.items())
        text = "custom_actions:\n  - name: x\n    on: ansai.health.disk.pressure.v1\n    targets: ['bytes:/srv']\n"
        return load(write(f"{text}    risk: reversible\n{lines}"), {}).custom_actions

    return made


def test_nothing_speaks_against_what_can_be_started(entry):
    assert list(doubts(entry(run="[/bin/true]", verify="[/bin/true]", undo="[/bin/false]"))) == []
    assert list(doubts(entry(call="json:loads"))) == []


def test_each_thing_that_is_missing_here_is_told_once(entry, tmp_path):
    missing = entry(run="[/nowhere/x]", undo="[/nowhere/x]", verify="[/nowhere/check]", user="nobody")

    assert [(doubt.where, doubt.what) for doubt in doubts(missing)] == [
        ("custom_actions x, run", "/nowhere/x is no program that can be run"),
        ("custom_actions x, verify", "/nowhere/check is no program that can be run"),
    ]


def test_a_user_that_only_root_can_become_is_told(entry, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    (doubt,) = doubts(entry(run="[/bin/true]", user="nobody"))

    assert doubt.what == "to run as the user nobody needs root, and this is user 1000"
    assert doubt.fix == "run ansai as root"


def test_a_program_that_anybody_may_change_is_told(entry, tmp_path):
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o777)

    (doubt,) = doubts(entry(run=f"[{tool}]"))

    assert doubt == ("custom_actions x, run", f"{tool} may be changed by anybody", f"chmod o-w {tool}")


def test_a_package_that_is_not_installed_is_told(entry):
    (doubt,) = doubts(entry(call="no_such_package.actions:clear"))

    assert doubt.what == "there is no package no_such_package here"
