"""`ansai doctor`."""

from dataclasses import asdict

import typer
from rich.text import Text

from infra.cli.failures import CONFIGURATION, FAILED
from infra.cli.invocation import invocation
from infra.cli.output import AsJson, print_json
from infra.cli.tables import console, table
from infra.configuration import ConfigurationError
from infra.doctor import Check, Health, examine
from schemas.settings.root import Configuration

app = typer.Typer(rich_markup_mode=None)

MARKS = {Health.OK: ("✓", "green"), Health.WARNING: ("!", "yellow"), Health.FAILED: ("✗", "bold red")}


@app.command(epilog="Example: ansai doctor --json")
def doctor(context: typer.Context, as_json: AsJson = False) -> None:
    """Check what this host needs, and name the command that fixes it; exit with 1 when something will not work."""
    asked = invocation(context)
    settings, host, code = Configuration(), asked.host or "", 0
    try:
        settings, host = asked.configuration, asked.host_name
        checks = [Check("configuration", Health.OK, asked.loaded.file or "defaults; no settings file")]
    except ConfigurationError as error:
        checks = [Check("configuration", Health.FAILED, problem, "ansai config check") for problem in error.problems]
        code = CONFIGURATION
    checks += examine(settings, host or "localhost")
    if any(check.health is Health.FAILED for check in checks):
        code = code or FAILED
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        console().print(table(("", "check", "seen", "to mend it"), (_row(check) for check in checks)))
    raise typer.Exit(code)


def _row(check: Check) -> tuple[Text | str, ...]:
    mark, style = MARKS[check.health]
    return Text(mark, style=style), check.name, check.seen, Text(check.fix, style="bold" if check.fix else "")
