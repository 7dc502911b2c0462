"""A child interpreter that calls one Python function of the operator's: its place and the target are the arguments.

The event's data comes as JSON on standard input. The function gets the target and the event as a dict. What it
returns as text is printed; False, or any exception, is a failure.
"""

import json
import sys
import traceback
from importlib import import_module
from typing import Any


def call(place: str, target: str, event: dict[str, Any]) -> int:
    """The exit status: 0 when it went well."""
    module, _, name = place.partition(":")
    try:
        answer = getattr(import_module(module), name)(target, event)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is told: the traceback, then one line
        traceback.print_exc()
        sys.stderr.write(f"{place}: {type(error).__name__}: {error}\n")
        return 1
    if isinstance(answer, str):
        sys.stdout.write(f"{answer}\n")
    return 1 if answer is False else 0


if __name__ == "__main__":
    sys.exit(call(sys.argv[1], sys.argv[2], json.load(sys.stdin)))
