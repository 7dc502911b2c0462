"""`ansai audit export`: the trail as files that prove themselves, for auditors, archives, and other languages.

```text
DIRECTORY/
  records.jsonl       the messages of the trail, one a line, in the order of the stream
  checkpoints.jsonl   the signed checkpoints that belong to them, in the same form
  keys.json           {"hosts": {host: [fingerprints]}, "public": {fingerprint: hex}, "rotations": […]}
  manifest.json       what there is: SHA-256, bytes and lines of each file, range, counts, chains; signed
```

A line is `{"sequence": 17, "stored_at": "2026-01-02T03:04:05.678901+00:00", "subject": "ansai.audit.…", "body": "…"}`.
`body` is the message as it was stored, a CloudEvent as text; one that is no UTF-8 stands under `body_base64` instead.
With jq: `jq '.body | fromjson | .data.records[]' records.jsonl`. How records are hashed and what is signed is described
in docs/audit.md, with all that a verifier in another language needs.

Nothing is overwritten: all is written to a directory beside, synced, and renamed.
"""

import base64
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from bus import subjects
from bus.port import Bus, Stored, StreamName
from infra.audit.durable import sync_directory
from infra.audit.form import signed_manifest
from infra.audit.keys import Signer
from infra.audit.reading import NoRecord, checkpoint, segment
from infra.audit.tombstones import FUNCTION, Claim, claims_in, ends_before
from infra.audit.trust import Trust
from schemas.envelope import new_id

FORMAT = "ansai.audit.export.v1"
RECORDS, CHECKPOINTS, KEYS, MANIFEST = "records.jsonl", "checkpoints.jsonl", "keys.json", "manifest.json"

Progress = Callable[[int, int], None]
"""Called now and then with the messages done and the messages there are."""


class ExportFailed(Exception):
    """The export was not made; the text says what was tried, what was seen, and what to do."""


@dataclass(frozen=True)
class Selection:
    """What is exported; nothing given is everything."""

    since: datetime | None = None
    until: datetime | None = None
    function: str | None = None

    @property
    def pattern(self) -> str:
        """Raises BadSubject."""
        return f"ansai.audit.*.{'.'.join(subjects.split_name(self.function))}.*" if self.function else ""

    def document(self) -> dict[str, str | None]:
        since, until = (moment.isoformat() if moment else None for moment in (self.since, self.until))
        return {"since": since, "until": until, "function": self.function}


@dataclass
class Chains:
    """Where the exported part of each chain begins and ends."""

    begins: dict[str, tuple[int, str]] = field(default_factory=dict)
    """chain → number and hash of the record before its first one, for chains that begin in the middle"""
    ends: dict[str, dict[str, Any]] = field(default_factory=dict)

    def take(self, stored: Stored) -> int:
        """Records of the message; 0 for one that is none: it is exported all the same."""
        try:
            taken = segment(stored)
        except NoRecord:
            return 0
        if taken.chain not in self.ends and taken.first > 1:
            self.begins[taken.chain] = (taken.first - 1, taken.previous)
        self.ends[taken.chain] = {"sequence": taken.last, "head": taken.head, "at": taken.at}
        return len(taken.records)


@dataclass(frozen=True)
class Exported:
    """What was written."""

    directory: Path
    manifest: Mapping[str, Any]
    digest: str
    """SHA-256 of manifest.json"""


async def export(
    bus: Bus, directory: Path, selection: Selection, signer: Signer, trust: Trust, who: str, progress: Progress,
) -> Exported:  # fmt: skip
    """Write the selected part of the trail to *directory*, which must not exist.

    Raises ExportFailed, BusError, BadSubject.
    """
    pattern = selection.pattern
    usage = await bus.usage(StreamName.AUDIT)
    claims = [claim async for claim in tombstones(bus)]
    with _drafted(directory) as draft:
        chains, counts, span = Chains(), {"messages": 0, "records": 0, "not_records": 0}, [0, 0]
        with _Lines(draft / RECORDS) as records:
            async for stored in bus.read(StreamName.AUDIT, pattern, selection.since):
                if stored.sequence > usage.last_sequence or _after(stored, selection.until):
                    break
                records.write(stored)
                span = [span[0] or stored.sequence, stored.sequence]
                held = chains.take(stored)
                counts["messages"] += 1
                counts["records" if held else "not_records"] += held or 1
                if counts["messages"] % 100 == 0:
                    progress(stored.sequence - usage.first_sequence + 1, usage.messages)
        with _Lines(draft / CHECKPOINTS) as checkpoints:
            async for stored in _checkpoints_of(bus, selection, chains, span[1]):
                checkpoints.write(stored)
        whole = selection.since is None and selection.function is None
        begins = _claimed(claims, chains, span[0]) if whole else chains.begins
        keys = json.dumps(trust.document(), indent=2, sort_keys=True).encode() + b"\n"
        files = {
            RECORDS: records.document(), CHECKPOINTS: checkpoints.document(), KEYS: _write(draft / KEYS, keys),
        }  # fmt: skip
        manifest = {
            "format": FORMAT, "created_at": datetime.now(UTC).isoformat(), "who": who,
            "selection": selection.document(), "whole": whole, "first_sequence": span[0], "last_sequence": span[1],
            "counts": {**counts, "checkpoints": checkpoints.lines, "chains": len(chains.ends)}, "files": files,
            "begins": {name: {"sequence": number, "head": head} for name, (number, head) in begins.items()},
            "ends": chains.ends, "key": signer.fingerprint, "public_key": signer.public.hex(),
        }  # fmt: skip
        manifest["signature"] = signer.sign(signed_manifest(manifest)).hex()
        body = json.dumps(manifest, indent=2, sort_keys=True).encode() + b"\n"
        _write(draft / MANIFEST, body)
    progress(usage.messages, usage.messages)
    return Exported(directory, manifest, sha256(body).hexdigest())


