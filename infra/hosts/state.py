"""The ledger of one function, kept in the bucket `incidents`."""

import logging

from pydantic import ValidationError

from bus import subjects
from bus.port import BusError, Conflict, Entry, KeyValue
from functions.core.ports import LedgerConflict, NotStored, Remembered
from infra.hosts.watching import BucketWatch
from schemas.incident import Incident

logger = logging.getLogger(__name__)


class BusLedger:
    """Incidents of one function on one host, with a mirror that a watch keeps up to date."""

    def __init__(self, incidents: KeyValue, host: str, function: str) -> None:
        self._incidents = incidents
        self._host = host
        self._function = function
        self._mirror: dict[str, Incident] = {}
        self._open: dict[str, Incident] = {}
        """those of the mirror that are open"""
        self._saving: dict[str, tuple[bytes, Incident]] = {}
        """key → what we are writing: the watch may tell of it before the answer comes"""
        self._known: dict[str, int] = {}
        """key → the revision that we wrote or heard of last: what is older is no news"""
        self._doubtful: set[str] = set()
        """keys that we could not write: somebody else did, or we did and were not told"""
        self._watch = BucketWatch(incidents, subjects.state_prefix(host, function), self._hear)

    async def start(self) -> None:
        """Return when the mirror holds everything that is stored now. Raises BusError."""
        await self._watch.start()

    async def stop(self) -> None:
        await self._watch.stop()

    def _hear(self, entry: Entry, first: bool) -> None:
        """Of a bucket that was made anew, whose revisions begin again, old keys are deleted at revision 0."""
        if not first and 0 < entry.revision <= self._known.get(entry.key, 0):
            return
        self._known[entry.key] = entry.revision
        self._doubtful.discard(entry.key)
        if entry.deleted:
            for target in self._targets_of(entry.key):
                del self._mirror[target]
                self._open.pop(target, None)
            return
        value, incident = self._saving.get(entry.key, (b"", None))
        if incident is not None and value == entry.value:
            self._keep(incident)
        else:
            self._reflect(entry.key, entry.value)

    def _targets_of(self, key: str) -> list[str]:
        return [target for target in self._mirror if self._key(target) == key]

    def _keep(self, incident: Incident) -> None:
        self._mirror[incident.target] = incident
        if incident.open:
            self._open[incident.target] = incident
        else:
            self._open.pop(incident.target, None)

    def _reflect(self, key: str, value: bytes) -> None:
        """One that is damaged is not remembered as over: whoever loads it must hear that it is damaged."""
        try:
            self._keep(self._read(key, value))
        except ValueError as error:
            logger.error(
                "the incident stored under %s is damaged (%s), its target is left alone: nats kv del incidents %s",
                key, error, key,
            )  # fmt: skip
            for target in self._targets_of(key):
                if target not in self._open:
                    del self._mirror[target]

    def _read(self, key: str, value: bytes) -> Incident:
        """Raises ValueError, in one line, when it is no incident, or that of another target."""
        try:
            incident = Incident.model_validate_json(value)
        except ValidationError as error:
            raise ValueError(f"{error.error_count()} errors") from error
        if self._key(incident.target) != key:
            raise ValueError(f"it is about {incident.target}, which belongs elsewhere")
        return incident

    def _key(self, target: str) -> str:
        return subjects.state_key(self._host, self._function, target)

    def is_open(self, target: str) -> bool:
        return target in self._open

    def open_incidents(self) -> list[Incident]:
        return list(self._open.values())

    async def load(self, target: str) -> Remembered:
        """Raises NotStored when the bus does not answer or the value can't be read.

        An incident that is over, or was never there, comes from the mirror while its watch runs: who goes on from one
        that is old by a moment is stopped by the first `save`, before anything is told or done, and asks the bus then.
        """
        key = self._key(target)
        known = self._mirror.get(target)
        if self._is_mirrored(key) and target not in self._open and (known is not None or key not in self._known):
            return Remembered(known, self._known.get(key, 0))
        try:
            entry = await self._incidents.get(key)
            self._begins_anew(key, entry)
            if entry is None:
                return Remembered(None, 0)
            return Remembered(self._read(key, entry.value), entry.revision)
        except BusError as error:
            raise NotStored(f"the incident of {target} can't be read: {error}") from error
        except ValueError as error:
            raise NotStored(
                f"the incident stored for {target} is damaged ({error});"
                f" look at key {key} of bucket incidents and delete it"
            ) from error

    def _begins_anew(self, key: str, entry: Entry | None) -> None:
        """In a bucket that was made anew, revisions begin again: what is saved from here on is news, however low."""
        if entry is None:
            self._known.pop(key, None)
        elif key in self._known:
            self._known[key] = min(self._known[key], entry.revision)

    def _is_mirrored(self, key: str) -> bool:
        return not self._watch.problem and key not in self._doubtful

    async def save(self, incident: Incident, revision: int) -> int:
        key, value = self._key(incident.target), incident.model_dump_json().encode()
        self._saving[key] = value, incident
        try:
            if revision:
                new = await self._incidents.update(key, value, revision)
            else:
                new = await self._incidents.create(key, value)
        except Conflict as error:
            self._doubtful.add(key)
            raise LedgerConflict(f"somebody else wrote the incident of {incident.target} first") from error
        except BusError as error:
            self._doubtful.add(key)
            raise NotStored(f"the incident of {incident.target} can't be stored: {error}") from error
        finally:
            self._saving.pop(key, None)
        if new > self._known.get(key, 0):  # else the watch was faster, and has told of somebody's next one already
            self._known[key] = new
            self._doubtful.discard(key)
            self._keep(incident)
        return new
