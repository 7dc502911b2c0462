"""The form of the trail: canonical JSON, hashes, and what exactly is signed. Pure; for writers and verifiers alike.

Canonical JSON has sorted keys, no white space, UTF-8 without escapes that JSON doesn't demand, and each number in the
shortest form that reads back the same. It is made from parsed JSON, never from a model, so that a verifier of another
version, which knows other fields, gets the same bytes.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

SEGMENT = b"ansai.audit.segment.v1\n"
CHECKPOINT = b"ansai.audit.checkpoint.v1\n"
MANIFEST = b"ansai.audit.manifest.v1\n"
ROTATION = b"ansai.audit.rotation.v1\n"
"""What a signature is for goes before what is signed, so that none can stand for another."""

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def canonical(value: Mapping[str, Any]) -> bytes:
    """*value*, parsed JSON, as canonical bytes. Raises ValueError for NaN and infinities."""
    return _encode(value).encode("utf-8", "surrogatepass")


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def record_hash(record: Mapping[str, Any]) -> str:
    """Of a parsed record; `previous` in it chains it to the one before."""
    return digest(canonical(record))


def signed_segment(segment: Mapping[str, Any]) -> bytes:
    """What the signature of a parsed segment covers: all but its records, which `head` stands for."""
    return SEGMENT + canonical({key: value for key, value in segment.items() if key not in {"records", "signature"}})


def signed_checkpoint(checkpoint: Mapping[str, Any]) -> bytes:
    return CHECKPOINT + canonical({key: value for key, value in checkpoint.items() if key != "signature"})


def signed_manifest(manifest: Mapping[str, Any]) -> bytes:
    return MANIFEST + canonical({key: value for key, value in manifest.items() if key != "signature"})


def signed_rotation(rotation: Mapping[str, Any]) -> bytes:
    """Of the document that hands a chain over: `old`, `new` (public keys in hexadecimal), `at`; both keys sign this."""
    return ROTATION + canonical({key: value for key, value in rotation.items() if not key.startswith("signature")})


def fingerprint(public_key: bytes) -> str:
    """Of the raw 32 bytes of an Ed25519 public key."""
    return digest(public_key)
