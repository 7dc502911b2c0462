"""The bus as the rest of the pack sees it; `bus.memory` and `bus.jetstream` implement it.

BusError
├── Unavailable      not reachable within the deadline: try later, nothing is known to be stored
├── Rejected         understood and refused: too large, no permission, stream full, incompatible
│   └── TooLarge     larger than the server takes
└── Conflict         a key has another revision than the one expected
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

logger = logging.getLogger(__name__)


class BusError(Exception):
    """Something went wrong between us and the bus; the text is for the operator."""


class Unavailable(BusError):
    """Not reachable within the deadline. Whether the message was stored is not known."""


class Rejected(BusError):
    """The bus understood and refused: too large, not permitted, stream full, incompatible stream."""


class TooLarge(Rejected):
    """The message is larger than the server takes."""


class Conflict(BusError):
    """The key's revision is not the one that was expected: somebody else wrote first."""


class StreamName(StrEnum):
    HEALTH = "HEALTH"
    TRIGGER = "TRIGGER"
    ACTION = "ACTION"
    AUDIT = "AUDIT"
    ALERT = "ALERT"
    APPROVAL = "APPROVAL"
    CHECKPOINT = "CHECKPOINT"
    DLQ = "DLQ"


class Bucket(StrEnum):
    INCIDENTS = "incidents"
    LEASES = "leases"
    PLANS = "plans"
    FLEET = "fleet"


class Message(Protocol):
    """One message that was delivered. Exactly one of the four answers ends it."""

    @property
    def subject(self) -> str: ...
    @property
    def body(self) -> bytes: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def stored_at(self) -> datetime:
        """When the bus stored it, in UTC: the time of a message without an envelope."""
        ...

    @property
    def sequence(self) -> int: ...
    @property
    def deliveries(self) -> int:
        """1 for the first delivery."""
        ...

    async def ack(self) -> None: ...
    async def nak(self, delay: timedelta | None = None) -> None: ...
    async def term(self) -> None:
        """Never deliver again."""
        ...

    async def in_progress(self) -> None:
        """Still being worked on: the acknowledgement wait begins anew."""
        ...


Handler = Callable[[Message], Awaitable[None]]


@dataclass(frozen=True)
class Subscription:
    """A durable consumer: what is wanted, and under which name its position is kept."""

    stream: StreamName
    durable: str
    subjects: Sequence[str]
    window: int = 64
    """Messages being handled at once; the next ones wait on the server."""
    ack_wait: timedelta = timedelta(seconds=30)
    settles: Callable[[Message], bool] | None = None
    """A cheap look before a message takes a place in the window: True acknowledges it, and nothing more is done."""
    replay: bool = True
    """Deliver what is stored already (True), or only what comes from now on."""

    def settled(self, message: Message) -> bool:
        """Take the cheap look; one that fails settles nothing, and the handler gets the message."""
        if self.settles is None:
            return False
        try:
            return self.settles(message)
        except Exception:
            logger.exception("%s: the first look at %s failed", self.durable, message.subject)
            return False


class Consumption(Protocol):
    """A running consumer."""

    async def stop(self) -> None:
        """Take no more, wait for the handlers that run, return."""
        ...


@dataclass(frozen=True)
class Entry:
    """A value of a bucket. `deleted` is only seen while watching."""

    key: str
    value: bytes
    revision: int
    deleted: bool = False


class KeyValue(Protocol):
    """One bucket. Keys are dotted tokens built by `bus.subjects`.

    One that vanished is made again, empty: whoever misses it gets Rejected, the next one goes on. All may raise
    Unavailable.
    """

    @property
    def epoch(self) -> int:
        """When the bucket was created, in nanoseconds since 1970: revisions of a recreated bucket begin again at 1.

        Right again with the next `create` after it was recreated. Raises Rejected for a role that may not ask.
        """
        ...

    async def get(self, key: str) -> Entry | None: ...
    async def create(self, key: str, value: bytes) -> int:
        """Store a key that does not exist; return its revision. Raises Conflict when it does."""
        ...

    async def update(self, key: str, value: bytes, revision: int) -> int:
        """Replace the value whose revision is *revision*; return the new one. Raises Conflict."""
        ...

    async def delete(self, key: str, revision: int | None = None) -> None:
        """Remove the key, if given only at that revision. Raises Conflict."""
        ...

    async def keys(self, prefix: str = "") -> list[str]: ...
    def watch(self, prefix: str = "") -> AsyncIterator[Entry | None]:
        """Every present entry, then None once, then every change as it comes.

        Of a bucket that was recreated, the old keys are seen deleted, at revision 0, before the new ones.
        """
        ...


