"""`ansai audit archive`: older records into an export, a tombstone in their place, and only then away with them.

Each step is done when the one before is on disk or in the stream, so it may be killed anywhere:

```text
export  →  verify it from disk  →  tombstone and its checkpoint in the stream  →  purge what stands before
```

Killed before the tombstone, nothing has changed, and the same command goes on with the export that is there. Killed
after it, a tombstone speaks of records that are still there, which harms nothing, and a second run removes them.
"""

import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from bus.port import Bus, BusError, Stored, StreamName
from infra.audit.export import (
    CHECKPOINTS,
    RECORDS,
    Progress,
    Selection,
    export,
    line_of,
    tombstones,
)
from infra.audit.exported import open_export, verify_exports
from infra.audit.findings import Verification
from infra.audit.keys import Signer
from infra.audit.reading import NoRecord, chain_of, checkpoint
from infra.audit.tombstones import FUNCTION, Claim, claims_in
from infra.audit.trust import Trust
from schemas.audit import Step
from schemas.envelope import new_id
from schemas.remediation import Mode

logger = logging.getLogger(__name__)

NAMED = 3_000
"""Chains in one tombstone at most, some 600 KB: it fits into the smallest message limit that servers start with."""

ROOM = 4 * 2**20
"""Bytes by which a full stream is widened, so that the tombstone finds its place."""


class ArchiveFailed(Exception):
    """Nothing was removed; the text says what was tried, what was seen, and what to do."""


class Writer(Protocol):
    """Who writes the tombstone: `infra.hosts.story.BusStory`."""

    async def audit(self, correlation: str, **fields: Any) -> None: ...
    async def stop(self) -> None: ...


@dataclass(frozen=True)
class Order:
    """What is archived where, and by whom."""

    directory: Path
    until: datetime
    """what was stored before it"""
    who: str


@dataclass(frozen=True)
class Archived:
    """What became of it; the verification is not ok when nothing was removed."""

    verification: Verification
    digest: str = ""
    tombstone: int = 0
    """stream sequence of its message"""
    purged: int = 0
    checkpoints_purged: int = 0


async def archive(
    bus: Bus, order: Order, writer: Writer, signer: Signer, trust: Trust, usual_limit: int, progress: Progress,
) -> Archived | None:  # fmt: skip
    """Archive; None when there is nothing that old. *usual_limit*: bytes of the stream as configured.

    Raises ArchiveFailed, ExportFailed, NoExport, NotStored, BusError.
    """
    oldest = await _oldest(bus)
    if oldest is None or oldest.stored_at >= order.until:
        return None
    if (order.directory / RECORDS).exists():
        await _same_as_stream(bus, order.directory)
    else:
        await export(bus, order.directory, Selection(until=order.until), signer, trust, order.who, progress)
    found = open_export(order.directory)
    verification = verify_exports([order.directory], trust, progress)
    if not verification.ok:
        return Archived(verification, found.digest)
    last = found.span[1]
    data = await _data(bus, found.manifest, found.digest, verification, last)
    async with _room(bus, usual_limit):
        tombstone = await _bury(bus, order, writer, data, last)
        purged = await bus.purge(StreamName.AUDIT, last + 1)
        checkpoints_purged = await _purge_checkpoints(bus, data["chains"])
    return Archived(verification, found.digest, tombstone, purged, checkpoints_purged)


async def _oldest(bus: Bus) -> Stored | None:
    async for stored in bus.read(StreamName.AUDIT):
        return stored
    return None


async def _same_as_stream(bus: Bus, directory: Path) -> None:
    """A directory that is there already is gone on with when it holds exactly what is still in the stream.

    Raises ArchiveFailed, NoExport.
    """
    found = open_export(directory)
    first, last = found.span
    digest = sha256()
    usage = await bus.usage(StreamName.AUDIT)
    if found.whole and usage.first_sequence == first and usage.last_sequence >= last:
        async for stored in bus.read(StreamName.AUDIT):
            if stored.sequence > last:
                break
            digest.update(line_of(stored))
    if found.digest_of(RECORDS) != digest.hexdigest():
        raise ArchiveFailed(
            f"{directory} exists already and is not an archive of what the stream begins with now (message"
            f" #{usage.first_sequence}); nothing was removed. Name another directory"
        )


# The tombstone.


