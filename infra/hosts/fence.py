"""Where a holder that slept through its lease is stopped: the latest token that acted on a resource, in a file."""

import errno
import fcntl
import os
import re
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bus.subjects import target_token
from functions.core.ports import Fenced, Occupied, Token, ToolError
from schemas.settings.bus import runtime_directory

PATIENCE = 2.0
"""Seconds to wait for another process that passes the fence of the same resource: one that is still in the middle of a
change has lost its lease, or it is done at once."""

_PAUSE = 0.002  # seconds between two tries
_LENGTH = 51  # bytes: two figures of 20 digits, a checksum of 8, and what separates them
_CONTENT = re.compile(rb"(\d{20}) (\d{20}) ([0-9a-f]{8})\n")
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class LocalFence:
    """One small file per resource, shared by all processes of a user on this host.

    It needs no care for power failures: whoever slept through its lease does not survive one either.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory or runtime_directory() / "fences"

    def admit(self, tokens: Mapping[str, Token]) -> None:
        """See `functions.core.ports.Fence`. All resources are checked before the first one is noted."""
        with self.passing(tokens):
            pass

    @contextmanager
    def passing(self, tokens: Mapping[str, Token], *, wait: bool = True) -> Iterator[None]:
        """See `functions.core.ports.Fence`. The locks end with the process that holds them, however it ends."""
        with ExitStack() as stack:
            names = sorted((target_token(resource), resource) for resource in tokens)  # so that none wait for another
            files = {resource: stack.enter_context(self._locked(name, wait=wait)) for name, resource in names}
            newer = []
            for name, resource in names:
                stored, token = self._read(files[resource], name), tokens[resource]
                if stored is not None and stored > token:
                    raise Fenced(
                        f"fenced: somebody acted on {resource} with the later token {stored.epoch}/{stored.revision};"
                        f" ours is {token.epoch}/{token.revision}, of a lease that was lost"
                    )
                if stored != token:
                    newer.append((name, resource))
            for name, resource in newer:
                self._write(files[resource], name, tokens[resource])
            yield

    @contextmanager
    def _locked(self, name: str, *, wait: bool) -> Iterator[int]:
        file = self._opened(name)
        try:
            self._lock(file, name, wait=wait)
            yield file
        finally:
            os.close(file)

    def _opened(self, name: str) -> int:
        """Anything but a regular file fails here, or when it is read: as few calls as can be, for each change waits."""
        path = self._directory / name
        try:
            try:
                return os.open(path, _OPEN, 0o600)
            except FileNotFoundError:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                return os.open(path, _OPEN, 0o600)
        except (NotADirectoryError, PermissionError, FileExistsError) as error:
            raise ToolError(
                f"nothing is changed without a fence: open {path}: {error.strerror};"
                f" {self._directory} must be a directory that this user may write to"
            ) from error
        except OSError as error:
            raise self._unusable(name, f"open: {error.strerror}") from error

    def _lock(self, file: int, name: str, *, wait: bool) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if not wait:
                    raise Occupied(name) from None
                if time.monotonic() >= deadline:
                    path = self._directory / name
                    raise ToolError(
                        f"nothing is changed without a fence: another process has held {path} for {PATIENCE:g} s;"
                        f" see who, and end or wake it: fuser -v {path}"
                    ) from None
                time.sleep(_PAUSE)
            except OSError as error:
                raise self._unusable(name, f"lock: {error.strerror}") from error

    def _read(self, file: int, name: str) -> Token | None:
        """The token in the file; None when nobody has written one yet."""
        try:
            content = os.pread(file, _LENGTH + 1, 0)
        except OSError as error:
            seen = "it is no regular file" if error.errno == errno.ESPIPE else f"read: {error.strerror}"
            raise self._unusable(name, seen) from error
        if not content:
            return None
        match = _CONTENT.fullmatch(content)
        if match is None or int(match[3], 16) != zlib.crc32(content[:41]):
            raise self._unusable(name, "its content is damaged")
        return Token(int(match[1]), int(match[2]))

    def _write(self, file: int, name: str, token: Token) -> None:
        figures = b"%020d %020d" % token
        content = b"%s %08x\n" % (figures, zlib.crc32(figures))
        try:
            if os.pwrite(file, content, 0) != len(content):
                raise self._unusable(name, "it was written in part only")
        except OSError as error:
            raise self._unusable(name, f"write: {error.strerror}") from error

    def _unusable(self, name: str, seen: str) -> ToolError:
        path = self._directory / name
        return ToolError(
            f"nothing is changed without a fence: {path}: {seen};"
            f" when no function of this host is at work, remove it: rm {path}"
        )
