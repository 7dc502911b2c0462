"""From records to one signed message of the trail, as bytes. Pure."""

import json
from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True)
class Document:
    """A record but for its place in the chain, which is given when its segment is made."""

    at: datetime
    correlation: str
    parts: tuple[bytes, bytes, bytes]
    """its canonical JSON before, between and after what tells the place"""

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(map(len, self.parts))

    def placed(self, sequence: int, previous: str) -> bytes:
        """The whole record, in its canonical form."""
        before, between, after = self.parts
        return b'%b"previous":"%b"%b,"sequence":%d%b' % (before, previous.encode(), between, sequence, after)


def document(chain: Chain, at: datetime, **fields: Any) -> Document:
    """Raises NotStored for what JSON can't hold, ValidationError for fields that make no record."""
    fields = {"host": chain.host, "function": chain.function, **fields}
    record = AuditRecord(emitter=chain.emitter, sequence=1, at=at, **fields)
    try:
        # Read back, what has its default is there again.
        parsed = record.model_dump(mode="json", exclude_defaults=True, exclude={"sequence", "previous"})
        return Document(at, record.correlation, _around_place(parsed))
    except (PydanticSerializationError, ValueError) as error:
        reason = " ".join(str(error).split())[:500]
        raise NotStored(f"the audit record {record.step!s} of {chain.function} can't be written: {reason}") from error


def _around_place(record: Mapping[str, Any]) -> tuple[bytes, bytes, bytes]:
    """Canonical JSON in three parts, between which the keys `previous` and `sequence` stand. Raises ValueError."""
    before = {key: value for key, value in record.items() if key < "previous"}
    between = {key: value for key, value in record.items() if "previous" < key < "sequence"}
    after = {key: value for key, value in record.items() if key > "sequence"}
    texts = [form.canonical(part)[1:-1] for part in (before, between, after)]
    for text in texts:
        text.decode()  # what is no UTF-8, a lone half of a character, is no JSON for others
    return (
        b"{" + texts[0] + b"," if texts[0] else b"{",
        b"," + texts[1] if texts[1] else b"",
        b"," + texts[2] + b"}" if texts[2] else b"}",
    )


def segment(
    chain: Chain, before: Position, documents: Sequence[Document], signer: Signer, at: datetime,
    successor: Signer | None = None,
) -> Segment:  # fmt: skip
    """*documents* in their places after *before*, under one signature. *successor* signs the next, if another does."""
    sequence, head, records = before.sequence, before.head, []
    for each in documents:
        sequence += 1
        record = each.placed(sequence, head)
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
    correlation = next((each.correlation for each in documents if each.correlation), "")
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
