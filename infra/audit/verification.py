"""Is the trail whole, in order, and by whom it says? Pure over what was stored; the same online and from an export.

Feed a `Verifier` with the checkpoints and what tombstones say, then with every message in the order of the stream, then
ask for the `result`. It holds what it needs of each chain, never the records.

What shows what: the hash chain and the signatures show flipped bytes, dropped, swapped and doubled records within what
is there. A chain alone doesn't show that its end was cut; signed checkpoints, the beginning of a later chain of the
same function, tombstones, and what the machine itself remembers do.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bus.port import Stored
from infra.audit.chains import ChainSeen
from infra.audit.findings import ChainFound, Kind, Problem, Verification
from infra.audit.reading import (
    CheckpointSeen,
    NoRecord,
    SegmentSeen,
    chain_name,
    chain_of,
    checkpoint,
    public_key,
    segment,
    signed_by,
)
from infra.audit.tombstones import Claim, claims_of
from infra.audit.trust import Trust, trusted_with

LISTED = 1_000
"""Problems that are kept; the rest are counted."""


@dataclass(frozen=True)
class Anchor:
    """What somebody outside of a chain knows about it: record *sequence* has the hash *head*."""

    chain: str
    sequence: int
    head: str
    source: str
    """for the operator: `a checkpoint`, `the beginning of the next chain`, `this machine`"""
    at: str = ""
    local: bool = False
    """remembered outside of the bus, so a bus that was rolled back as a whole can't have changed it"""
    stream_sequence: int | None = None


