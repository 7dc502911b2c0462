"""The streams and buckets as data, and what to do about those a server has already.

A configuration is a mapping in the words of JetStream's own API (durations in nanoseconds, -1 or 0 for no limit),
so that what a newer server or an administrator added to a stream survives our update.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from bus.port import Bucket, Rejected, StreamName
from bus.subjects import matches
from schemas.settings.bus import BusSettings
from schemas.units import show_size

MINIMUM_SERVER = (2, 11)
"""nats-server versions before this lack delete markers for expired keys."""

DUPLICATE_WINDOW = timedelta(minutes=2)
"""A message id is remembered this long: well above the publishing deadline, and what the server itself defaults to."""

_MAX_CONSUMERS = 10_000  # said explicitly: "unlimited" is capped at 1,000 a stream
_MARKER_TTL = timedelta(seconds=60)  # how long a server tells watchers about an expired key
_NO_LIMIT = (-1, 0)


@dataclass(frozen=True)
class StreamSpec:
    """One stream: what it takes and how long it keeps it."""

    name: str
    subjects: tuple[str, ...]
    max_age: timedelta | None = None
    max_messages_per_subject: int | None = None
    max_bytes: int | None = None
    discard_new: bool = False
    deny_delete: bool = False
    direct: bool = False
    delete_markers: bool = False
    duplicate_window: timedelta = DUPLICATE_WINDOW
    replicas: int | None = None
    """None leaves the number to whoever made the stream; a new one gets 1."""

    def configuration(self) -> dict[str, Any]:
        """What a server is asked to create."""
        wanted: dict[str, Any] = {
            "name": self.name,
            "subjects": list(self.subjects),
            "retention": "limits",
            "storage": "file",
            "discard": "new" if self.discard_new else "old",
            "max_age": nanoseconds(self.max_age),
            "max_msgs_per_subject": self.max_messages_per_subject or -1,
            "max_bytes": self.max_bytes or -1,
            "max_msgs": -1,
            "max_consumers": _MAX_CONSUMERS,
            "num_replicas": self.replicas or 1,
            "duplicate_window": nanoseconds(self.duplicate_window),
            "deny_delete": self.deny_delete,
            "allow_direct": self.direct,
        }
        if self.delete_markers:
            wanted |= {
                "allow_rollup_hdrs": True,
                "allow_msg_ttl": True,
                "subject_delete_marker_ttl": nanoseconds(_MARKER_TTL),
            }
        return wanted


def nanoseconds(duration: timedelta | None) -> int:
    return 0 if duration is None else duration // timedelta(microseconds=1) * 1000


def streams(settings: BusSettings) -> dict[StreamName, StreamSpec]:
    """The table of streams."""
    day = timedelta(days=1)
    replicas = settings.replicas

    def stream(name: StreamName, **limits: Any) -> StreamSpec:
        return StreamSpec(name=name.value, subjects=(f"ansai.{name.value.lower()}.>",), replicas=replicas, **limits)

    table = (
        stream(StreamName.HEALTH, max_age=day, max_messages_per_subject=100),
        stream(StreamName.TRIGGER, max_age=timedelta(minutes=10)),
        stream(StreamName.ACTION, max_age=30 * day),
        stream(StreamName.AUDIT, max_bytes=settings.audit_max_size, discard_new=True, deny_delete=True, direct=True),
        stream(StreamName.ALERT, max_age=30 * day),
        stream(StreamName.APPROVAL, max_age=7 * day),
        stream(StreamName.CHECKPOINT, max_messages_per_subject=50, deny_delete=True, direct=True),
        stream(StreamName.DLQ, max_age=30 * day),
    )
    return {StreamName(spec.name): spec for spec in table}


def buckets(settings: BusSettings) -> dict[Bucket, StreamSpec]:
    """The table of key-value buckets, each the stream that holds it."""

    def bucket(name: Bucket, ttl: timedelta | None = None) -> StreamSpec:
        return StreamSpec(
            name=bucket_stream(name),
            subjects=(f"{key_prefix(name)}>",),
            max_age=ttl,
            max_messages_per_subject=1,
            discard_new=True,  # as every KV client expects it: a full bucket refuses, it forgets nothing
            deny_delete=True,
            direct=True,
            delete_markers=ttl is not None,
            duplicate_window=min(ttl, DUPLICATE_WINDOW) if ttl else DUPLICATE_WINDOW,
            replicas=settings.replicas,
        )

    return {
        Bucket.INCIDENTS: bucket(Bucket.INCIDENTS),
        Bucket.LEASES: bucket(Bucket.LEASES, settings.lease_ttl),
        Bucket.PLANS: bucket(Bucket.PLANS, settings.plan_ttl),
        Bucket.FLEET: bucket(Bucket.FLEET),
    }


def bucket_stream(name: Bucket) -> str:
    return f"KV_{name.value}"


def key_prefix(name: Bucket) -> str:
    """What the subjects of a bucket's keys begin with."""
    return f"$KV.{name.value}."


