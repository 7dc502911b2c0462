"""Each domain's README says what the code says: headings, subjects, actions, settings."""

from pathlib import Path

import pytest
import yaml

from bus import subjects
from functions import registry
from schemas.settings.base import Settings

FUNCTIONS = Path(registry.__file__).parent
DOMAINS = sorted(path.name for path in FUNCTIONS.iterdir() if (path / "__init__.py").exists() and path.name != "core")
HEADINGS = ["What it heals", "Listens to", "May change", "Settings", "Needs", "Try it", "Troubleshooting"]


def readme(domain: str) -> dict[str, str]:
    """Heading → what stands below it."""
    parts = (FUNCTIONS / domain / "README.md").read_text().split("\n## ")
    return {heading: text for heading, _, text in (part.partition("\n") for part in parts[1:])}


def remedies(domain: str):
    loaded = [registry.load(name) for name in registry.FUNCTIONS]
    return [remedy for remedy in loaded if remedy.domain == domain]


def table(text: str) -> dict[str, list[str]]:
    """First cell without its quotes → the other cells; the header and the line below it left out."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    rows = [[cell.strip().replace("\\|", "|") for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in rows}


def leaves(section: Settings, prefix: str = ""):
    """Every key of a section with its default and its description."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Settings):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, field.description


def written(key: str, text: str) -> dict:
    """One key of a settings file with the value that *text* writes."""
    value = yaml.safe_load(text)
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def test_every_domain_has_functions_and_every_function_a_domain_with_a_readme():
    assert {name.partition(".")[0] for name in registry.FUNCTIONS} == set(DOMAINS)
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
    assert list(rows) == [key for key, _, _ in leaves(section())]
    for key, default, description in leaves(section()):
        text, meaning = rows[key]
        read = section.model_validate(written(key, text.strip("`")))
        assert {name: value for name, value, _ in leaves(read)}[key] == default
        assert meaning == description


@pytest.mark.parametrize("domain", DOMAINS)
def test_what_it_needs_is_what_its_functions_say(domain):
    needs = readme(domain)["Needs"]
    for remedy in remedies(domain):
        assert all(f"- {privilege}\n" in needs for privilege in remedy.privileges)
        assert f"ansai[{','.join(remedy.extras)}]" in needs
        assert f"`{remedy.section_name}`" in readme(domain)["Settings"]
