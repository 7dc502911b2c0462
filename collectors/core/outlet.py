"""Where events go. `infra.hosts` puts the bus behind it; a collector knows no subjects.

OutletError
├── Unreachable   nothing is known to be stored: told again with the next read
└── Refused       understood and refused: telling it again at once would not help
"""

from typing import Any, Protocol

from schemas.envelope import Event
from schemas.heartbeat import Heartbeat


class OutletError(Exception):
    """An event did not get out; the text is for the operator."""


class Unreachable(OutletError):
    """The bus does not answer, and nothing keeps the event for later."""


class Refused(OutletError):
    """The event is too large, not permitted, or has no room."""


class Outlet(Protocol):
    @property
    def dropped(self) -> int:
        """Events lost so far because the spool was full."""
        ...

    async def health(self, event: Event[Any]) -> None:
        """Return when the event is stored, on the bus or in the spool. Raises Unreachable, Refused."""
        ...

    async def heartbeat(self, event: Event[Heartbeat]) -> None:
        """Announce, at most once; never raises for a bus that is away."""
        ...