async def tombstones(bus: Bus) -> AsyncIterator[Claim]:
    """What every tombstone of the stream says. Raises BusError."""
    async for stored in bus.read(StreamName.AUDIT, f"ansai.audit.*.{FUNCTION}.*"):
        for claim in claims_in(stored):
            yield claim


def _after(stored: Stored, until: datetime | None) -> bool:
    return until is not None and stored.stored_at >= until


def _claimed(claims: list[Claim], chains: Chains, first: int) -> dict[str, tuple[int, str]]:
    """What tombstones say of chains whose beginning is archived: an unexplained one stays a problem."""
    ends = ends_before(claims, first)
    return {name: ends[name] for name in [*chains.ends, *ends] if name in ends}


async def _checkpoints_of(bus: Bus, selection: Selection, chains: Chains, last: int) -> AsyncIterator[Stored]:
    """Those of the exported records. One that is ahead belongs to it only when its records are nowhere else."""
    pattern = selection.pattern.replace("ansai.audit.", "ansai.checkpoint.", 1)
    goes_on: dict[str, bool] = {}
    async for stored in bus.read(StreamName.CHECKPOINT, pattern):
        try:
            seen = checkpoint(stored)
        except NoRecord:
            yield stored
            continue
        end = chains.ends.get(seen.chain)
        if end is None or seen.sequence > end["sequence"]:
            if seen.chain not in goes_on:
                goes_on[seen.chain] = await _elsewhere(bus, seen.chain, selection, last)
            if goes_on[seen.chain]:
                continue
        yield stored


async def _elsewhere(bus: Bus, chain: str, selection: Selection, last: int) -> bool:
    """Whether the stream holds records of the chain outside of the range."""
    newest = await bus.last(f"ansai.audit.{chain}")
    if newest is None:
        return selection.since is not None
    return newest.sequence > last or (selection.since is not None and newest.stored_at < selection.since)


# Files.


@contextmanager
def _drafted(directory: Path) -> Iterator[Path]:
    """A directory beside *directory* that takes its name at the end, or is removed. Raises ExportFailed."""
    if os.path.lexists(directory):
        raise ExportFailed(f"{directory} exists already, and nothing is overwritten; name another directory")
    parent = directory.absolute().parent
    draft = parent / f".{directory.name}.{new_id()}.partial"
    try:
        os.mkdir(draft, 0o700)
    except OSError as error:
        raise ExportFailed(f"{directory} can't be written: {error.strerror}: {parent}") from error
    try:
        yield draft
        sync_directory(draft)
        if os.path.lexists(directory):
            raise ExportFailed(f"{directory} has come into being meanwhile, and nothing is overwritten")
        os.rename(draft, directory)
        sync_directory(parent)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise ExportFailed(f"{directory} can't be written: {error.strerror or error}") from error
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _create(path: Path) -> IO[bytes]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb", buffering=1 << 18)


def _write(path: Path, body: bytes) -> dict[str, Any]:
    with _create(path) as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    return {"sha256": sha256(body).hexdigest(), "bytes": len(body), "lines": body.count(b"\n")}


class _Lines:
    """A file of lines, hashed while it is written, on disk when it is closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = sha256()
        self._bytes = 0
        self.lines = 0

    def __enter__(self) -> Self:
        self._file = _create(self._path)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with self._file as file:
            if error is None:
                file.flush()
                os.fsync(file.fileno())

    def write(self, stored: Stored) -> None:
        line = line_of(stored)
        self._file.write(line)
        self._digest.update(line)
        self._bytes += len(line)
        self.lines += 1

    def document(self) -> dict[str, Any]:
        return {"sha256": self._digest.hexdigest(), "bytes": self._bytes, "lines": self.lines}


def line_of(stored: Stored) -> bytes:
    """One line of an export."""
    line: dict[str, Any] = {
        "sequence": stored.sequence, "stored_at": stored.stored_at.isoformat(), "subject": stored.subject,
    }  # fmt: skip
    try:
        line["body"] = stored.body.decode("utf-8")
    except UnicodeDecodeError:
        line["body_base64"] = base64.b64encode(stored.body).decode("ascii")
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"
