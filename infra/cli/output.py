"""What goes to standard output for programs: one JSON document."""

import json
import sys
from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, for programs.")]
"""The option of every command that lists or plans."""


def print_json(document: object) -> None:
    """One document; bytes that are no text are escaped, so that it is ASCII on every terminal."""
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")
