"""Real chains with real keys, held in memory: the source of trails to corrupt."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bus import subjects
from bus.port import Stored, StreamName
from infra.audit import form
from infra.audit.findings import Verification
from infra.audit.keys import Keyring, Signer
from infra.audit.reading import chain_name
from infra.audit.segments import Chain, Position, document, envelope, segment
from infra.audit.tombstones import claims_in
from infra.audit.trust import Trust
from infra.audit.verification import Anchor, Verifier
from schemas.audit import Step
from schemas.remediation import Gap, Mode

HOST = "web-1"
FUNCTION = "disk.free_space"
BEGAN = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


class Writer:
    """One chain: what it writes goes to the end of the trail."""

    def __init__(
        self, trail: "Trail", emitter: str, signer: Signer, function: str = FUNCTION, host: str = HOST
    ) -> None:
        self.chain = Chain(host, function, emitter, "boot-1")
        self.name = chain_name(host, function, emitter)
        self.position = Position()
        self.signer = signer
        self._trail = trail

    def begin(self, after: "Writer | None" = None) -> "Writer":
        data: dict[str, Any] = {"key": self.signer.public.hex(), "boot": "boot-1", "pid": 1, "version": "1"}
        if after is not None:
            data["previous_chain"] = {
                "emitter": after.chain.emitter, "sequence": after.position.sequence, "head": after.position.head,
            }  # fmt: skip
        self.write((Step.BEGAN, {"data": data}))
        return self

    def write(self, *records: tuple[Step, dict[str, Any]] | Step) -> Stored:
        """One segment."""
        at = self._trail.now()
        documents = []
        for each in records:
            step, fields = each if isinstance(each, tuple) else (each, {})
            fields = {"target": "bytes:/var/ü", "correlation": "c1", **fields}
            documents.append(
                document(
                    self.chain, at, step=step, mode=Mode.AUTO, host=self.chain.host, function=self.chain.function,
                    gap=Gap(amount=12.5, unit="bytes"), **fields,
                )
            )  # fmt: skip
        made = segment(self.chain, self.position, documents, self.signer, at)
        self.position = made.after
        subject = subjects.audit(self.chain.host, self.chain.function, self.chain.emitter)
        return self._trail.store(subject, made.body)

    def checkpoint(self) -> Stored:
        at = self._trail.now()
        data = {
            "emitter": self.chain.emitter, "host": self.chain.host, "function": self.chain.function,
            "sequence": self.position.sequence, "head": self.position.head,
            "at": at.isoformat().replace("+00:00", "Z"), "key": self.signer.fingerprint,
        }  # fmt: skip
        data["signature"] = self.signer.sign(form.signed_checkpoint(data)).hex()
        body = envelope("ansai.checkpoint.v1", self.chain, at, "c1", form.canonical(data))
        subject = subjects.checkpoint(self.chain.host, self.chain.function, self.chain.emitter)
        return self._trail.store_checkpoint(subject, body)

    def anchor(self) -> Anchor:
        """What this machine remembers of the chain."""
        return Anchor(self.name, self.position.sequence, self.position.head, "this machine", local=True)


class Trail:
    """The messages of AUDIT and CHECKPOINT as a server would hold them."""

    def __init__(self, state: Path) -> None:
        self.keyring = Keyring(state / "keys")
        self.messages: list[Stored] = []
        self.checkpoints: list[Stored] = []
        self._moment = BEGAN
        self._sequence = 0

    def now(self) -> datetime:
        self._moment += timedelta(seconds=1)
        return self._moment

    def writer(self, emitter: str, **options: Any) -> Writer:
        return Writer(self, emitter, options.pop("signer", None) or self.keyring.current(), **options)

    def store(self, subject: str, body: bytes) -> Stored:
        self._sequence += 1
        self.messages.append(Stored(StreamName.AUDIT, self._sequence, subject, body, self._moment))
        return self.messages[-1]

    def store_checkpoint(self, subject: str, body: bytes) -> Stored:
        number = len(self.checkpoints) + 1
        self.checkpoints.append(Stored(StreamName.CHECKPOINT, number, subject, body, self._moment))
        return self.checkpoints[-1]

    @property
    def trust(self) -> Trust:
        """As of a verifier that has met the first key of the host."""
        public = self.keyring.public_keys()
        return Trust({HOST: frozenset(public)}, public)

    def verify(self, messages: list[Stored] | None = None, trust: Trust | None = None, **options: Any) -> Verification:
        """Verify these messages, by default all."""
        taken = self.messages if messages is None else messages
        claims = [claim for message in taken for claim in claims_in(message)]
        verifier = Verifier(self.trust if trust is None else trust, claims=claims, **options)
        for stored in self.checkpoints:
            verifier.checkpoint(stored)
        for stored in taken:
            verifier.message(stored)
        return verifier.result()


def renumbered(messages: list[Stored]) -> list[Stored]:
    """As a server would number them, if somebody had stored just these."""
    return [replace(message, sequence=number) for number, message in enumerate(messages, 1)]


def edited(stored: Stored, change: Callable[[dict[str, Any]], object]) -> Stored:
    """The message with its event changed by somebody who has no key."""
    event = json.loads(stored.body)
    change(event)
    return replace(stored, body=json.dumps(event).encode())


def resealed(stored: Stored, change: Callable[[dict[str, Any]], object], signer: Signer) -> Stored:
    """The message changed by somebody who hashes and signs anew."""
    event = json.loads(stored.body)
    data = event["data"]
    change(event)
    previous = data["previous"]
    for record in data["records"]:
        record["previous"] = previous
        previous = form.record_hash(record)
    data |= {"head": previous, "key": signer.fingerprint}
    data["signature"] = signer.sign(form.signed_segment(data)).hex()
    return replace(stored, body=json.dumps(event).encode())
