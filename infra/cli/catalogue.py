"""`ansai functions` and `ansai collectors`: what there is."""

from typing import Annotated, Any

import typer

from collectors import registry as collector_registry
from collectors.core.collector import AnyCollector
from functions.core.remedy import AnyRemedy
from infra.cli.chosen import collectors as chosen_collectors
from infra.cli.chosen import function_names
from infra.cli.chosen import functions as chosen_functions
from infra.cli.invocation import invocation
from infra.cli.output import AsJson, print_json
from infra.cli.tables import console, table
from schemas.settings.root import Configuration

functions = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="List the functions and what each may change."
)
collectors = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="List the collectors and what each reads.")

Name = Annotated[str, typer.Argument(help="As listed, like disk.free_space.")]


@functions.command("list", epilog="Example: ansai functions list --json")
def list_functions(context: typer.Context, as_json: AsJson = False) -> None:
    """List every function, its mode in force, and what it listens to."""
    configuration = invocation(context).configuration
    every = chosen_functions(function_names(configuration), configuration, switched_off=True)
    found = [_function(remedy, configuration) for remedy in every]
    if as_json:
        print_json(found)
        return
    rows = [(each["name"], _mode(each), each["scope"], ", ".join(each["listens"]), each["title"]) for each in found]
    console().print(table(("function", "mode", "runs", "listens to", "what it heals"), rows))


@functions.command("show", epilog="Example: ansai functions show disk.free_space")
def show_function(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Show one function: what it listens to, each change it may make and how that is undone, what it needs."""
    configuration = invocation(context).configuration
    (remedy,) = chosen_functions([name], configuration, switched_off=True)
    document = _function(remedy, configuration)
    if as_json:
        print_json(document)
        return
    screen = console()
    rows = [
        ("heals", document["title"]),
        ("mode", _mode(document)),
        ("runs", document["scope"]),
        ("listens to", ", ".join(document["listens"])),
        ("settings", document["section"]),
        ("extras", ", ".join(f"pip install 'ansai[{extra}]'" for extra in document["extras"]) or "none"),
        *(("privileges" if not number else "", text) for number, text in enumerate(document["privileges"])),
    ]
    screen.print(table((name, ""), rows))
    screen.print()
    actions = [(each["action"], each["risk"], each["undo"], each["what"]) for each in document["actions"]]
    screen.print(table(("may change", "risk", "undone by", "what"), actions))


@collectors.command("list", epilog="Example: ansai collectors list --json")
def list_collectors(context: typer.Context, as_json: AsJson = False) -> None:
    """List every collector, how often it looks, and what it publishes."""
    configuration = invocation(context).configuration
    found = [_collector(each, configuration) for each in chosen_collectors(collector_registry.names())]
    if as_json:
        print_json(found)
        return
    rows = [(each["name"], each["every"], each["publishes"], each["title"]) for each in found]
    console().print(table(("collector", "every", "publishes", "what it looks at"), rows))


@collectors.command("show", epilog="Example: ansai collectors show disk.pressure")
def show_collector(context: typer.Context, name: Name, as_json: AsJson = False) -> None:
    """Show one collector: how often it looks, what it publishes, where its settings are."""
    (collector,) = chosen_collectors([name])
    document = _collector(collector, invocation(context).configuration)
    if as_json:
        print_json(document)
    else:
        console().print(table((name, ""), [(key, str(value)) for key, value in document.items() if key != "name"]))


def _function(remedy: AnyRemedy, configuration: Configuration) -> dict[str, Any]:
    policy = configuration.policy.of(remedy.name)
    return {
        "name": remedy.name,
        "title": remedy.title,
        "enabled": policy.enabled,
        "mode": policy.mode.value,
        "scope": remedy.scope.value,
        "listens": [f"{model.domain}.{model.signal}" for model in remedy.listens],
        "section": remedy.section_name,
        "extras": list(remedy.extras),
        "privileges": list(remedy.privileges),
        "actions": [
            {
                "action": action.model_fields["action"].default,
                "risk": action.risk.value,
                "undo": action.undo,
                "what": (action.__doc__ or "").strip().split("\n")[0],
            }
            for action in remedy.actions
        ],
    }


def _mode(document: dict[str, Any]) -> str:
    return str(document["mode"]) if document["enabled"] else "switched off"


def _collector(collector: AnyCollector, configuration: Configuration) -> dict[str, Any]:
    from infra.configuration.text import duration_text

    section = getattr(configuration, collector.section_name)
    return {
        "name": collector.name,
        "title": collector.title,
        "every": duration_text(section.every),
        "steady_every": duration_text(section.steady_every),
        "read_timeout": duration_text(section.read_timeout),
        "publishes": collector.health.type_name(),
        "section": collector.section_name,
    }
