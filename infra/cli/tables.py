"""What goes to the terminal for people. Nothing printed is read as markup: it may come from anywhere."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def console() -> Console:
    """Standard output. Where it is no terminal, lines are as long as they are."""
    if sys.stdout.isatty():
        return Console(markup=False, highlight=False, emoji=False)
    return Console(markup=False, highlight=False, emoji=False, width=UNFOLDED)


UNFOLDED = 200
"""Columns of output that goes into a file or a pipe."""


def error_console() -> Console:
    """Standard error, for progress and notes."""
    return Console(stderr=True, markup=False, highlight=False, emoji=False)


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> Table:
    """A plain table: cells are text or anything rich can show; a heading with `>` before it is aligned right."""
    shown = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        right = heading.startswith(">")
        shown.add_column(heading.removeprefix(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return shown