class Verifier:
    """One verification.

    *begins*: chain → number of its last record that isn't part of what is verified → its hash, for what an export or an
    archive leaves out. *claims*: what tombstones say, to be confirmed by the tombstones themselves when they pass by.
    *whole*: every message of the stream from the first one on is fed, so a hole in its numbers is a problem.
    """

    def __init__(
        self, trust: Trust, *, begins: Mapping[str, tuple[int, str]] | None = None, claims: Iterable[Claim] = (),
        anchors: Iterable[Anchor] = (), whole: bool = True,
    ) -> None:  # fmt: skip
        self._trust = trust
        self._public: dict[str, bytes] = dict(trust.public)
        self._whole = whole
        self._claims = list(claims)
        self._confirmed: set[int] = set()
        """stream sequences of tombstones that were read and signed"""
        self._begins: dict[str, dict[int, str]] = {}
        for name, (sequence, head) in (begins or {}).items():
            self._begins.setdefault(name, {})[sequence] = head
        self._granted = {name: frozenset(known) for name, known in self._begins.items()}
        for claim in self._claims:
            self._public |= claim.public
            for name, (sequence, head) in claim.chains.items():
                self._begins.setdefault(name, {}).setdefault(sequence, head)
        self._anchors = list(anchors)
        self._checkpoints: list[CheckpointSeen] = []
        self._wanted: dict[str, set[int]] = {}
        """chain → numbers of the records that somebody vouches for"""
        for anchor in self._anchors:
            self._wanted.setdefault(anchor.chain, set()).add(anchor.sequence)
        self._chains: dict[str, ChainSeen] = {}
        self._broken: set[str] = set()
        self._signers: dict[tuple[str, str], Problem] = {}
        """host and key → where it signed first, as the problem that it is when the key is not trusted"""
        self._rotations: list[Mapping[str, Any]] = list(trust.rotations)
        self._holes: list[Problem] = []
        self._problems: list[Problem] = []
        self._more = 0
        self._notes: list[str] = []
        self._messages = self._records = 0
        self._first_sequence = self._last_sequence = 0
        self._first_at = self._last_at = ""

    # Feeding.

    def checkpoint(self, stored: Stored) -> None:
        """All of them come before the first message."""
        try:
            seen = checkpoint(stored)
        except NoRecord as error:
            self._problem(Problem(Kind.BAD_CHECKPOINT, f"#{stored.sequence} of the checkpoints is none: {error}"))
            return
        self._checkpoints.append(seen)
        self._wanted.setdefault(seen.chain, set()).add(seen.sequence)

    def message(self, stored: Stored) -> None:
        """The next one of the stream."""
        self._messages += 1
        self._count(stored)
        try:
            taken = segment(stored)
        except NoRecord as error:
            self._problem(Problem(Kind.NOT_A_RECORD, str(error), _chain(stored), None, stored.sequence))
            return
        self._records += len(taken.records)
        self._learn_keys(taken)
        chain = self._chains.get(taken.chain)
        found: list[Problem | None] = []
        if chain is None:
            chain = self._chains[taken.chain] = self._begin(taken)
            found.append(chain.start())
        found += [chain.take(taken), self._signature(taken)]
        problems = [problem for problem in found if problem is not None]
        if problems:
            self._problem(problems[0])  # one message, one problem: the others follow from it
        else:
            self._believe(taken)

    def _count(self, stored: Stored) -> None:
        last = self._last_sequence
        if not self._first_sequence:
            self._first_sequence, self._first_at = stored.sequence, stored.stored_at.isoformat()
        elif stored.sequence <= last:
            what = f"message #{stored.sequence} stands behind message #{last}"
            kind = Kind.DUPLICATED if stored.sequence == last else Kind.OUT_OF_ORDER
            self._problem(Problem(kind, what, _chain(stored), None, stored.sequence))
        elif stored.sequence > last + 1 and self._whole:
            what = f"messages #{last + 1} to #{stored.sequence - 1} are missing from the stream"
            self._holes.append(Problem(Kind.MISSING_MESSAGE, what, stream_sequence=last + 1))
        self._last_sequence, self._last_at = max(last, stored.sequence), stored.stored_at.isoformat()

    def _begin(self, taken: SegmentSeen) -> ChainSeen:
        begins = self._begins.get(taken.chain, {})
        return ChainSeen(taken, begins, frozenset(self._wanted.get(taken.chain, set()) | set(begins)))

    def _learn_keys(self, taken: SegmentSeen) -> None:
        """Public halves prove themselves by their fingerprint; whether they are trusted is another question."""
        for record in taken.records:
            step, data = record.get("step"), record.get("data")
            if step in {"began", "key_changed", "tombstone"} and isinstance(data, dict):
                for name in ("key", "old", "new"):
                    if (found := public_key(data.get(name))) is not None:
                        self._public.setdefault(*found)

    def _signature(self, taken: SegmentSeen) -> Problem | None:
        public = self._public.get(taken.key)
        place = (taken.chain, taken.first, taken.stream_sequence)
        if public is None:
            text = f"the public half of the key {taken.key[:16]}… that it names is nowhere to be found"
            return Problem(Kind.UNKNOWN_KEY, text, *place)
        if not signed_by(public, taken.signature, taken.signed):
            text = f"the signature of records {taken.first} to {taken.last} is not one of the key {taken.key[:16]}…"
            return Problem(Kind.BAD_SIGNATURE, text, *place)
        self._signers.setdefault(
            (taken.host, taken.key),
            Problem(
                Kind.UNTRUSTED_KEY,
                f"the key {taken.key} that signs for {taken.host} is neither trusted nor cross-signed by one that is",
                *place,
            ),
        )
        return None

    def _believe(self, taken: SegmentSeen) -> None:
        """Take in what signed records say about other records."""
        for record in taken.records:
            data = record.get("data", {})
            if not isinstance(data, dict):
                continue
            sequence = int(record["sequence"])
            match record.get("step"):
                case "began" if isinstance(data.get("previous_chain"), dict):
                    self._follow(taken, record, data["previous_chain"])
                case "key_changed":
                    self._rotate(taken, sequence, data)
                case "tombstone":
                    self._bury(taken, sequence, record)
                case "discontinuity":
                    what = str(record.get("text") or "what its writer remembers is not in the stream")[:500]
                    self._problem(Problem(Kind.DISCONTINUITY, what, taken.chain, sequence, taken.stream_sequence))

    def _follow(self, taken: SegmentSeen, record: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        """The beginning of a chain names the end of the one before it."""
        host = before.get("host", taken.host)
        emitter, sequence, head = before.get("emitter"), before.get("sequence"), before.get("head")
        if not (isinstance(emitter, str) and isinstance(sequence, int) and isinstance(head, str)):
            return
        try:
            name = chain_name(str(host), taken.function, emitter)
        except NoRecord:
            return
        at = str(record.get("at", ""))
        self._anchors.append(
            Anchor(name, sequence, head, "the beginning of the next chain", at, False, taken.stream_sequence)
        )
        earlier = self._chains.get(name)
        if earlier is None:
            return
        if sequence < earlier.next - 1 and (known := earlier.recent.get(sequence)) is not None:
            earlier.seen.setdefault(sequence, known)
        elif sequence == earlier.next - 1:
            earlier.seen.setdefault(sequence, earlier.head)
        if not earlier.ended:
            self._notes.append(
                f"{taken.function} on {taken.host} did not stop in order: nothing was audited between {earlier.at}"
                f" (record {earlier.next - 1} of {emitter}) and {at} ({taken.emitter})"
            )

    def _rotate(self, taken: SegmentSeen, sequence: int, data: Mapping[str, Any]) -> None:
        if trusted_with(data) is None:
            what = "the change of keys is not signed by both of them"
            self._problem(Problem(Kind.BAD_ROTATION, what, taken.chain, sequence, taken.stream_sequence))
        else:
            self._rotations.append(data)

    def _bury(self, taken: SegmentSeen, sequence: int, record: Mapping[str, Any]) -> None:
        claim = claims_of(record, taken)
        if claim is None:
            what = "a tombstone that can't be read"
            self._problem(Problem(Kind.NOT_A_RECORD, what, taken.chain, sequence, taken.stream_sequence))
            return
        self._confirmed.add(taken.stream_sequence)
        self._rotations += claim.rotations
        self._public |= claim.public
        self._notes.append(f"tombstone at message #{taken.stream_sequence}: {claim.text}")
        if all(each.stream_sequence != taken.stream_sequence for each in self._claims):
            self._claims.append(claim)

    # The answer.

    def result(self) -> Verification:
        """Call once, after the last message."""
        for chain in self._chains.values():
            for gap in chain.gaps:
                self._problem(gap.settled())
        self._judge_claims()
        hosts = self._trust.after(self._rotations)
        self._judge_signers(hosts)
        self._judge_anchors([*self._anchors, *self._checked(hosts), *self._claimed()])
        if any(problem.kind is not Kind.UNTRUSTED_KEY for problem in self._problems):
            self._notes += [hole.text for hole in self._holes]  # what is missing is named as records above
        else:
            for hole in self._holes:
                self._problem(hole)
        far = max(self._last_sequence, 0) + 1
        ordered = sorted(self._problems, key=lambda each: (each.stream_sequence or far, each.sequence or 0))
        bad = {problem.chain for problem in ordered}
        return Verification(
            chains=tuple(_found(name, chain, name not in bad) for name, chain in sorted(self._chains.items())),
            messages=self._messages, records=self._records, checkpoints=len(self._checkpoints),
            first_sequence=self._first_sequence, last_sequence=self._last_sequence, first_at=self._first_at,
            last_at=self._last_at, problems=tuple(ordered), more_problems=self._more, notes=tuple(self._notes),
            keys=tuple(sorted(key for key in self._signers if hosts.trusts(*key))),
            public={key: self._public[key] for _, key in self._signers}, rotations=tuple(self._rotations),
        )  # fmt: skip

    def _judge_claims(self) -> None:
        """A chain that begins in the middle on the word of a tombstone needs a tombstone that is there and signed."""
        for name, chain in self._chains.items():
            if chain.claim is None or chain.claim in self._granted.get(name, ()):
                continue
            head = chain.begin.previous
            by = [each for each in self._claims if each.chains.get(name) == (chain.claim, head)]
            if not any(each.stream_sequence in self._confirmed for each in by):
                what = (
                    f"records 1 to {chain.claim} are missing, and the tombstone that says where they went is not valid"
                )
                self._problem(Problem(Kind.HEAD_MISSING, what, name, 1, chain.begin.stream_sequence))

    def _judge_signers(self, hosts: Trust) -> None:
        for (host, key), problem in self._signers.items():
            if not hosts.trusts(host, key):
                self._problem(problem)

    def _checked(self, hosts: Trust) -> list[Anchor]:
        """The checkpoints that may be believed."""
        believed = []
        for each in self._checkpoints:
            public = self._public.get(each.key)
            place = f"#{each.stream_sequence} of the checkpoints, for record {each.sequence},"
            if public is None or not signed_by(public, each.signature, each.signed):
                what = f"{place} is not signed by the key {each.key[:16]}… that it names"
                self._problem(Problem(Kind.BAD_CHECKPOINT, what, each.chain, each.sequence))
            elif not hosts.trusts(each.host, each.key):
                what = f"{place} is signed by {each.key}, which is neither trusted nor cross-signed by one that is"
                self._problem(Problem(Kind.UNTRUSTED_KEY, what, each.chain, each.sequence))
            else:
                believed.append(Anchor(each.chain, each.sequence, each.head, "a checkpoint", each.at))
        return believed

    def _claimed(self) -> list[Anchor]:
        return [
            Anchor(name, sequence, head, "a tombstone", claim.at, False, claim.stream_sequence)
            for claim in self._claims
            if claim.stream_sequence in self._confirmed
            for name, (sequence, head) in claim.chains.items()
        ]

    def _judge_anchors(self, anchors: list[Anchor]) -> None:
        ahead: dict[str, Anchor] = {}
        for anchor in anchors:
            chain = self._chains.get(anchor.chain)
            if self._gone(anchor, chain):
                continue
            if chain is None and any(each.forgotten for each in self._claims):
                self._notes.append(f"{anchor.chain} is known from {anchor.source} only: it may be in an older archive")
            elif chain is None or anchor.sequence >= chain.next:
                best = ahead.get(anchor.chain)
                if best is None or (anchor.local, anchor.sequence) > (best.local, best.sequence):
                    ahead[anchor.chain] = anchor
            elif chain.seen.get(anchor.sequence, anchor.head) not in {anchor.head, ""}:
                self._differs(anchor, chain)
        self._judge_ahead(ahead)

    def _gone(self, anchor: Anchor, chain: ChainSeen | None) -> bool:
        """It speaks of records that somebody took away and vouched for, or that an export leaves out."""
        if chain is not None and anchor.sequence < chain.begin.first:
            return anchor.sequence != chain.begin.first - 1 or anchor.head == chain.begin.previous
        return chain is None and any(number >= anchor.sequence for number in self._buried(anchor.chain))

    def _buried(self, name: str) -> list[int]:
        granted = list(self._granted.get(name, ()))
        claims = [each for each in self._claims if each.stream_sequence in self._confirmed and name in each.chains]
        return granted + [each.chains[name][0] for each in claims]

    def _differs(self, anchor: Anchor, chain: ChainSeen) -> None:
        if anchor.chain in {problem.chain for problem in self._problems}:
            return  # the chain is known to be bad, and where
        what = f"{anchor.source} of {anchor.at} says that record {anchor.sequence} had another hash"
        place = anchor.stream_sequence or chain.last_stream_sequence
        self._problem(Problem(Kind.FORKED, what, anchor.chain, anchor.sequence, place))

    def _judge_ahead(self, ahead: Mapping[str, Anchor]) -> None:
        if not ahead:
            return
        kind = Kind.ROLLED_BACK if self._as_a_whole(ahead.values()) else Kind.CUT_TAIL
        for name, anchor in ahead.items():
            chain = self._chains.get(name)
            last = chain.next - 1 if chain is not None else 0
            there = f"ends with record {last}" if chain is not None else "is not there at all"
            what = (
                f"the chain {there}; {anchor.source} of {anchor.at or 'an unknown time'} knows record {anchor.sequence}"
            )
            place = chain.last_stream_sequence if chain is not None else anchor.stream_sequence
            unread = [each.stream_sequence or 0 for each in self._problems if each.chain == name]
            self._problem(Problem(kind, what, name, last + 1, max(place or 0, *unread, 0) or None))

    def _as_a_whole(self, ahead: Collection[Anchor]) -> bool:
        """One missing tail was cut; when several chains end before all that is known of them, it is an older store.

        What the machine remembers outside of the bus speaks for the latter already for a single chain.
        """
        if any(anchor.local for anchor in ahead):
            return True
        return len(ahead) > 1 and all(_moment(anchor.at) > _moment(self._last_at) for anchor in ahead)

    def _problem(self, problem: Problem) -> None:
        if len(self._problems) < LISTED:
            self._problems.append(problem)
        else:
            self._more += 1


def _moment(text: str) -> datetime:
    """The distant past for what is no time."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _chain(stored: Stored) -> str:
    """As far as the subject says."""
    try:
        return chain_of(stored.subject)
    except NoRecord:
        return ""


def _found(name: str, chain: ChainSeen, ok: bool) -> ChainFound:
    begin = chain.begin
    return ChainFound(
        name, begin.host, begin.function, begin.emitter, begin.first, chain.next - 1, chain.head, begin.at, chain.at,
        chain.ended, tuple(chain.keys), chain.last_stream_sequence, ok,
    )  # fmt: skip
