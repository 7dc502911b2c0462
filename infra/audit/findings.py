"""What a verification found: problems, notes, the chains, and the verdict."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What is wrong, from what a single message shows to what only the whole shows."""

    NOT_A_RECORD = "not_a_record"
    """something else is stored in the trail"""
    ALTERED = "altered"
    """a record's bytes are not those that were hashed"""
    BAD_SIGNATURE = "bad_signature"
    UNKNOWN_KEY = "unknown_key"
    """the public half of the signing key is nowhere to be found"""
    UNTRUSTED_KEY = "untrusted_key"
    """signed by a key that is neither trusted nor cross-signed by a trusted one"""
    BAD_ROTATION = "bad_rotation"
    """a change of keys that its two keys did not both sign"""
    DROPPED = "dropped"
    """records or segments are missing in the middle of a chain"""
    HEAD_MISSING = "head_missing"
    """a chain begins in the middle, and no tombstone says where its beginning went"""
    OUT_OF_ORDER = "out_of_order"
    DUPLICATED = "duplicated"
    FORKED = "forked"
    """two records of one chain have the same number"""
    CUT_TAIL = "cut_tail"
    """somebody else knows of later records of the chain"""
    ROLLED_BACK = "rolled_back"
    """the trail as a whole ends before what others know of it"""
    MISSING_MESSAGE = "missing_message"
    """the stream's own numbers have a hole"""
    DISCONTINUITY = "discontinuity"
    """the writer itself says that what it remembers is not in the stream"""
    BAD_CHECKPOINT = "bad_checkpoint"
    BAD_EXPORT = "bad_export"
    """a file of the export is not the one that its manifest was signed for"""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, with the record where it shows."""

    kind: Kind
    text: str
    chain: str = ""
    sequence: int | None = None
    """of the record, within its chain"""
    stream_sequence: int | None = None
    """of the message, within the trail"""

    @property
    def emitter(self) -> str:
        return self.chain.rpartition(".")[2]

    @property
    def place(self) -> str:
        """`record 12 of disk.free_space on web-1 (3f9c2a7be01d), message #17`, as far as it is known."""
        parts = self.chain.split(".")
        of = f"{'.'.join(parts[1:-1])} on {parts[0]} ({self.emitter})" if len(parts) > 2 else self.chain
        named = [f"record {self.sequence}" if self.sequence is not None else "", f"of {of}" if of else ""]
        message = f"message #{self.stream_sequence}" if self.stream_sequence is not None else ""
        return ", ".join(part for part in (" ".join(filter(None, named)), message) if part) or "the whole"

    def document(self) -> dict[str, Any]:
        return {
            "kind": self.kind.value, "chain": self.chain, "emitter": self.emitter, "sequence": self.sequence,
            "stream_sequence": self.stream_sequence, "text": self.text,
        }  # fmt: skip


@dataclass(frozen=True)
class ChainFound:
    """One chain, as far as the trail holds it."""

    name: str
    host: str
    function: str
    emitter: str
    first: int
    last: int
    head: str
    began_at: str
    ended_at: str
    ended: bool
    """its process stopped in order"""
    keys: tuple[str, ...]
    last_stream_sequence: int
    ok: bool

    @property
    def records(self) -> int:
        return self.last - self.first + 1

    def document(self) -> dict[str, Any]:
        return {
            "chain": self.name, "host": self.host, "function": self.function, "emitter": self.emitter,
            "first": self.first, "last": self.last, "head": self.head, "began_at": self.began_at,
            "ended_at": self.ended_at, "ended": self.ended, "keys": list(self.keys), "ok": self.ok,
        }  # fmt: skip


@dataclass(frozen=True)
class Verification:
    """The whole answer. Problems are in the order of the trail: the first is the first bad record."""

    chains: tuple[ChainFound, ...]
    messages: int
    records: int
    checkpoints: int
    first_sequence: int
    last_sequence: int
    first_at: str
    last_at: str
    problems: tuple[Problem, ...]
    more_problems: int
    """beyond those that are listed"""
    notes: tuple[str, ...]
    keys: tuple[tuple[str, str], ...]
    """host and fingerprint of each trusted key that signed something here"""
    public: Mapping[str, bytes]
    """fingerprint → raw public half, of every key that signed something here"""
    rotations: tuple[Mapping[str, Any], ...]
    """those that were found in it"""

    @property
    def ok(self) -> bool:
        return not self.problems

    def document(self) -> dict[str, Any]:
        return {
            "ok": self.ok, "messages": self.messages, "records": self.records, "checkpoints": self.checkpoints,
            "first_sequence": self.first_sequence, "last_sequence": self.last_sequence, "first_at": self.first_at,
            "last_at": self.last_at, "problems": [problem.document() for problem in self.problems],
            "more_problems": self.more_problems, "notes": list(self.notes),
            "keys": [{"host": host, "fingerprint": key} for host, key in self.keys],
            "chains": [chain.document() for chain in self.chains],
        }  # fmt: skip
