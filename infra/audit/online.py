"""The trail as it is on the bus: everything that can be known about it there and on this machine, verified."""

from collections.abc import Iterator
from pathlib import Path

from bus.port import Bus, StreamName
from infra.audit.export import Progress, tombstones
from infra.audit.findings import Verification
from infra.audit.heads import HeadFile
from infra.audit.reading import NoRecord, chain_name
from infra.audit.trust import Trust
from infra.audit.verification import Anchor, Verifier


def remembered(heads: Path) -> Iterator[Anchor]:
    """Where this machine last saw its own chains."""
    for path in sorted(heads.glob("*.json")):
        head = HeadFile(heads, path.stem).read()
        if head is None:
            continue
        try:
            chain = chain_name(head.host, path.stem, head.emitter)
        except NoRecord:
            continue
        yield Anchor(chain, head.sequence, head.head, f"this machine ({path})", local=True)


async def verify_stream(bus: Bus, trust: Trust, heads: Path, progress: Progress) -> Verification:
    """Verify what the bus holds at this moment. Raises BusError.

    What vouches for records is read before the records: what is written meanwhile is no problem.
    """
    anchors = list(remembered(heads))
    claims = [claim async for claim in tombstones(bus)]
    verifier = Verifier(trust, claims=claims, anchors=anchors)
    async for stored in bus.read(StreamName.CHECKPOINT):
        verifier.checkpoint(stored)
    usage = await bus.usage(StreamName.AUDIT)
    done = 0
    async for stored in bus.read(StreamName.AUDIT):
        if stored.sequence > usage.last_sequence:
            break
        verifier.message(stored)
        done += 1
        if done % 100 == 0:
            progress(done, usage.messages)
    progress(usage.messages, usage.messages)
    return verifier.result()