_BY_KIND = {name.value.lower(): name for name in StreamName}


def stream_for(subject: str) -> StreamName | None:
    """The stream that stores *subject*, or None when none does."""
    head, _, rest = subject.partition(".")
    kind, _, tail = rest.partition(".")
    return _BY_KIND.get(kind) if head == "ansai" and tail else None


def stream_of(subject: str) -> StreamName:
    """The stream that stores *subject*. Raises Rejected for one that no stream takes."""
    name = stream_for(subject)
    if name is None:
        raise Rejected(f"{subject!r} is stored by no stream, so it can't be published; what is only told is announced")
    return name


def refuse_unstored(subject: str) -> None:
    """Raise Rejected for a subject that no stream takes."""
    stream_of(subject)


def refuse_pattern(subject: str) -> None:
    """Raise Rejected for a subject that stands for several."""
    if {"*", ">"} & set(subject.split(".")):
        raise Rejected(f"{subject!r} stands for several subjects; name one of them")


def refuse_limit(stream: StreamName, limit: int, held: int) -> None:
    """Raise Rejected for a limit that is none, or that what the stream holds exceeds; sizes in bytes."""
    if limit < 1:
        raise Rejected(f"stream {stream.value} can't be limited to {limit} bytes; name a size above zero")
    if limit < held:
        raise Rejected(
            f"stream {stream.value} holds {held} bytes ({show_size(held)}), more than {limit} ({show_size(limit)});"
            " archive and purge it first, or name a larger limit"
        )


def incompatibility(spec: StreamSpec, existing: Mapping[str, Any]) -> str | None:
    """Why a stream that exists can't serve as *spec*, or None when it can (perhaps after an update)."""
    wanted = spec.configuration()
    for key in ("retention", "storage", "discard"):
        if existing.get(key, "") != wanted[key]:
            return f"its {key} is {existing.get(key)}, not {wanted[key]}"
    foreign = [subject for subject in existing.get("subjects") or () if subject not in spec.subjects]
    if foreign:
        return f"it also takes {', '.join(foreign)}"
    if existing.get("mirror") or existing.get("sealed"):
        return "it is a mirror" if existing.get("mirror") else "it is sealed"
    return None


def update(spec: StreamSpec, existing: Mapping[str, Any]) -> dict[str, Any] | None:
    """The whole configuration that brings *existing* up to *spec*, or None when nothing is missing.

    Limits are only ever widened: a client whose settings are smaller than those of another must not make a stream
    forget what it holds. Narrowing one is an administrator's decision: `Bus.resize`, or the server's own tools.
    """
    wanted = spec.configuration()
    if spec.replicas is None:
        del wanted["num_replicas"]
    changed = {
        key: value
        for key, value in wanted.items()
        if existing.get(key) != value and not (key in _LIMITS and _allows(existing.get(key), value))
    }
    if changed.get("deny_delete") is False or changed.get("allow_direct") is False:
        changed = {key: value for key, value in changed.items() if value is not False}
    return {**existing, **changed} if changed else None


_LIMITS = ("max_age", "max_msgs_per_subject", "max_bytes", "max_msgs", "max_consumers", "duplicate_window")


def _allows(existing: int | None, wanted: int) -> bool:
    if existing is None or existing in _NO_LIMIT:
        return True
    return wanted not in _NO_LIMIT and existing >= wanted


def older_than_minimum(version: str) -> bool:
    """Whether a server that names itself *version* is too old. One that names none we can read is let pass."""
    numbers = version.removeprefix("v").split(".")
    try:
        return tuple(int(number) for number in numbers[:2]) < MINIMUM_SERVER
    except ValueError:
        return False


def overlapping(patterns: Sequence[str], subject: str) -> bool:
    """Whether any of *patterns* stands for *subject*; none given stands for all."""
    return not patterns or any(matches(pattern, subject) for pattern in patterns)
