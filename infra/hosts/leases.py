"""Leases on what may be changed, kept in the bucket `leases`, which forgets one that nobody renews for its TTL."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from bus import subjects
from bus.port import BusError, Conflict, KeyValue
from functions.core.ports import NotStored, Token
from schemas.envelope import new_id
from schemas.incident import Lease

logger = logging.getLogger(__name__)


class BusLeases:
    """The leases that one process takes on a host's resources.

    A lease names the instance that took it, so two functions of one process exclude each other like two processes.
    """

    def __init__(self, leases: KeyValue, host: str, holder: str, ttl: timedelta) -> None:
        self._leases = leases
        self._host = host
        self._holder = f"{holder}/{new_id()}"
        self._ttl = ttl.total_seconds()
        self._held: set[str] = set()
        """keys that are ours, or that we are about to take: what we find there is not taken over"""

    async def acquire(self, resources: Sequence[str]) -> "BusHeld | None":
        """See `functions.core.ports.Leases`. A lease of ours whose answer was lost is taken over, not waited for."""
        keys = {subjects.scope_key(self._host, resource): resource for resource in resources}
        if not self._held.isdisjoint(keys):
            return None
        self._held.update(keys)
        try:
            taken = await self._take_all(sorted(keys))
        except BusError as error:
            self._held.difference_update(keys)
            raise NotStored(f"no lease on {', '.join(resources)}: {error}") from error
        except BaseException:
            self._held.difference_update(keys)
            raise
        if taken is None:
            self._held.difference_update(keys)
            return None
        return BusHeld(taken, keys, self._ttl, self._held)

    async def _take_all(self, keys: Sequence[str]) -> "list[_Lease] | None":
        """One after the other; when one can't be had, those before it are handed back."""
        taken: list[_Lease] = []
        try:
            for key in keys:
                lease = await self._take(key)
                if lease is None:
                    break
                taken.append(lease)
        finally:
            if len(taken) < len(keys):
                await _hand_back(taken)
        return taken if len(taken) == len(keys) else None

    async def _take(self, key: str) -> "_Lease | None":
        lease, asked = Lease(holder=self._holder, acquired_at=datetime.now(UTC)), time.monotonic()
        value = lease.model_dump_json().encode()
        try:
            revision = await self._leases.create(key, value)
        except Conflict:
            found = await self._taken_over(key, value)
            if found is None:
                return None
            revision = found
        return _Lease(self._leases, key, lease, Token(self._leases.epoch, revision), asked + self._ttl)

    async def _taken_over(self, key: str, value: bytes) -> int | None:
        """The new revision of a lease that is ours although we were not told so; None when it is somebody else's."""
        entry = await self._leases.get(key)
        try:
            if entry is None or Lease.model_validate_json(entry.value).holder != self._holder:
                return None
            return await self._leases.update(key, value, entry.revision)
        except ValidationError:
            logger.warning("the lease stored under %s of bucket leases can't be read; it runs out by itself", key)
            return None
        except Conflict:
            return None


class _Lease:
    """One key of ours."""

    def __init__(self, bucket: KeyValue, key: str, lease: Lease, token: Token, until: float) -> None:
        self.key = key
        self.token = token
        self.until = until
        """monotonic time at which somebody else may have it"""
        self._bucket = bucket
        self._value = lease.model_copy(update={"token": token.revision}).model_dump_json().encode()
        self._revision = token.revision

    @property
    def lost(self) -> bool:
        return time.monotonic() >= self.until

    async def renew(self, ttl: float) -> None:
        asked = time.monotonic()
        try:
            self._revision = await self._bucket.update(self.key, self._value, self._revision)
            self.until = asked + ttl
        except Conflict:
            self.until = asked  # it ran out, and may be another's
        except BusError as error:
            logger.warning("the lease %s could not be renewed: %s", self.key, error)

    async def release(self) -> None:
        if self.lost:
            return
        try:
            await self._bucket.delete(self.key, self._revision)
        except BusError as error:
            logger.warning("the lease %s was not handed back and runs out by itself: %s", self.key, error)


async def _hand_back(leases: Sequence[_Lease]) -> None:
    await asyncio.gather(*(lease.release() for lease in leases))


class BusHeld:
    """See `functions.core.ports.Held`: lost as a whole when any of its leases is lost, or was not renewed in time."""

    def __init__(self, leases: Sequence[_Lease], keys: Mapping[str, str], ttl: float, held: set[str]) -> None:
        self.tokens: Mapping[str, Token] = {keys[lease.key]: lease.token for lease in leases}
        self._leases = leases
        self._ttl = ttl
        self._held = held
        self._renewing: asyncio.Task[None] | None = None
        # Most treatments end before a third of the time is over: no task until then.
        until = min((lease.until for lease in leases), default=0.0)
        wait = max(0.0, until - ttl * 2 / 3 - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(wait, self._begin_renewing)

    @property
    def lost(self) -> bool:
        return any(lease.lost for lease in self._leases)

    def _begin_renewing(self) -> None:
        self._renewing = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        while not self.lost:
            await asyncio.gather(*(lease.renew(self._ttl) for lease in self._leases))
            await asyncio.sleep(self._ttl / 3)

    async def release(self) -> None:
        """Hand them back; one that can't be handed back runs out by itself."""
        self._timer.cancel()
        try:
            if self._renewing is not None:
                self._renewing.cancel()
                await asyncio.gather(self._renewing, return_exceptions=True)
            await _hand_back(self._leases)
        finally:
            self._held.difference_update(lease.key for lease in self._leases)
