"""Who of a group runs a function, and who of them is unhealthy; and what this host says of itself."""

import asyncio
import logging
from datetime import datetime, timedelta
from typing import NamedTuple

from pydantic import ValidationError

from bus import subjects
from bus.port import BusError, Conflict, Entry
from functions.core.ports import NotStored
from infra.hosts.fleet import FleetMirror
from schemas.clock import Clock
from schemas.fleet import MEMBER_EXPIRY, Member

logger = logging.getLogger(__name__)

TOUCH_EVERY = timedelta(hours=1)
TRIES = 10
"""Conflicts with another process of this host, until it is given up."""


class Tally(NamedTuple):
    members: int
    unhealthy: tuple[str, ...]


class _Known(NamedTuple):
    member: Member
    until: float
    """monotonic: a wall clock that jumps makes nobody older"""


class Members:
    """The members of one (group, function). Counted again only when one has changed or expired."""

    def __init__(self, mirror: FleetMirror, group: str, function: str, host: str, clock: Clock) -> None:
        self._mirror = mirror
        self._clock = clock
        self._host = host
        self._function = function
        self._group = group
        self._key = subjects.group_key("member", group, function, host)
        self._prefix = self._key.rpartition(".")[0] + "."
        self._known: dict[str, _Known] = {}
        self._tally: Tally | None = None
        self._tally_until = 0.0
        self._told: Member | None = None
        """what is stored about this host, by this process or by another of the same host"""
        self._revision = 0
        """at which it did so; 0 when that is not known, and then it is read before"""
        self._telling = asyncio.Lock()
        self.forgotten = asyncio.Event()
        """somebody removed or spoilt what we told: it is to be told again"""

    def start(self) -> None:
        self._mirror.follow(self._prefix, self._hear)

    def stop(self) -> None:
        self._mirror.unfollow(self._hear)

    @property
    def unhealthy_since(self) -> datetime | None:
        return self._told.unhealthy_since if self._told is not None else None

    def tally(self) -> Tally:
        """This host counts by what it has told, the others by what they have."""
        now = self._clock.monotonic()
        if self._tally is None or now >= self._tally_until:
            present = {key: known for key, known in self._known.items() if known.until > now and key != self._key}
            unhealthy = [known.member.host for known in present.values() if known.member.unhealthy_since is not None]
            if self.unhealthy_since is not None:
                unhealthy.append(self._host)
            self._tally = Tally(len(present) + 1, tuple(sorted(unhealthy)))
            self._tally_until = min((known.until for known in present.values()), default=float("inf"))
        return self._tally

    async def report(self, *, unhealthy: bool) -> None:
        """Raises NotStored. Stores nothing when it is known already."""
        if self._told is not None and (self._told.unhealthy_since is not None) == unhealthy:
            return
        await self._tell(unhealthy)

    async def touch(self) -> None:
        """Say that this host is still there. Raises NotStored."""
        await self._tell(None)

    async def _tell(self, unhealthy: bool | None) -> None:
        async with self._telling:
            told = self._told
            if unhealthy is not None and told is not None and (told.unhealthy_since is not None) == unhealthy:
                return
            try:
                for _ in range(TRIES):
                    if await self._store(unhealthy):
                        return
            except BusError as error:
                raise NotStored(f"the group can't be told how {self._function} stands here: {error}") from error
            raise NotStored(f"{self._key} of bucket fleet was changed by others {TRIES} times while we wrote it")

    async def _store(self, unhealthy: bool | None) -> bool:
        """False when somebody else wrote first. None keeps what was told, also by an earlier process."""
        bucket = self._mirror.bucket
        entry = None if self._revision else await bucket.get(self._key)
        revision, self._revision = self._revision or (entry.revision if entry is not None else 0), 0
        since = self._since(entry)
        now = self._clock.now()
        if unhealthy is not None:
            since = (since or now) if unhealthy else None
        member = Member(host=self._host, function=self._function, group=self._group, seen_at=now, unhealthy_since=since)
        try:
            value = member.model_dump_json().encode()
            if revision:
                self._revision = await bucket.update(self._key, value, revision)
            else:
                self._revision = await bucket.create(self._key, value)
        except Conflict:
            return False
        self._told, self._tally = member, None
        return True

    def _since(self, entry: Entry | None) -> datetime | None:
        if self._told is not None:
            return self._told.unhealthy_since
        member = _read(entry) if entry is not None else None
        return member.unhealthy_since if member is not None else None

    def _hear(self, entry: Entry) -> None:
        self._tally = None
        if entry.key == self._key:
            self._hear_own(entry)
            return
        if entry.deleted:
            self._known.pop(entry.key, None)
            return
        member = _read(entry) or self._unknown(entry)
        age = max(self._clock.now() - member.seen_at, timedelta(0))
        left = (MEMBER_EXPIRY - age).total_seconds()
        self._known[entry.key] = _Known(member, self._clock.monotonic() + left)

    def _hear_own(self, entry: Entry) -> None:
        member = None if entry.deleted else _read(entry)
        if member is None:
            self.forgotten.set()
        elif entry.revision > self._revision:
            self._told, self._revision = member, entry.revision

    def _unknown(self, entry: Entry) -> Member:
        """A member of whom nobody can say how it is makes nobody bolder: it counts as unhealthy until it expires."""
        now = self._clock.now()
        host = entry.key.removeprefix(self._prefix)
        return Member(host=host, function=self._function, group=self._group, seen_at=now, unhealthy_since=now)


def _read(entry: Entry) -> Member | None:
    try:
        return Member.model_validate_json(entry.value)
    except ValidationError as error:
        logger.warning(
            "%s of bucket fleet is damaged (%d errors), so that host counts as unhealthy: nats kv del fleet %s",
            entry.key, error.error_count(), entry.key,
        )  # fmt: skip
        return None