@dataclass(frozen=True)
class Stored:
    """A message read back from a stream without consuming it."""

    stream: StreamName
    sequence: int
    subject: str
    body: bytes
    stored_at: datetime
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Usage:
    """How full a stream is."""

    bytes: int
    limit: int | None
    """bytes; None for a stream without one"""
    messages: int
    first_sequence: int
    last_sequence: int

    @property
    def share(self) -> float:
        """Of its limit; 0 without one."""
        return self.bytes / self.limit if self.limit else 0.0


class Listening(Protocol):
    """An asynchronous iterator over subject and body of each message, from the moment `listen` was called."""

    def __aiter__(self) -> AsyncIterator[tuple[str, bytes]]: ...
    async def __anext__(self) -> tuple[str, bytes]: ...
    async def ready(self) -> None:
        """Return when the server sends us what others publish. Raises Unavailable, Rejected."""
        ...

    async def aclose(self) -> None:
        """Stop listening; done by itself when nobody holds the iterator any more."""
        ...


class Bus(Protocol):
    @property
    def connected(self) -> bool:
        """Whether the server was there a moment ago; what is published meanwhile waits for it until the deadline."""
        ...

    async def publish(
        self, subject: str, body: bytes, *, message_id: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """Return when the message is stored.

        With a *message_id* it is sent again until the publishing deadline, and stored once. Without one it is sent
        once: an answer that never comes is not taken for a failure, since a second copy could be stored.

        Raises Unavailable after the publishing deadline, Rejected when it is too large, not permitted or the
        stream is full, Conflict when *headers* expect another last sequence of the subject.
        """
        ...

    async def publish_soon(
        self, subject: str, body: bytes, *, message_id: str | None = None, headers: Mapping[str, str] | None = None
    ) -> Awaitable[None]:
        """Send now, bounded by a window; the awaitable ends when it is stored, and raises as `publish` does."""
        ...

    async def append(self, subject: str, body: bytes, *, expected_last: int) -> int:
        """Store *body* behind the subject's last message, which has the stream sequence *expected_last* (0: none).

        Returns its own stream sequence. Sent once: when no answer comes it is not known whether it is stored.
        Raises Conflict when the last message is another one, Rejected when it is too large, not permitted or the
        stream is full, Unavailable.
        """
        ...

    async def last(self, subject: str) -> "Stored | None":
        """The newest message on exactly this subject, from the stream's leader. Raises Unavailable, Rejected."""
        ...

    async def usage(self, stream: StreamName) -> Usage: ...
    async def purge(self, stream: StreamName, before: int) -> int:
        """Remove what has a smaller sequence than *before*; return how many. For administrators."""
        ...

    async def resize(self, stream: StreamName, limit: int) -> None:
        """Let the stream hold *limit* bytes. For administrators. Raises Rejected when it holds more.

        A client whose settings want more widens it again when it connects.
        """
        ...

    async def announce(self, subject: str, body: bytes) -> None:
        """Publish at most once, stored nowhere: heartbeats. Does nothing while disconnected."""
        ...

    def listen(self, pattern: str) -> Listening:
        """What is announced or published on *pattern* from now on, stored or not."""
        ...

    async def consume(self, subscription: Subscription, handler: Handler) -> Consumption: ...
    async def bucket(self, name: Bucket) -> KeyValue: ...
    def read(self, stream: StreamName, pattern: str = "", since: datetime | None = None) -> AsyncIterator[Stored]:
        """What the stream holds now, oldest first, then end."""
        ...

    async def close(self) -> None:
        """Flush what is published, leave."""
        ...
