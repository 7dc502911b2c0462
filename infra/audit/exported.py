"""Exports as they are read back: file by file against the signed manifest, then record by record. Needs no bus."""

import base64
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from bus.port import Stored, StreamName
from infra.audit.export import CHECKPOINTS, FORMAT, KEYS, MANIFEST, RECORDS
from infra.audit.findings import Kind, Problem, Verification
from infra.audit.form import signed_manifest
from infra.audit.reading import NoRecord, parse, public_key, signed_by
from infra.audit.tombstones import Claim, claims_in
from infra.audit.trust import Trust, from_document
from infra.audit.verification import Verifier

LONGEST_LINE = 160 * 2**20
"""Bytes. nats-server takes no message above 64 MiB, and its text may be escaped."""

Progress = Callable[[int, int], None]


class NoExport(Exception):
    """The directory can't be read as an export at all; the text says which file and why."""


@dataclass(frozen=True)
class Export:
    """One directory, opened: its manifest is parsed, nothing is believed yet."""

    directory: Path
    manifest: dict[str, Any]
    begins: dict[str, tuple[int, str]]
    digest: str
    """SHA-256 of manifest.json"""

    @property
    def whole(self) -> bool:
        return self.manifest.get("whole") is True

    @property
    def span(self) -> tuple[int, int]:
        first, last = self.manifest.get("first_sequence"), self.manifest.get("last_sequence")
        return (first, last) if isinstance(first, int) and isinstance(last, int) else (0, 0)

    def digest_of(self, name: str) -> object:
        """What the manifest says about a file; None when it says nothing."""
        files = self.manifest.get("files")
        said = files.get(name) if isinstance(files, dict) else None
        return said.get("sha256") if isinstance(said, dict) else None

    @property
    def messages(self) -> int:
        counts = self.manifest.get("counts")
        found = counts.get("messages") if isinstance(counts, dict) else None
        return found if isinstance(found, int) else 0


def open_export(directory: Path) -> Export:
    """Raises NoExport."""
    body = _read(directory / MANIFEST)
    try:
        manifest = parse(body)
    except NoRecord as error:
        raise NoExport(f"{directory / MANIFEST} is no manifest: {error}") from error
    if manifest.get("format") != FORMAT:
        raise NoExport(f"{directory / MANIFEST} is not of the format {FORMAT}; is it from another version of ansai?")
    begins: dict[str, tuple[int, str]] = {}
    named = manifest.get("begins")
    for name, end in named.items() if isinstance(named, dict) else ():
        if isinstance(end, dict) and isinstance(end.get("sequence"), int) and isinstance(end.get("head"), str):
            begins[name] = (end["sequence"], end["head"])
    return Export(directory, manifest, begins, sha256(body).hexdigest())


def verify_exports(directories: Sequence[Path], trust: Trust, progress: Progress) -> Verification:
    """One export, or several that follow on one another: archives, and an export of the rest. Raises NoExport."""
    exports = sorted(map(open_export, directories), key=lambda each: each.span)
    problems: list[Problem] = []
    for each in exports:
        trust, found = _vouched(each, trust)
        problems += found
    seamless = all(_joins(one, two) for one, two in pairwise(exports))
    whole = seamless and all(each.whole for each in exports)
    begins = dict(exports[0].begins)
    for each in exports[1:] if not whole else ():
        begins = {**each.begins, **begins}
    verifier = Verifier(trust, begins=begins, claims=_claims(exports), whole=whole)
    for each in exports:
        problems += _read_checkpoints(each, verifier)
    total, done, told = sum(each.messages for each in exports), 0, 0
    for each in exports:
        lines = _Lines(each, RECORDS)
        for stored in lines:
            done += 1
            if done % 100 == 0:
                progress(done, total)
            if stored.sequence > told:  # what overlaps was told by the export before
                verifier.message(stored)
        told = max(told, each.span[1])
        problems += lines.problems()
    progress(total, total)
    return _joined(verifier.result(), problems, exports, seamless=seamless)


def _joins(one: Export, two: Export) -> bool:
    return two.span[0] <= one.span[1] + 1 or not two.span[0]


def _joined(found: Verification, problems: list[Problem], exports: Sequence[Export], *, seamless: bool) -> Verification:
    parts = ((each, _selected(each)) for each in exports)
    notes = [*found.notes, *(f"{each.directory} is a part of the trail: {what}" for each, what in parts if what)]
    if not seamless:
        notes.append("the exports don't follow on one another: what lies between them is not judged")
    return replace(found, problems=(*problems, *found.problems), notes=tuple(notes))


def _selected(export: Export) -> str:
    selection = export.manifest.get("selection")
    chosen = selection if isinstance(selection, dict) else {}
    return ", ".join(f"{name} {str(value)[:100]}" for name, value in chosen.items() if value)


# Whom the export itself vouches for.


