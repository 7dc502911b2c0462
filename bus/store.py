"""What a stream holds, asked and changed without consuming it: its newest message, how full it is, its limit."""

import base64
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from bus.outbox import ApiRefusal, Outbox
from bus.port import Rejected, Stored, StreamName, Usage
from bus.restore import Restorer
from bus.streams import refuse_limit, refuse_pattern

_NO_MESSAGE = 10037  # nats-server's code for "no message found"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")


class StreamStore:
    """Questions to a stream's leader. Everything here raises Unavailable and Rejected."""

    def __init__(self, outbox: Outbox, restorer: Restorer) -> None:
        self._outbox = outbox
        self._restorer = restorer

    async def last(self, stream: StreamName, subject: str) -> Stored | None:
        """The newest message on *subject*; from the leader, where a direct get may be answered by a lagging replica."""
        refuse_pattern(subject)
        try:
            found = await self._ask("MSG.GET", stream, {"last_by_subj": subject})
        except ApiRefusal as error:
            if error.code == _NO_MESSAGE:
                return None
            raise
        message = found["message"]
        return Stored(
            stream,
            int(message["seq"]),
            message["subject"],
            base64.b64decode(message.get("data", "")),
            _EPOCH + timedelta(microseconds=_nanoseconds(message["time"]) // 1000),
            _headers(base64.b64decode(message.get("hdrs", ""))),
        )

    async def usage(self, stream: StreamName) -> Usage:
        info = await self._ask("INFO", stream)
        state, limit = info["state"], int(info["config"].get("max_bytes", -1))
        return Usage(
            bytes=int(state["bytes"]),
            limit=limit if limit > 0 else None,
            messages=int(state["messages"]),
            first_sequence=int(state["first_seq"]),
            last_sequence=int(state["last_seq"]),
        )

    async def purge(self, stream: StreamName, before: int) -> int:
        """Remove what has a smaller sequence than *before*, and never count sequences onwards."""
        # To the server 0 means everything, and a sequence that does not exist yet becomes the next one.
        before = min(before, (await self.usage(stream)).last_sequence + 1)
        if before <= 1:
            return 0
        return int((await self._ask("PURGE", stream, {"seq": before}))["purged"])

    async def resize(self, stream: StreamName, limit: int) -> None:
        """Set the limit to exactly *limit* bytes. Raises Rejected for less than the stream holds.

        A client whose settings want more widens it again when it connects.
        """
        info = await self._ask("INFO", stream)
        refuse_limit(stream, limit, int(info["state"]["bytes"]))
        if info["config"].get("max_bytes") != limit:
            await self._ask("UPDATE", stream, {**info["config"], "max_bytes": limit})

    async def _ask(self, what: str, stream: StreamName, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        try:
            return await self._outbox.api(f"STREAM.{what}.{stream.value}", body)
        except ApiRefusal as error:
            raise (self._restorer.missing(stream.value) if error.stream_missing else error) from error


def created_at(info: dict[str, Any]) -> int:
    """When a stream was created, in nanoseconds since 1970, from what STREAM.INFO says."""
    return _nanoseconds(info["created"])


def _nanoseconds(text: str) -> int:
    """RFC 3339 with up to nine digits, of which `datetime` keeps six."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise Rejected(f"the server wrote a time that can't be read: {text!r}")
    seconds = int(datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00")).timestamp())
    return seconds * 10**9 + int((match[2] or "").ljust(9, "0"))


def _headers(block: bytes) -> dict[str, str]:
    """`NATS/1.0`, then a line for each header."""
    lines = block.decode(errors="replace").split("\r\n")[1:]
    return {name: value.strip() for name, colon, value in (line.partition(":") for line in lines) if colon}
