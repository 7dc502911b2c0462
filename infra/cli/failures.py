"""Which errors are told in one line, without a traceback, and with which exit code."""

from typing import NamedTuple

from bus.port import BusError
from functions.core.ports import NotStored, ToolError
from infra.configuration import ConfigurationError
from schemas.probes import ProbeError

FAILED = 1
USAGE = 2
SOMETHING_TO_DO = 2
CONFIGURATION = 78
"""EX_CONFIG of sysexits.h; systemd shows it by name."""


class Failure(Exception):
    """A command can't do what was asked: what was tried, what was seen, what to do next, in one line."""


class Explained(NamedTuple):
    lines: tuple[str, ...]
    code: int


def explain(error: Exception) -> Explained | None:
    """What to print for an expected error; None for one that needs its traceback."""
    if isinstance(error, ConfigurationError):
        return Explained(error.problems, CONFIGURATION)
    if isinstance(error, Failure | BusError | ToolError | NotStored | ProbeError):
        return Explained((" ".join(str(error).split()) or type(error).__name__,), FAILED)
    return None
