"""A collector's way onto the bus, or into the spool before it."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from bus import subjects
from bus.port import BusError, Rejected
from collectors.core.outlet import OutletError, Refused, Unreachable
from schemas.envelope import Event
from schemas.health import Health
from schemas.heartbeat import Heartbeat


class Publisher(Protocol):
    """The bus, or a spool before it."""

    async def publish(
        self, subject: str, body: bytes, *, message_id: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None: ...

    async def announce(self, subject: str, body: bytes) -> None: ...


@runtime_checkable
class Spooling(Protocol):
    """A publisher that keeps events while the server is away, and drops the oldest when it is full."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """By subject, what was dropped and not told yet."""
        ...


class BusOutlet:
    """Puts the events of one host's collectors under their subjects; the event's id makes a second copy harmless."""

    def __init__(self, publisher: Publisher, host: str) -> None:
        """Raises BadSubject when *host* can't be a subject's token."""
        subjects.host_token(host)
        self._publisher = publisher
        self._host = host
        self._dropped = 0
        self._pending = self._dropped_and_not_told()

    @property
    def dropped(self) -> int:
        """Events lost since this was made. The spool's own count falls when it has told; this one only rises."""
        pending = self._dropped_and_not_told()
        self._dropped += max(0, pending - self._pending)
        self._pending = pending
        return self._dropped

    async def health(self, event: Event[Any]) -> None:
        health: Health = event.data
        subject = subjects.health(self._host, health.domain, health.signal, health.target)
        try:
            await self._publisher.publish(subject, event.body(), message_id=event.id)
        except Rejected as error:
            raise Refused(str(error)) from error
        except BusError as error:
            raise Unreachable(str(error)) from error

    async def heartbeat(self, event: Event[Heartbeat]) -> None:
        subject = subjects.heartbeat(self._host, subjects.durable(event.data.component))
        try:
            await self._publisher.announce(subject, event.body())
        except BusError as error:
            raise OutletError(str(error)) from error

    def _dropped_and_not_told(self) -> int:
        return sum(self._publisher.dropped.values()) if isinstance(self._publisher, Spooling) else 0
