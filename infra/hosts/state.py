"""The ledger and the leases of one function, kept in the bus's key-value buckets."""

import asyncio
import contextlib
import logging
import time
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from bus import subjects
from bus.port import BusError, Conflict, KeyValue
from functions.core.ports import LedgerConflict, NotStored, Remembered
from schemas.incident import Incident, Lease

logger = logging.getLogger(__name__)


class BusLedger:
    """Incidents of one function on one host, with a mirror that a watch keeps up to date."""

    def __init__(self, incidents: KeyValue, host: str, function: str) -> None:
        self._incidents = incidents
        self._host = host
        self._function = function
        self._mirror: dict[str, Incident] = {}
        self._written: dict[str, int] = {}
        """key → the revision that we wrote last: what the watch tells of it is no news"""
        self._watching: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    async def start(self) -> None:
        """Return when the mirror holds everything that is stored now."""
        self._watching = asyncio.create_task(self._watch())
        ready = asyncio.create_task(self._ready.wait())
        await asyncio.wait({self._watching, ready}, return_when=asyncio.FIRST_COMPLETED)
        if self._watching.done():
            ready.cancel()
            self._watching.result()

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError, BusError):
                await self._watching

    async def _watch(self) -> None:
        prefix = subjects.state_prefix(self._host, self._function)
        async for entry in self._incidents.watch(prefix):
            if entry is None:
                self._ready.set()
            elif entry.deleted:
                self._mirror = {target: each for target, each in self._mirror.items() if self._key(target) != entry.key}
            elif entry.revision > self._written.get(entry.key, 0):
                self._reflect(entry.key, entry.value)

    def _reflect(self, key: str, value: bytes) -> None:
        try:
            incident = Incident.model_validate_json(value)
        except ValidationError:
            logger.exception("the incident stored under %s can't be read; its target is left alone", key)
            return
        self._mirror[incident.target] = incident

    def _key(self, target: str) -> str:
        return subjects.state_key(self._host, self._function, target)

    def is_open(self, target: str) -> bool:
        incident = self._mirror.get(target)
        return incident is not None and incident.open

    def open_incidents(self) -> list[Incident]:
        return [incident for incident in self._mirror.values() if incident.open]

    async def load(self, target: str) -> Remembered:
        """Raises NotStored when the bus does not answer or the value can't be read."""
        try:
            entry = await self._incidents.get(self._key(target))
            if entry is None:
                return Remembered(None, 0)
            return Remembered(Incident.model_validate_json(entry.value), entry.revision)
        except BusError as error:
            raise NotStored(f"the incident of {target} can't be read: {error}") from error
        except ValidationError as error:
            raise NotStored(
                f"the incident stored for {target} is damaged ({error.error_count()} errors);"
                f" look at key {self._key(target)} of bucket incidents and delete it"
            ) from error

    async def save(self, incident: Incident, revision: int) -> int:
        key, value = self._key(incident.target), incident.model_dump_json().encode()
        try:
            if revision:
                new = await self._incidents.update(key, value, revision)
            else:
                new = await self._incidents.create(key, value)
        except Conflict as error:
            raise LedgerConflict(f"somebody else wrote the incident of {incident.target} first") from error
        except BusError as error:
            raise NotStored(f"the incident of {incident.target} can't be stored: {error}") from error
        self._mirror[incident.target], self._written[key] = incident, new
        return new


class BusLeases:
    """Leases of one function on one host. The bucket forgets a lease that nobody renews for `ttl`."""

    def __init__(self, leases: KeyValue, host: str, function: str, holder: str, ttl: timedelta) -> None:
        self._leases = leases
        self._host = host
        self._function = function
        self._holder = holder
        self._ttl = ttl.total_seconds()

    async def acquire(self, target: str) -> "BusLease | None":
        key = subjects.state_key(self._host, self._function, target)
        lease = Lease(holder=self._holder, acquired_at=datetime.now(UTC))
        asked = time.monotonic()
        try:
            revision = await self._leases.create(key, lease.model_dump_json().encode())
        except Conflict:
            return None
        except BusError as error:
            raise NotStored(f"no lease on {target}: {error}") from error
        return BusLease(self._leases, key, lease, revision, self._ttl, asked)


class BusLease:
    """Held from `acquire` on. The token is the acquisition revision: an older holder's is always smaller."""

    def __init__(self, leases: KeyValue, key: str, lease: Lease, revision: int, ttl: float, asked: float) -> None:
        self.token = revision
        self._leases = leases
        self._key = key
        self._lease = lease.model_copy(update={"token": revision})
        self._revision = revision
        self._ttl = ttl
        self._until = asked + ttl
        self._taken = False
        self._renewing: asyncio.Task[None] | None = None
        # Most treatments end before a third of the time is over: no task until then.
        self._timer = asyncio.get_running_loop().call_later(ttl / 3, self._begin_renewing)

    @property
    def lost(self) -> bool:
        """Somebody else may hold it by now: it was taken, or not renewed for its whole time."""
        return self._taken or time.monotonic() >= self._until

    def _begin_renewing(self) -> None:
        self._renewing = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        value = self._lease.model_dump_json().encode()
        while not self.lost:
            asked = time.monotonic()
            try:
                self._revision = await self._leases.update(self._key, value, self._revision)
                self._until = asked + self._ttl
            except Conflict:
                self._taken = True
            except BusError as error:
                logger.warning("the lease %s could not be renewed: %s", self._key, error)
            await asyncio.sleep(self._ttl / 3)

    async def release(self) -> None:
        """Hand it back; when that fails it runs out by itself."""
        self._timer.cancel()
        if self._renewing is not None:
            self._renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewing
        if self.lost:
            return
        try:
            await self._leases.delete(self._key, self._revision)
        except BusError as error:
            logger.warning("the lease %s was not handed back and runs out by itself: %s", self._key, error)
