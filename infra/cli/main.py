"""The entry point: which commands there are, and the options that all of them have.

Only typer is imported here. A command's module, and all that it needs, is imported when the command is called.
"""

import sys
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from infra.cli.invocation import Invocation, LogFormat


class Entry(NamedTuple):
    """One command, or a group of them."""

    name: str
    module: str
    """Module of `infra.cli` that holds its `typer.Typer` as `app`, or under the name after a colon."""
    help: str


SECTIONS: dict[str, tuple[Entry, ...]] = {
    "Look": (
        Entry("plan", "plan", "Show what would be done now, rung by rung, with the bytes it would free."),
        Entry("report", "report", "Tell how targets are, where that leads, and what was done about them of late."),
        Entry("watch", "watch", "Follow events as they happen."),
        Entry("audit", "audit", "Read the audit trail."),
        Entry("dlq", "dead_letters", "Read and replay messages that could not be understood."),
        Entry("functions", "catalogue:functions", "List the functions and what each may change."),
        Entry("collectors", "catalogue:collectors", "List the collectors and what each reads."),
    ),
    "Run": (
        Entry("up", "up", "Run everything on this host, in dry-run, with its own bus when none is configured."),
        Entry("run", "run", "Run one or more functions."),
        Entry("collect", "collect", "Run one or more collectors."),
        Entry("trigger", "trigger", "Ask a function to look at its targets now."),
        Entry("approvals", "approvals", "Look at plans that wait for you, and grant or deny them."),
        Entry("freeze", "freeze", "Stop every function from beginning anything, or let them go on."),
        Entry("simulate", "simulate", "Let the real functions heal real faults on small things of their own."),
    ),
    "Set up": (
        Entry("doctor", "doctor", "Check what this host needs, and name the command that fixes it."),
        Entry("config", "config", "Check and show the configuration."),
        Entry("schemas", "schemas", "Generate the JSON Schemas and the AsyncAPI document."),
        Entry("version", "version", "Print the versions of ANSAI and of what it stands on."),
    ),
}

EVERYWHERE = ("--config", "--bus", "--host", "--log-format")
"""Options of all commands: they may stand before the command or behind it."""


FILES = "Settings, by default ./ansai.yaml, then those of the user and of the system."


class LazyCommand(TyperCommand):
    """Stands for a command in the list; replaced by the real one when it is called."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry.name, help=entry.help, short_help=entry.help, rich_markup_mode=None)
        self.entry = entry

    def real(self) -> Any:
        module, _, attribute = self.entry.module.partition(":")
        command = typer.main.get_command(getattr(import_module(f"infra.cli.{module}"), attribute or "app"))
        command.name = self.entry.name
        return command


class LazyGroup(TyperGroup):
    """Imports the module of a command when it is called, and tells expected trouble in one line."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.commands = {entry.name: LazyCommand(entry) for section in SECTIONS.values() for entry in section}

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.real() if isinstance(command, LazyCommand) else command, rest

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, hoist(args))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for title, entries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{entry.name:<10}", entry.help) for entry in entries])

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            from infra.cli.failures import explain

            explained = explain(error)
            if explained is None:
                raise
            for line in explained.lines:
                typer.echo(f"ansai: {line}", err=True)
            raise typer.Exit(explained.code) from None


def hoist(arguments: list[str]) -> list[str]:
    """Move the options of all commands to the front, wherever before `--` they stand. Pure."""
    front: list[str] = []
    rest: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--":
            rest += ["--", *remaining]
        elif argument in EVERYWHERE:
            front += [argument, *(value for value in [next(remaining, None)] if value is not None)]
        elif argument.partition("=")[0] in EVERYWHERE:
            front.append(argument)
        else:
            rest.append(argument)
    return front + rest


app = typer.Typer(
    cls=LazyGroup,
    rich_markup_mode=None,  # the plain help needs no rich, which takes longer to import than typer itself
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start with: ansai plan",
)


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        str | None, typer.Option("--config", metavar="FILE", help=FILES, envvar="ANSAI_CONFIG", show_envvar=True)
    ] = None,
    bus: Annotated[
        str | None, typer.Option("--bus", metavar="URL", help="NATS server, like nats://10.0.0.5:4222.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", metavar="NAME", help="Name of this host in subjects.")] = None,
    log_format: Annotated[
        LogFormat | None, typer.Option("--log-format", help="Of the lines on standard error.")
    ] = None,
) -> None:
    """Self-healing functions over a NATS bus: explained, bounded, verified, and taken back when wrong.

    The options below may also stand behind the command.
    """
    context.obj = Invocation(config, bus, host, log_format)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; ends the process."""
    app(args=sys.argv[1:] if arguments is None else arguments, prog_name="ansai")


if __name__ == "__main__":
    main()
