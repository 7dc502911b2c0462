"""What the command line was called with, and the configuration that follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from infra.configuration import Loaded
    from schemas.settings.root import Configuration


class LogFormat(StrEnum):
    """The same words as `logging.format`; named here too, because the settings are imported only when needed."""

    CONSOLE = "console"
    JSON = "json"


@dataclass
class Invocation:
    """The options of all commands."""

    config: str | None = None
    bus: str | None = None
    host: str | None = None
    log_format: str | None = None

    @cached_property
    def loaded(self) -> Loaded:
        """The configuration with its origins. Raises ConfigurationError."""
        from infra import configuration

        return configuration.read(self.config, options=self.options)

    @property
    def options(self) -> dict[str, str | None]:
        """What outweighs the settings file."""
        return {"--bus": self.bus, "--host": self.host, "--log-format": self.log_format}

    @property
    def configuration(self) -> Configuration:
        return self.loaded.configuration

    def start(self) -> Configuration:
        """Set logging up as configured, and return the configuration. Raises ConfigurationError."""
        from infra.cli.logs import set_up

        set_up(self.configuration.logging)
        return self.configuration

    @cached_property
    def host_name(self) -> str:
        """The configured name, or the system's."""
        import socket

        return self.configuration.host or socket.gethostname()


def invocation(context: typer.Context) -> Invocation:
    """That of the running command."""
    found = context.find_root().obj
    return found if isinstance(found, Invocation) else Invocation()
