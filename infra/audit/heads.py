"""Where this machine last saw its own chains: a file per function, against a store that was cut or rolled back."""

import logging
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from bus import subjects
from bus.port import Bus, StreamName
from infra.audit import durable, form, reading
from infra.audit.segments import Chain, Position
from infra.audit.tombstones import FUNCTION, claims_in

logger = logging.getLogger(__name__)

_TOMBSTONES = f"ansai.audit.*.{FUNCTION}.*"


class Head(BaseModel):
    """The last record that a chain was known to have."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    host: str
    emitter: str
    sequence: int
    head: str

    def document(self) -> dict[str, Any]:
        return self.model_dump()


class HeadFile:
    """Of one function. Replicas on one machine share it: the last one to write is remembered. Blocks on the disk."""

    def __init__(self, directory: Path, function: str) -> None:
        self._path = directory / f"{function}.json"

    def read(self) -> Head | None:
        """None when there is none, or, with a warning, when it can't be read."""
        try:
            return Head.model_validate_json(durable.read(self._path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            logger.warning("%s can't be used (%s): whether the trail was rolled back is not seen", self._path, reason)
            return None

    def write(self, chain: Chain, position: Position) -> None:
        """Raises OSError."""
        head = Head(host=chain.host, emitter=chain.emitter, sequence=position.sequence, head=position.head)
        durable.make_directory(self._path.parent)
        durable.replace(self._path, head.model_dump_json().encode())


async def replaced(bus: Bus, function: str, head: Head) -> dict[str, Any] | None:
    """What the stream holds where *head* should be; None when it holds that, or when an archive took it.

    Raises BusError, and NoRecord for what is no record on the chain's subject.
    """
    subject = subjects.audit(head.host, function, head.emitter)
    last = await bus.last(subject)
    if last is None:
        end = await archived_end(bus, subject)
        return None if end is not None and end.sequence >= head.sequence else {}
    newest = reading.segment(last)
    if newest.last < head.sequence:
        return {"sequence": newest.last, "head": newest.head}
    if newest.last == head.sequence:
        return None if newest.head == head.head else {"sequence": newest.last, "head": newest.head}
    async for stored in bus.read(StreamName.AUDIT, subject):  # it went on after it was noted, and didn't end in order
        held = reading.segment(stored)
        if held.first <= head.sequence <= held.last:
            found = form.record_hash(held.records[head.sequence - held.first])
            return None if found == head.head else {"sequence": head.sequence, "head": found}
    return None  # an archive took the older part


async def archived_end(bus: Bus, subject: str) -> Position | None:
    """The last record of a chain that an archive took, as the tombstones in the stream say. Raises BusError."""
    chain, found = reading.chain_of(subject), Position()
    async for stored in bus.read(StreamName.AUDIT, _TOMBSTONES):
        for claim in claims_in(stored):
            sequence, head = claim.chains.get(chain, (0, ""))
            if sequence > found.sequence:
                found = Position(sequence, head)
    return found if found.sequence else None
