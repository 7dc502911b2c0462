"""From records to one signed message of the trail, as bytes. Pure."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic_core import PydanticSerializationError

from functions.core.ports import NotStored
from infra.audit import form
from infra.audit.keys import Signer
from schemas.audit import AuditRecord
from schemas.envelope import new_id

TYPE_NAME = "ansai.audit.v1"


@dataclass(frozen=True)
class Chain:
    """Whose chain it is: one function in one process."""

    host: str
    function: str
    emitter: str
    boot: str = ""
    """the machine's boot id; empty where there is none to read"""


@dataclass(frozen=True)
class Position:
    """Where a chain stands: how many records it has, and the hash of the last one."""

    sequence: int = 0
    head: str = ""


@dataclass(frozen=True)
class Segment:
    """A message, and what holds once it is stored: where the chain stands, and who signs the next one."""

    body: bytes
    after: Position
    signer: Signer


class Document(dict[str, Any]):
    """A record as parsed JSON, and how many bytes it has."""

    size = 0


def document(chain: Chain, at: datetime, **fields: Any) -> Document:
    """A record as parsed JSON; its place in the chain is given when its segment is made.

    Raises NotStored for what JSON can't hold, ValidationError for fields that make no record.
    """
    fields = {"host": chain.host, "function": chain.function, **fields}
    record = AuditRecord(emitter=chain.emitter, sequence=1, at=at, **fields)
    try:
        text = record.model_dump_json(exclude_defaults=True)  # read back, what has its default is there again
        if "null" in text:  # perhaps a NaN, which is written so and which not every field reads back
            AuditRecord.model_validate_json(text)
    except (PydanticSerializationError, ValueError) as error:
        reason = " ".join(str(error).split())[:500]
        raise NotStored(f"the audit record {record.step!s} of {chain.function} can't be written: {reason}") from error
    parsed = Document(json.loads(text))
    parsed.size = len(text.encode())
    return parsed


def segment(
    chain: Chain, before: Position, documents: Sequence[dict[str, Any]], signer: Signer, at: datetime,
    successor: Signer | None = None,
) -> Segment:  # fmt: skip
    """*documents* in their places after *before*, under one signature. *successor* signs the next, if another does."""
    sequence, head, records = before.sequence, before.head, []
    for each in documents:
        sequence += 1
        record = form.canonical({**each, "sequence": sequence, "previous": head})
        head = form.digest(record)
        records.append(record)
    covered = {
        "emitter": chain.emitter, "host": chain.host, "function": chain.function, "first": before.sequence + 1,
        "last": sequence, "previous": before.head, "head": head, "at": written(at), "boot": chain.boot,
        "key": signer.fingerprint,
    }  # fmt: skip
    signed = form.signed_segment(covered)
    signature = f',"signature":"{signer.sign(signed).hex()}","records":['
    data = signed[len(form.SEGMENT) : -1] + signature.encode() + b",".join(records) + b"]}"
    correlation = next((found for each in documents if (found := each.get("correlation"))), "")
    return Segment(
        envelope(TYPE_NAME, chain, at, correlation, data), Position(sequence, head), successor or signer
    )  # fmt: skip


def envelope(type_name: str, chain: Chain, at: datetime, correlation: str, data: bytes) -> bytes:
    """A CloudEvent around *data*, which stays as it is, byte for byte."""
    outside = {
        "specversion": "1.0", "id": new_id(), "source": f"/hosts/{chain.host}/functions/{chain.function}",
        "type": type_name, "time": written(at), "datacontenttype": "application/json",
        "correlationid": correlation or new_id(),
    }  # fmt: skip
    return json.dumps(outside).encode()[:-1] + b',"data":' + data + b"}"


def written(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
