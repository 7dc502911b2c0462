"""One chain while its segments pass by: does each go on where the one before ended? Pure, in bounded memory."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from infra.audit.findings import Kind, Problem
from infra.audit.form import record_hash
from infra.audit.reading import SegmentSeen

REMEMBERED = 256
"""Segments of a chain by which a repeated one is told from a forged one."""

Begins = Mapping[int, str]
"""Number of the last record that was taken away before the chain's first one → its hash."""


@dataclass
class Gap:
    """Records that are missing until segments that fill it come behind their time."""

    first: int
    last: int
    before: str
    """hash of the record before the first missing one"""
    after: str
    """hash of the last missing one, as the record behind it says"""
    problem: Problem
    late: list[SegmentSeen] = field(default_factory=list)

    def settled(self) -> Problem:
        """What it was: the records came behind their time, some are missing, or others stand in their place."""
        if not self.late:
            return self.problem
        parts = sorted(self.late, key=lambda part: part.first)
        sequence, previous = self.first, self.before
        for part in parts:
            if part.first == sequence and part.previous != previous:
                return self._as(Kind.FORKED, f"records {part.first} to {part.last} came late and belong to no chain")
            if part.first != sequence:
                return self._as(Kind.DROPPED, f"records {sequence} to {part.first - 1} are missing")
            sequence, previous = part.last + 1, part.head
        if sequence <= self.last:
            return self._as(Kind.DROPPED, f"records {sequence} to {self.last} are missing")
        if previous != self.after:
            return self._as(Kind.FORKED, f"records {self.first} to {self.last} are others than those that belong there")
        return self._as(Kind.OUT_OF_ORDER, f"records {self.first} to {self.last} stand behind record {self.last + 1}")

    def _as(self, kind: Kind, text: str) -> Problem:
        found = self.problem
        return Problem(kind, text, found.chain, found.sequence, found.stream_sequence)


class ChainSeen:
    """What is known of a chain so far."""

    def __init__(self, begin: SegmentSeen, begins: Begins, wanted: frozenset[int]) -> None:
        self.begin = begin
        self.next = begin.first
        self.head = begin.previous
        self.at = begin.at
        self.ended = False
        self.keys: dict[str, None] = {}
        self.last_stream_sequence = begin.stream_sequence
        self.seen: dict[int, str] = {}
        """hashes of the records that somebody else vouches for"""
        self.recent: OrderedDict[int, str] = OrderedDict()
        """number of a segment's last record → its hash, of the latest ones"""
        self.claim: int | None = None
        """the record after which it begins here, when somebody said so"""
        self.gaps: list[Gap] = []
        self._begins = begins
        self._wanted = wanted

    def start(self) -> Problem | None:
        """Whether the chain may begin with its first segment."""
        begin = self.begin
        if begin.first == 1:
            return (
                None if begin.previous == "" else self._problem(begin, Kind.HEAD_MISSING, 1, "it names one before it")
            )
        if self._begins.get(begin.first - 1) == begin.previous:
            self.claim = begin.first - 1
            return None
        known = {number: hash_ for number, hash_ in self._begins.items() if number < begin.first}
        if known and max(known) < begin.first - 1:
            text = f"records {max(known) + 1} to {begin.first - 1} are missing"
            return self._problem(begin, Kind.DROPPED, max(known) + 1, text)
        if known:
            text = f"record {begin.first - 1}, which was archived, had another hash than record {begin.first} names"
            return self._problem(begin, Kind.FORKED, begin.first, text)
        text = f"records 1 to {begin.first - 1} are missing, and no tombstone says where they went"
        return self._problem(begin, Kind.HEAD_MISSING, 1, text)

    def take(self, segment: SegmentSeen) -> Problem | None:
        """Go on with *segment*. What is wrong is told once, and the chain goes on behind it."""
        self.keys.setdefault(segment.key)
        hashes, problem = walk(segment)
        if segment.first < self.next:
            return problem or self._again(segment)
        if segment.first > self.next:
            self._missing(segment)
        elif segment.previous != self.head and problem is None:
            text = f"it names {segment.previous[:12]}… as the hash of the record before it, which has {self.head[:12]}…"
            problem = self._problem(segment, Kind.FORKED, segment.first, text)
        self._go_on(segment, hashes)
        return problem

    def _go_on(self, segment: SegmentSeen, hashes: list[str]) -> None:
        for number in range(segment.first, segment.last + 1):
            if number in self._wanted:
                self.seen[number] = hashes[number - segment.first]
        self.next, self.head, self.at = segment.last + 1, segment.head, segment.at
        self.last_stream_sequence = segment.stream_sequence
        for record in segment.records:
            if record.get("step") != "key_changed":  # the last checkpoint may still go over to another key
                self.ended = record.get("step") == "ended"
        self.recent[segment.last] = segment.head
        if len(self.recent) > REMEMBERED:
            self.recent.popitem(last=False)

    def _missing(self, segment: SegmentSeen) -> None:
        text = f"records {self.next} to {segment.first - 1} are missing"
        problem = self._problem(segment, Kind.DROPPED, self.next, text)
        self.gaps.append(Gap(self.next, segment.first - 1, self.head, segment.previous, problem))

    def _again(self, segment: SegmentSeen) -> Problem | None:
        """A segment whose numbers are behind us already."""
        for gap in self.gaps:
            if gap.first <= segment.first and segment.last <= gap.last:
                if all(segment.last < part.first or part.last < segment.first for part in gap.late):
                    gap.late.append(segment)
                    return None
                break
        span = f"records {segment.first} to {segment.last}"
        if self.recent.get(segment.last) == segment.head or any(
            part.head == segment.head for gap in self.gaps for part in gap.late
        ):
            return self._problem(segment, Kind.DUPLICATED, segment.first, f"{span} are there twice")
        differ = ", and differ from the first" if segment.last in self.recent else ""
        text = f"{span} are there a second time{differ}"
        return self._problem(segment, Kind.FORKED, segment.first, text)

    def _problem(self, segment: SegmentSeen, kind: Kind, sequence: int, text: str) -> Problem:
        return Problem(kind, text, segment.chain, sequence, segment.stream_sequence)


def walk(segment: SegmentSeen) -> tuple[list[str], Problem | None]:
    """Hash each record, and compare with what the next one says; the hash of the last one is the segment's head.

    A record that doesn't have the hash that its successor holds is the altered one.
    """
    hashes: list[str] = []
    for position, record in enumerate(segment.records):
        number = segment.first + position
        if record.get("sequence") != number:
            text = f"a record with the number {record.get('sequence')!r} stands in its place"
            return _padded(hashes, segment), _altered(segment, number, text)
        expected = hashes[-1] if hashes else segment.previous
        if record.get("previous") != expected:
            bad = number - 1 if hashes else number
            text = f"record {number} names another hash for the record before it"
            return _padded(hashes, segment), _altered(segment, bad, text)
        try:
            hashes.append(record_hash(record))
        except (ValueError, RecursionError) as error:
            return _padded(hashes, segment), _altered(segment, number, f"it has no canonical form: {error}")
    if hashes[-1] != segment.head:
        text = f"it hashes to {hashes[-1][:12]}…, its segment was signed for {segment.head[:12]}…"
        return _padded(hashes, segment), _altered(segment, segment.last, text)
    return hashes, None


def _padded(hashes: list[str], segment: SegmentSeen) -> list[str]:
    return hashes + [""] * (len(segment.records) - len(hashes))


def _altered(segment: SegmentSeen, sequence: int, text: str) -> Problem:
    return Problem(Kind.ALTERED, text, segment.chain, sequence, segment.stream_sequence)
