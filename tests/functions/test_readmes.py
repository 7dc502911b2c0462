"""Each domain's README says what the code says: headings, subjects, actions, settings."""

from pathlib import Path

import pytest
import yaml

from bus import subjects
from functions import registry
from infra.configuration.file import parse
from schemas.settings.base import Settings
from schemas.settings.root import Configuration

FUNCTIONS = Path(registry.__file__).parent
DOMAINS = sorted(path.name for path in FUNCTIONS.iterdir() if (path / "__init__.py").exists() and path.name != "core")
HEADINGS = ["What it heals", "Listens to", "May change", "Settings", "Needs", "Try it", "Troubleshooting"]


def readme(domain: str) -> dict[str, str]:
    """Heading → what stands below it."""
    parts = (FUNCTIONS / domain / "README.md").read_text().split("\n## ")
    return {heading: text for heading, _, text in (part.partition("\n") for part in parts[1:])}


def example() -> Configuration:
    """The settings file that the README of custom actions shows."""
    text = readme(registry.CUSTOM_DOMAIN)["Try it"].partition("```yaml\n")[2].partition("```")[0]
    return Configuration.model_validate(parse(text, "README.md").values)


def remedies(domain: str):
    """Those of ours; in the domain of custom actions, those of its example."""
    custom = example().custom_actions
    loaded = [registry.load(name, custom) for name in (*registry.FUNCTIONS, *(action.function for action in custom))]
    return [remedy for remedy in loaded if remedy.domain == domain]


def table(text: str) -> dict[str, list[str]]:
    """First cell without its quotes → the other cells; the header and the line below it left out."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    rows = [[cell.strip().replace("\\|", "|") for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in rows}


REQUIRED = "required"
"""Stands in the table where there is no default."""


def leaves(section: type[Settings], prefix: str = ""):
    """Every key of a section with its default and its description."""
    for name, field in section.model_fields.items():
        value = REQUIRED if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(value, Settings):
            yield from leaves(type(value), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, field.description


def value_at(settings: Settings, key: str):
    for name in key.split("."):
        settings = getattr(settings, name)
    return settings


def written(key: str, text: str) -> dict:
    """One key of a settings file with the value that *text* writes."""
    value = yaml.safe_load(text)
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def test_every_domain_has_functions_and_every_function_a_domain_with_a_readme():
    assert {name.partition(".")[0] for name in registry.FUNCTIONS} | {registry.CUSTOM_DOMAIN} == set(DOMAINS)
    assert all((FUNCTIONS / domain / "README.md").exists() for domain in DOMAINS)


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_headings_are_the_same_for_all(domain):
    assert list(readme(domain)) == HEADINGS


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_subjects_are_those_that_its_functions_listen_to(domain):
    expected = set()
    for remedy in remedies(domain):
        expected.add(subjects.trigger("HOST", remedy.name).replace("HOST", "<host>"))
        for health in remedy.listens:
            pattern = subjects.health_pattern("HOST", health.domain, health.signal)
            expected.add(pattern.replace("HOST", "<host>").removesuffix("*") + "<target>")
    lines = [line for line in readme(domain)["Listens to"].splitlines() if line.startswith("- `")]
    assert {line.split("`")[1] for line in lines} == expected


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_actions_are_those_of_its_functions_with_their_risk_and_their_way_back(domain):
    rows = table(readme(domain)["May change"])
    kinds = {kind.model_fields["action"].default: kind for remedy in remedies(domain) for kind in remedy.actions}
    assert {name: row[1:] for name, row in rows.items()} == {
        name: [kind.risk, kind.undo] for name, kind in kinds.items()
    }


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_setting_is_told_with_its_default_and_its_meaning(domain):
    section = remedies(domain)[0].section
    rows = table(readme(domain)["Settings"])
    assert list(rows) == [key for key, _, _ in leaves(section)]
    smallest = {"name": "x", "on": "x", "targets": ["a:b"], "run": ["/x"], "risk": "reversible"}
    needed = {name: smallest[name] for name in smallest if name in section.model_fields}
    for key, default, description in leaves(section):
        text, meaning = rows[key]
        assert meaning == description
        if text != REQUIRED:
            read = section.model_validate(needed | written(key, text.strip("`")) | needed_with(key))
            assert value_at(read, key) == default


def needed_with(key: str) -> dict:
    """A custom action without `run` has a `call`."""
    return {"call": "a:b"} if key == "run" else {}


@pytest.mark.parametrize("domain", DOMAINS)
def test_what_it_needs_is_what_its_functions_say(domain):
    needs = readme(domain)["Needs"]
    for remedy in remedies(domain):
        assert all(f"- {privilege}\n" in needs for privilege in remedy.privileges)
        assert (f"ansai[{','.join(remedy.extras)}]" if remedy.extras else "pip install ansai") in needs
        assert f"`{remedy.section_name}`" in readme(domain)["Settings"]
