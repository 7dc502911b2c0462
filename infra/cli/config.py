"""`ansai config`: check the configuration, show it with its origins, describe it to editors."""

import json
import sys

import typer

from infra.cli.invocation import invocation
from infra.cli.output import AsJson, print_json
from infra.configuration import ConfigurationError
from infra.configuration.custom import doubts
from infra.configuration.sections import BadSection, configuration_type
from infra.configuration.text import to_plain, to_yaml

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Check and show the configuration.")


@app.command(epilog="Example: ansai config check --config /etc/ansai/ansai.yaml")
def check(context: typer.Context, as_json: AsJson = False) -> None:
    """Check the settings file, the ANSAI_… variables and the options; exit with 78 when something is wrong."""
    loaded = invocation(context).loaded
    where = loaded.file or "no settings file; defaults are in force"
    warnings = [f"{doubt.where}: {doubt.what}; {doubt.fix}" for doubt in doubts(loaded.configuration.custom_actions)]
    if as_json:
        print_json({"file": loaded.file, "valid": True, "warnings": warnings})
        return
    for warning in warnings:
        typer.echo(f"ansai: warning: {warning}", err=True)
    typer.echo(f"{where}: valid" if loaded.file else where)


@app.command(epilog="Example: ansai config show > ansai.yaml")
def show(context: typer.Context, as_json: AsJson = False) -> None:
    """Print every value in force, and where it comes from; the output is a valid settings file."""
    loaded = invocation(context).loaded
    if as_json:
        print_json(to_plain(loaded))
    else:
        typer.echo(to_yaml(loaded), nl=False)


@app.command(epilog="Example: ansai config schema > ansai.schema.json")
def schema() -> None:
    """Print the JSON Schema of the settings file, for editors that complete and check while typing."""
    try:
        root = configuration_type()
    except BadSection as error:
        raise ConfigurationError(str(error)) from error
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **root.model_json_schema(mode="validation"),
        "title": "ansai.yaml",
    }
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")
