"""One message of the trail or of the checkpoints, read strictly from its bytes. Pure.

Nothing here goes through a model: a verifier must see what was stored, also the fields that it doesn't know, and two
readers must not be able to see different things in the same bytes. So duplicate keys, NaN and infinities, and anything
but UTF-8 make a message no record.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bus import subjects
from bus.port import Stored
from infra.audit.form import fingerprint, signed_checkpoint, signed_segment

SEGMENT_TYPE = "ansai.audit.v1"
CHECKPOINT_TYPE = "ansai.checkpoint.v1"
MOST_NUMBER = 2**53
"""Sequence numbers stay below: JSON of other languages knows no greater integers."""


class NoRecord(ValueError):
    """The message is none of the trail; the text says why, for the operator."""


@dataclass(frozen=True)
class SegmentSeen:
    """A message of the trail as it was stored."""

    chain: str
    """the subject without `ansai.audit.`: host, function and emitter, which names the chain everywhere"""
    stream_sequence: int
    host: str
    function: str
    emitter: str
    first: int
    last: int
    previous: str
    head: str
    at: str
    key: str
    signature: str
    records: tuple[Mapping[str, Any], ...]
    signed: bytes
    """what the signature covers"""


@dataclass(frozen=True)
class CheckpointSeen:
    """A checkpoint as it was stored."""

    chain: str
    stream_sequence: int
    host: str
    sequence: int
    head: str
    at: str
    key: str
    signature: str
    signed: bytes


def parse(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises NoRecord for anything else, and for what two parsers could read differently."""
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise NoRecord(f"it is no UTF-8: {error.reason} at byte {error.start}") from error
    except RecursionError:
        raise NoRecord("it is nested too deeply") from None
    except NoRecord:
        raise
    except ValueError as error:
        raise NoRecord(f"it is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise NoRecord(f"it is no JSON object but {type(value).__name__}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NoRecord("a JSON object in it has a key twice")
    return found


def _no_number(name: str) -> None:
    raise NoRecord(f"{name} is no JSON number")


def segment(stored: Stored) -> SegmentSeen:
    """Read a message of the trail. Raises NoRecord."""
    data = _data(stored, SEGMENT_TYPE)
    chain = chain_of(stored.subject)
    records = data.get("records")
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise NoRecord("it holds no records")
    first, last = number(data, "first"), number(data, "last")
    if last - first + 1 != len(records):
        raise NoRecord(f"it says that it holds the records {first} to {last}, and holds {len(records)}")
    host, function, emitter = _identity(stored, data)
    for record in records:
        other = {name: record.get(name) for name in ("host", "function", "emitter")}
        if other != {"host": host, "function": function, "emitter": emitter}:
            raise NoRecord(f"a record in it is one of {' '.join(map(str, other.values()))}, not of this chain")
    return SegmentSeen(
        chain, stored.sequence, host, function, emitter, first, last, text(data, "previous"), text(data, "head"),
        text(data, "at"), text(data, "key"), text(data, "signature"), tuple(records), _signed(signed_segment, data),
    )  # fmt: skip


def checkpoint(stored: Stored) -> CheckpointSeen:
    """Read a message of the checkpoints. Raises NoRecord."""
    data = _data(stored, CHECKPOINT_TYPE)
    chain = chain_of(stored.subject)
    host, _, _ = _identity(stored, data)
    return CheckpointSeen(
        chain, stored.sequence, host, number(data, "sequence"), text(data, "head"), text(data, "at"),
        text(data, "key"), text(data, "signature"), _signed(signed_checkpoint, data),
    )  # fmt: skip


def chain_of(subject: str) -> str:
    """The chain's name: the subject without its first two tokens. Raises NoRecord."""
    try:
        parsed = subjects.parse(subject)
    except subjects.BadSubject as error:
        raise NoRecord(str(error)) from error
    if parsed.kind not in {"audit", "checkpoint"}:
        raise NoRecord(f"{subject!r} is no subject of the trail")
    return subject.split(".", 2)[2]


def chain_name(host: str, function: str, emitter: str) -> str:
    """The chain's name from its parts. Raises NoRecord."""
    try:
        return chain_of(subjects.audit(host, function, emitter))
    except subjects.BadSubject as error:
        raise NoRecord(str(error)) from error


def _data(stored: Stored, kind: str) -> dict[str, Any]:
    event = parse(stored.body)
    if event.get("type") != kind:
        raise NoRecord(f"its type is {str(event.get('type'))[:100]!r}, not {kind}")
    data = event.get("data")
    if not isinstance(data, dict):
        raise NoRecord("it has no data")
    _compare(event, data)
    return data


def _compare(event: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """The envelope isn't signed; what it repeats of the data must be the same. Raises NoRecord."""
    expected = {"source": f"/hosts/{data.get('host')}/functions/{data.get('function')}", "time": data.get("at")}
    records = data.get("records")
    for record in records if isinstance(records, list) else ():
        if isinstance(record, dict) and record.get("correlation"):
            expected["correlationid"] = record["correlation"]
            break
    for name, value in expected.items():
        if event.get(name) != value:
            raise NoRecord(f"{name} of its envelope is not that of its data")


def _identity(stored: Stored, data: Mapping[str, Any]) -> tuple[str, str, str]:
    host, function, emitter = (text(data, name) for name in ("host", "function", "emitter"))
    if chain_name(host, function, emitter) != chain_of(stored.subject):
        raise NoRecord(f"it is one of {host} {function} {emitter}, which is not what its subject says")
    return host, function, emitter


def _signed(cover: Any, data: Mapping[str, Any]) -> bytes:
    try:
        signed: bytes = cover(data)
    except (ValueError, RecursionError) as error:
        raise NoRecord(f"it has no canonical form: {error}") from error
    return signed


def text(data: Mapping[str, Any], name: str) -> str:
    """The string under *name*. Raises NoRecord."""
    value = data.get(name)
    if not isinstance(value, str):
        raise NoRecord(f"{name} is {'missing' if value is None else 'no text'}")
    return value


def number(data: Mapping[str, Any], name: str) -> int:
    """The positive integer under *name*. Raises NoRecord."""
    value = data.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < MOST_NUMBER:
        raise NoRecord(f"{name} is {'missing' if value is None else 'no number from 1 on'}")
    return value


def public_key(value: object) -> tuple[str, bytes] | None:
    """Fingerprint and raw bytes of an Ed25519 public key in hexadecimal; None for anything else."""
    if not isinstance(value, str) or len(value) != 64:
        return None
    try:
        raw = bytes.fromhex(value)
    except ValueError:
        return None
    return (fingerprint(raw), raw) if len(raw) == 32 else None


def signed_by(public: bytes, signature: str, signed: bytes) -> bool:
    """Whether *signature*, in hexadecimal, is that of the key over *signed*."""
    from cryptography.exceptions import InvalidSignature

    if signature != signature.lower():  # one spelling only, so that no byte of a message can change unseen
        return False
    try:
        _key(public).verify(bytes.fromhex(signature), signed)
    except (InvalidSignature, ValueError):
        return False
    return True


@lru_cache(maxsize=256)
def _key(public: bytes) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(public)
