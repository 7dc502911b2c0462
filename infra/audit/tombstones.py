"""What stands where older records were: a signed record that says where each chain goes on, and where they went. Pure.

The data of a record with the step `tombstone`:

```text
archive      SHA-256 of the archive's manifest.json
before       stream sequence of the first message that was not archived
messages, records, directory
chains       chain → {sequence, head, at} of its last archived record; also of chains of earlier archives
forgotten    how many chains of earlier archives are no longer named: the longest ended ones
checkpoints  {count, sha256} of the archived checkpoints
keys         public keys, in hexadecimal, that signed what was archived
rotations    how those keys came after one another
```
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bus.port import Stored
from infra.audit.reading import NoRecord, SegmentSeen, public_key, segment

FUNCTION = "operator.archive"
"""The function name of the chains that tombstones are written in."""

STEP = "tombstone"


@dataclass(frozen=True)
class Claim:
    """What one tombstone says; to be believed when it was read as part of the trail, with a good signature."""

    stream_sequence: int
    at: str
    archive: str
    before: int
    chains: Mapping[str, tuple[int, str]]
    times: Mapping[str, str] = field(default_factory=dict)
    """when each of them was written last"""
    forgotten: int = 0
    public: Mapping[str, bytes] = field(default_factory=dict)
    rotations: tuple[Mapping[str, Any], ...] = ()
    text: str = ""


def claims_in(stored: Stored) -> list[Claim]:
    """Those of one message; none for what is no message of the trail."""
    try:
        taken = segment(stored)
    except NoRecord:
        return []
    found = (claims_of(record, taken) for record in taken.records if record.get("step") == STEP)
    return [claim for claim in found if claim is not None]


def claims_of(record: Mapping[str, Any], taken: SegmentSeen) -> Claim | None:
    """None when the record's data isn't that of a tombstone."""
    data = record.get("data")
    if not isinstance(data, dict):
        return None
    chains, archive, before = data.get("chains"), data.get("archive"), data.get("before")
    if not (isinstance(chains, dict) and isinstance(archive, str) and isinstance(before, int)):
        return None
    ends: dict[str, tuple[int, str]] = {}
    for name, end in chains.items():
        if not isinstance(end, dict):
            return None
        sequence, head = end.get("sequence"), end.get("head")
        if not isinstance(sequence, int) or not isinstance(head, str):
            return None
        ends[name] = (sequence, head)
    keys, rotations, forgotten = data.get("keys"), data.get("rotations"), data.get("forgotten")
    found = (public_key(key) for key in keys) if isinstance(keys, list) else ()
    return Claim(
        taken.stream_sequence, str(record.get("at", taken.at)), archive, before, ends,
        {name: str(end.get("at", "")) for name, end in chains.items()},
        forgotten if isinstance(forgotten, int) else 0, dict(key for key in found if key is not None),
        tuple(each for each in rotations if isinstance(each, dict)) if isinstance(rotations, list) else (),
        str(record.get("text") or f"everything before #{before} was archived")[:500],
    )  # fmt: skip


def ends_before(claims: Iterable[Claim], sequence: int) -> dict[str, tuple[int, str]]:
    """Where each chain stood when everything before the stream's *sequence* was taken away."""
    found: dict[str, tuple[int, str]] = {}
    for claim in claims:
        if claim.before <= sequence:
            for name, end in claim.chains.items():
                if name not in found or found[name][0] < end[0]:
                    found[name] = end
    return found
