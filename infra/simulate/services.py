"""Services for a scenario, on the systemd that it runs beside, and the scenario's own frame there."""

import asyncio
import logging
import os
import subprocess
from collections.abc import Callable, Coroutine
from pathlib import Path

from rich.console import Console
from rich.text import Text

from functions.core.ports import ToolError
from infra.cli import tables
from infra.configuration import load
from infra.simulate.machine import UNITS
from infra.simulate.show import show_policy
from schemas.settings.root import Configuration

Story = Callable[[Console, Configuration], Coroutine[None, None, str]]
"""Heals something and shows it; returns what of it is not as it should be, "" when all is."""


def write(name: str, *lines: str) -> None:
    """A unit called *name* with the *lines* of its [Service] section. Raises ToolError."""
    text = "\n".join((f"[Unit]\nDescription={name}, of a demonstration\n[Service]", *lines, ""))
    Path(UNITS, name).write_text(text)
    systemctl("daemon-reload")


def quoted(argument: str | Path) -> str:
    """As one argument of ExecStart=; see systemd.service(5)."""
    escaped = str(argument).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def systemctl(*arguments: str) -> str:
    """What it prints. Raises ToolError."""
    done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ToolError(f"systemctl {' '.join(arguments)}: {done.stderr.strip() or f'status {done.returncode}'}")
    return done.stdout.strip()


def active(unit: str) -> str:
    """Its ActiveState. Raises ToolError."""
    return systemctl("show", "--value", "--property=ActiveState", unit)


def perform(directory: Path, policy: str, healed: str, story: Story) -> int:
    """Play *story* with its *policy*, its state in *directory*; the exit status, 0 only when *healed* may be said."""
    console = tables.console()
    logging.basicConfig(level=logging.ERROR)
    os.environ["XDG_STATE_HOME"] = str(directory / "state")
    os.environ["XDG_RUNTIME_DIR"] = str(directory)
    file = directory / "ansai.yaml"
    file.write_text(policy)
    show_policy(console, policy)
    try:
        problem = asyncio.run(story(console, load(str(file), {})))
    except ToolError as error:
        problem = " ".join(str(error).split())
    console.print(Text(f"not healed: {problem}", "bold red") if problem else Text(healed, "bold green"))
    return 1 if problem else 0
