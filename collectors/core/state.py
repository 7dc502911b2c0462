"""What a collector remembers, in one JSON file that is replaced as a whole."""

import contextlib
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from pydantic import AwareDatetime, BaseModel, ConfigDict, SerializeAsAny, TypeAdapter

from collectors.core.collector import Collector, Kept, Memory
from schemas.envelope import new_id
from schemas.health import Level
from schemas.text import plain

logger = logging.getLogger(__name__)

LARGEST = 32 * 2**20
"""Bytes. A larger file was not written by us."""


class TargetState(BaseModel):
    """What is known of one target, and what was told."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    level: Level
    since: AwareDatetime
    told: Level | None = None
    """none until the first event got out"""


@dataclass
class State(Generic[Kept]):
    """The ledger of targets and the collector's own memory."""

    memory: Kept
    targets: dict[str, TargetState] = field(default_factory=dict)


class _File(BaseModel):
    collector: str
    targets: dict[str, TargetState]
    memory: SerializeAsAny[Memory]


class _Written(BaseModel):
    collector: str
    targets: dict[str, TargetState]
    memory: dict[str, Any]


class StateFile(Generic[Kept]):
    """One collector's file below *directory*; None keeps nothing."""

    def __init__(self, collector: Collector[Any, Any, Kept], directory: Path | None) -> None:
        self._collector = collector
        self.name = collector.name
        self._path = directory / f"{collector.name}.json" if directory is not None else None

    def load(self) -> State[Kept]:
        """What was saved; a fresh state when there is none, or, with a warning, when it can't be read."""
        fresh = State(self._collector.memory())
        if self._path is None:
            return fresh
        try:
            return self._parse(_read(self._path))
        except FileNotFoundError:
            return fresh
        except (OSError, ValueError, RecursionError) as error:
            logger.warning(
                "%s can't be used (%s); %s starts without memory: trends and levels begin anew",
                self._path, plain(str(error).splitlines()[0])[:200], self._collector.name,
            )  # fmt: skip
            return fresh

    def save(self, state: State[Kept]) -> None:
        """Replace the file: a reader sees the old or the new content, whole. Raises OSError."""
        if self._path is None:
            return
        content = _File(collector=self._collector.name, targets=state.targets, memory=state.memory)
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _replace(self._path, content.model_dump_json(exclude_defaults=True).encode())

    def _parse(self, body: bytes) -> State[Kept]:
        written = _Written.model_validate_json(body)
        if written.collector != self._collector.name:
            raise ValueError(f"it belongs to {written.collector}")
        memory = TypeAdapter(dict[str, Any]).dump_json(written.memory)  # paths are unescaped only when read as JSON
        return State(self._collector.memory.model_validate_json(memory), dict(written.targets))


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        body = file.read(LARGEST + 1)
    if len(body) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST >> 20} MiB")
    return body


def _replace(path: Path, body: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{new_id()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            os.unlink(temporary)
        raise