def _vouched(export: Export, trust: Trust) -> tuple[Trust, list[Problem]]:
    """When a trusted key has signed the manifest, the keys that its maker trusted are trusted as well."""
    manifest, place = export.manifest, export.directory / MANIFEST
    half = public_key(manifest.get("public_key"))
    signature = manifest.get("signature")
    try:
        signed = signed_manifest(manifest)
    except (ValueError, RecursionError):
        return trust, [Problem(Kind.BAD_EXPORT, f"{place} has no canonical form")]
    if half is None or half[0] != manifest.get("key") or not isinstance(signature, str):
        return trust, [Problem(Kind.BAD_EXPORT, f"{place} is not signed")]
    if not signed_by(half[1], signature, signed):
        return trust, [Problem(Kind.BAD_EXPORT, f"the signature of {place} is not one of the key {half[0]}")]
    body, problems = _keys(export)
    if problems:
        return trust, problems
    try:
        known = from_document(parse(body))
    except NoRecord as error:
        return trust, [Problem(Kind.BAD_EXPORT, f"{export.directory / KEYS} can't be read: {error}")]
    trusted = trust.after([*trust.rotations, *known.rotations])
    if any(half[0] in keys for keys in trusted.pins.values()):
        return trust.joined(known), []
    public = Trust(public={**known.public, half[0]: half[1]}, rotations=known.rotations)
    what = (
        f"the key {half[0]} that signed {place} is neither trusted nor cross-signed by one that is;"
        " compare it with `ansai audit keys list` where the export was made, then give it with --trust"
    )
    return trust.joined(public), [Problem(Kind.UNTRUSTED_KEY, what)]


def _keys(export: Export) -> tuple[bytes, list[Problem]]:
    path = export.directory / KEYS
    body = _read(path)
    return body, _compare(export, KEYS, sha256(body).hexdigest(), len(body))


def _compare(export: Export, name: str, digest: str, size: int) -> list[Problem]:
    files = export.manifest.get("files")
    said = files.get(name) if isinstance(files, dict) else None
    if isinstance(said, dict) and said.get("sha256") == digest and said.get("bytes") == size:
        return []
    return [Problem(Kind.BAD_EXPORT, f"{export.directory / name} is not the file that the manifest was signed for")]


# Lines.


class _Lines:
    """The messages of one file, hashed while they are read; what is no line is a problem."""

    def __init__(self, export: Export, name: str) -> None:
        self._export = export
        self._name = name
        self._stream = StreamName.AUDIT if name == RECORDS else StreamName.CHECKPOINT
        self._bad: list[Problem] = []
        self._digest = sha256()
        self._bytes = 0

    def __iter__(self) -> Iterator[Stored]:
        path = self._export.directory / self._name
        with _open(path) as file:
            number = 0
            while line := file.readline(LONGEST_LINE):
                number += 1
                self._digest.update(line)
                self._bytes += len(line)
                try:
                    yield _message(line, self._stream)
                except (NoRecord, ValueError) as error:
                    what = f"line {number} of {path} is no message: {error}"
                    self._bad.append(Problem(Kind.BAD_EXPORT, what))

    def problems(self) -> list[Problem]:
        """Once all lines are read."""
        return _compare(self._export, self._name, self._digest.hexdigest(), self._bytes) + self._bad[:100]


def _message(line: bytes, stream: StreamName) -> Stored:
    """Raises NoRecord, ValueError."""
    parsed = parse(line)
    sequence, subject, at = (parsed.get(name) for name in ("sequence", "subject", "stored_at"))
    if not isinstance(sequence, int) or not isinstance(subject, str) or not isinstance(at, str):
        raise NoRecord("it lacks sequence, subject or stored_at")
    body, encoded = parsed.get("body"), parsed.get("body_base64")
    if isinstance(body, str):
        raw = body.encode("utf-8")
    elif isinstance(encoded, str):
        raw = base64.b64decode(encoded, validate=True)
    else:
        raise NoRecord("it has no body")
    return Stored(stream, sequence, subject, raw, datetime.fromisoformat(at))


def _read_checkpoints(export: Export, verifier: Verifier) -> list[Problem]:
    lines = _Lines(export, CHECKPOINTS)
    for stored in lines:
        verifier.checkpoint(stored)
    return lines.problems()


def _claims(exports: Sequence[Export]) -> list[Claim]:
    """What the tombstones in them say; looked for beforehand, since they stand behind the chains they speak of."""
    found: list[Claim] = []
    for export in exports:
        for stored in _Lines(export, RECORDS):
            if ".operator.archive." in stored.subject:
                found += claims_in(stored)
    return found


def _open(path: Path) -> IO[bytes]:
    try:
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb", 1 << 18)
    except OSError as error:
        raise NoExport(f"{path} can't be read: {error.strerror}; is this the directory of an export?") from error


def _read(path: Path) -> bytes:
    with _open(path) as file:
        try:
            return file.read(256 * 2**20)
        except OSError as error:
            raise NoExport(f"{path} can't be read: {error.strerror}") from error