async def _data(
    bus: Bus, manifest: Mapping[str, Any], digest: str, verification: Verification, last: int
) -> dict[str, Any]:
    claims = [claim async for claim in tombstones(bus)]
    chains, forgotten = _named(claims, manifest["ends"], await _needed(bus))
    public = {key.hex() for key in verification.public.values()}
    public |= {key.hex() for claim in claims for key in claim.public.values()}
    rotations = {str(each.get("new")): dict(each) for each in verification.rotations}
    checkpoints = manifest["files"][CHECKPOINTS]
    return {
        "archive": digest, "before": last + 1, "messages": manifest["counts"]["messages"],
        "records": manifest["counts"]["records"], "chains": chains, "forgotten": forgotten,
        "checkpoints": {"count": checkpoints["lines"], "sha256": checkpoints["sha256"]},
        "keys": sorted(public), "rotations": list(rotations.values()),
    }  # fmt: skip


async def _needed(bus: Bus) -> set[str]:
    """Chains that checkpoints speak of."""
    found = set()
    async for stored in bus.read(StreamName.CHECKPOINT):
        try:
            found.add(checkpoint(stored).chain)
        except NoRecord:
            continue
    return found


def _named(
    claims: Iterable[Claim], ends: Mapping[str, Mapping[str, Any]], needed: set[str]
) -> tuple[dict[str, Any], int]:
    """The chains of this archive and of earlier ones; of too many the newest, the last of each function for ever."""
    chains: dict[str, Any] = {}
    for claim in claims:
        for name, (sequence, head) in claim.chains.items():
            if name not in chains or chains[name]["sequence"] < sequence:
                chains[name] = {"sequence": sequence, "head": head, "at": claim.times.get(name, "")}
    chains |= {name: dict(end) for name, end in ends.items()}
    newest = sorted(chains, key=lambda name: chains[name]["at"], reverse=True)
    of_function = {name.rpartition(".")[0]: name for name in reversed(newest)}
    first = [name for name in newest if name in {*of_function.values(), *(needed & chains.keys())}]
    kept = [*first, *(name for name in newest if name not in set(first))][:NAMED]
    earlier = sum(claim.forgotten for claim in claims)
    return {name: chains[name] for name in sorted(kept)}, earlier + len(chains) - len(kept)


async def _bury(bus: Bus, order: Order, writer: Writer, data: Mapping[str, Any], last: int) -> int:
    """Store the tombstone and the checkpoint of its chain; return where it stands. Raises ArchiveFailed, NotStored."""
    text = f"{data['records']} records before #{last + 1} were archived in {order.directory.name}"
    await writer.audit(
        new_id(), function=FUNCTION, step=Step.TOMBSTONE, mode=Mode.OBSERVE, who=order.who, text=text, data=dict(data),
        target="stream:AUDIT",
    )  # fmt: skip
    await writer.stop()
    async for stored in bus.read(StreamName.AUDIT, f"ansai.audit.*.{FUNCTION}.*"):
        if stored.sequence <= last or all(claim.archive != data["archive"] for claim in claims_in(stored)):
            continue
        if await bus.last(f"ansai.checkpoint.{chain_of(stored.subject)}") is not None:
            return stored.sequence
    raise ArchiveFailed(
        "the tombstone or its checkpoint was not found in the streams after it was stored; nothing was removed."
        f" See what is wrong with: ansai audit verify; then run the same command again for {order.directory}"
    )


async def _purge_checkpoints(bus: Bus, chains: Mapping[str, Mapping[str, Any]]) -> int:
    """Remove the oldest checkpoints, up to the first that speaks of more than was archived."""
    before = 0
    async for stored in bus.read(StreamName.CHECKPOINT):
        try:
            seen = checkpoint(stored)
        except NoRecord:
            break
        end = chains.get(seen.chain)
        if end is None or end["sequence"] < seen.sequence:
            break
        before = stored.sequence + 1
    return await bus.purge(StreamName.CHECKPOINT, before) if before else 0


@asynccontextmanager
async def _room(bus: Bus, usual: int) -> AsyncIterator[None]:
    """Room for the tombstone in a stream that is full, as long as it is needed; the limit is set back in any case."""
    usage = await bus.usage(StreamName.AUDIT)
    limit = usage.limit
    if limit is not None and limit == usual + ROOM:
        limit = usual  # a run that was killed has left it wide
    if limit is None or (limit == usage.limit and limit - usage.bytes >= ROOM):
        yield
        return
    await bus.resize(StreamName.AUDIT, limit + ROOM)
    try:
        yield
    finally:
        try:
            await bus.resize(StreamName.AUDIT, limit)
        except BusError as error:
            logger.warning(
                "the audit stream keeps a limit of %d bytes; archive again to set it back: %s", limit + ROOM, error
            )
