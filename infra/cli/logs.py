"""Log lines on standard error: for people, or one JSON object a line for log collectors."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from schemas.settings.root import LogFormat, Logging
from schemas.text import plain

COLOURS = {"WARNING": "33", "ERROR": "31", "CRITICAL": "1;31", "DEBUG": "2"}


class ConsoleLines(logging.Formatter):
    """`12:30:05 warning infra.hosts: text`; control characters in the text are shown, not sent to the terminal."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        level = f"{record.levelname.lower():<7}"
        if self._colour and record.levelname in COLOURS:
            level = f"\033[{COLOURS[record.levelname]}m{level}\033[0m"
        line = f"{moment} {level} {plain(record.getMessage())}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """One object a line: time, level, logger, message, and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": plain(record.getMessage()),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def set_up(settings: Logging) -> None:
    """Send everything from the configured level on to standard error; may be called again."""
    handler = logging.StreamHandler(sys.stderr)
    as_json = settings.format is LogFormat.JSON
    handler.setFormatter(JsonLines() if as_json else ConsoleLines(colour=sys.stderr.isatty()))
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler.formatter, ConsoleLines | JsonLines)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.level.value.upper())
    logging.captureWarnings(capture=True)
