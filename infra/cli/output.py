"""What goes to standard output: tables for people, one JSON document for programs."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output instead of a table.")]
"""The option of every command that lists or plans."""


def print_json(document: object) -> None:
    """One document; bytes that are no text are escaped, so that it is ASCII on every terminal."""
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")


def console() -> Console:
    """Standard output; no markup is read in what is printed, since it may come from anywhere."""
    return Console(markup=False, highlight=False, emoji=False, soft_wrap=not sys.stdout.isatty())


def error_console() -> Console:
    """Standard error, for progress and notes."""
    return Console(stderr=True, markup=False, highlight=False, emoji=False)


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> Table:
    """A plain table: cells are text or anything rich can show."""
    shown = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        right = heading.startswith(">")
        shown.add_column(heading.removeprefix(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(cell if not isinstance(cell, str) else Text(cell) for cell in row))
    return shown
