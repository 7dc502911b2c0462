"""Plans that wait for approval, each whole, in the bucket `plans`: compressed, used up by exactly one."""

import zlib

from pydantic import ValidationError

from bus import subjects
from bus.port import BusError, Conflict, Entry, KeyValue, Rejected, TooLarge
from functions.core.ports import NotStored, PlanTooLarge
from schemas.approval import PendingPlan
from schemas.clock import Clock, SystemClock
from schemas.units import show_size

LARGEST = 512 * 1024**2
"""Bytes of a plan when it is unpacked; what claims to be larger is taken for damaged."""


class BusPlans:
    """The pending plans of one function on one host."""

    def __init__(self, plans: KeyValue, host: str, function: str, clock: Clock | None = None) -> None:
        self._plans = plans
        self._host = host
        self._function = function
        self._clock = clock or SystemClock()

    async def put(self, plan: PendingPlan) -> None:
        """See `functions.core.ports.Plans`. The new one is stored before older ones go."""
        key = self._key(plan.target, plan.hash)
        packed = zlib.compress(plan.model_dump_json().encode())
        try:
            await self._store(key, packed)
            for other in await self._plans.keys(f"{subjects.state_key(self._host, self._function, plan.target)}."):
                if other != key:
                    await self._plans.delete(other)
        except Rejected as error:
            raise self._refused(plan, packed, error) from error
        except BusError as error:
            raise NotStored(f"the plan for {plan.target} can't be stored: {error}") from error

    async def get(self, target: str, plan_hash: str) -> PendingPlan | None:
        found = await self._find(target, plan_hash)
        return None if found is None else found[1]

    async def take(self, target: str, plan_hash: str) -> bool:
        found = await self._find(target, plan_hash)
        if found is None:
            return False
        entry, _ = found
        try:
            await self._plans.delete(entry.key, entry.revision)
        except Conflict:
            return False
        except BusError as error:
            raise NotStored(f"the plan for {target} can't be used up: {error}") from error
        return True

    async def _store(self, key: str, packed: bytes) -> None:
        while True:
            entry = await self._plans.get(key)
            try:
                if entry is None:
                    await self._plans.create(key, packed)
                else:
                    await self._plans.update(key, packed, entry.revision)
            except Conflict:
                continue  # somebody else stored or used it this very moment
            return

    async def _find(self, target: str, plan_hash: str) -> tuple[Entry, PendingPlan] | None:
        try:
            entry = await self._plans.get(self._key(target, plan_hash))
        except BusError as error:
            raise NotStored(f"the plan for {target} can't be read: {error}") from error
        if entry is None:
            return None
        plan = unpack(entry)
        expired = plan.expires_at <= self._clock.now()
        return None if expired or plan.hash != plan_hash or plan.target != target else (entry, plan)

    def _key(self, target: str, plan_hash: str) -> str:
        return subjects.plan_key(self._host, self._function, target, plan_hash)

    def _refused(self, plan: PendingPlan, packed: bytes, error: Rejected) -> NotStored | PlanTooLarge:
        if isinstance(error, TooLarge):
            return PlanTooLarge(
                f"the plan for {plan.target} is {len(packed)} bytes ({show_size(len(packed))}) when compressed, more"
                f" than one message may have: {error}"
            )
        return NotStored(f"the plan for {plan.target} can't be stored: {error}")


def unpack(entry: Entry) -> PendingPlan:
    """Raises NotStored when it is damaged; the text names the command that removes it."""
    try:
        unpacking = zlib.decompressobj()
        content = unpacking.decompress(entry.value, LARGEST)
        if not unpacking.eof:
            raise ValueError(f"it ends too early, or is larger than {show_size(LARGEST)}")
        return PendingPlan.model_validate_json(content)
    except (zlib.error, ValueError) as error:
        seen = f"{error.error_count()} errors" if isinstance(error, ValidationError) else str(error)
        raise NotStored(
            f"the plan stored under {entry.key} is damaged ({seen}); remove it: nats kv del plans {entry.key}"
        ) from error
