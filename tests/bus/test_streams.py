"""The table of streams, and what is done about those that exist."""

from datetime import timedelta

import pytest

from bus.port import Bucket, Rejected, StreamName
from bus.streams import buckets, incompatibility, refuse_unstored, stream_for, streams, update
from bus.subjects import checkpoint, matches
from schemas.settings.bus import BusSettings


def test_every_stream_and_bucket_is_in_the_table():
    assert set(streams(BusSettings())) == set(StreamName)
    assert set(buckets(BusSettings())) == set(Bucket)


def test_the_audit_stream_never_drops():
    configuration = streams(BusSettings(audit_max_size=5 * 1024**2))[StreamName.AUDIT].configuration()
    assert configuration["discard"] == "new"
    assert configuration["deny_delete"] is True
    assert configuration["max_age"] == 0
    assert configuration["max_bytes"] == 5 * 1024**2


def test_checkpoints_outlive_the_audit_stream_fifty_to_an_emitter():
    spec = streams(BusSettings())[StreamName.CHECKPOINT]
    configuration = spec.configuration()
    assert configuration["subjects"] == ["ansai.checkpoint.>"]
    assert configuration["max_msgs_per_subject"] == 50
    assert configuration["deny_delete"] is True
    assert configuration["max_age"] == 0
    assert configuration["max_bytes"] == -1
    assert stream_for(checkpoint("web-1", "disk.free_space", "e1")) is StreamName.CHECKPOINT


def test_health_keeps_a_day_and_a_hundred_of_each_subject():
    configuration = streams(BusSettings())[StreamName.HEALTH].configuration()
    assert configuration["max_age"] == 24 * 3600 * 10**9
    assert configuration["max_msgs_per_subject"] == 100


def test_leases_expire_by_the_setting():
    spec = buckets(BusSettings(lease_ttl=timedelta(seconds=7)))[Bucket.LEASES]
    assert spec.configuration()["max_age"] == 7 * 10**9
    assert spec.configuration()["duplicate_window"] <= 7 * 10**9


def test_a_stream_that_is_as_wanted_needs_no_update():
    for spec in streams(BusSettings()).values():
        existing = spec.configuration() | {"metadata": {"somebody": "added"}, "num_replicas": 3}
        assert incompatibility(spec, existing) is None
        assert update(spec, existing) is None


def test_an_update_keeps_what_others_added():
    spec = streams(BusSettings())[StreamName.HEALTH]
    existing = spec.configuration() | {"max_age": 1, "metadata": {"team": "x"}, "future_feature": True}
    changed = update(spec, existing)
    assert changed["max_age"] == 24 * 3600 * 10**9
    assert changed["metadata"] == {"team": "x"}
    assert changed["future_feature"] is True


def test_replicas_are_changed_only_when_they_are_set():
    existing = streams(BusSettings())[StreamName.AUDIT].configuration() | {"num_replicas": 3}
    assert update(streams(BusSettings())[StreamName.AUDIT], existing) is None
    assert update(streams(BusSettings(replicas=5))[StreamName.AUDIT], existing)["num_replicas"] == 5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"storage": "memory"}, "storage is memory"),
        ({"retention": "interest"}, "retention is interest"),
        ({"discard": "new"}, "discard is new"),
        ({"subjects": ["ansai.health.>", "orders.>"]}, "also takes orders.>"),
        ({"mirror": {"name": "X"}}, "mirror"),
        ({"sealed": True}, "sealed"),
    ],
)
def test_what_makes_a_stream_unusable_is_said(change: dict, reason: str):
    spec = streams(BusSettings())[StreamName.HEALTH]
    assert reason in incompatibility(spec, spec.configuration() | change)


def test_subjects_find_their_stream():
    assert stream_for("ansai.health.web-1.disk.pressure.0") is StreamName.HEALTH
    assert stream_for("ansai.dlq.disk.free_space") is StreamName.DLQ
    for subject in ("ansai.heartbeat.web-1.x", "ansai.health", "ansai.health.", "other.health.x", ""):
        assert stream_for(subject) is None
    with pytest.raises(Rejected):
        refuse_unstored("ansai.heartbeat.web-1.x")


@pytest.mark.parametrize(
    ("pattern", "subject", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("*.b", "a.c", False),
        ("a.*.c", "a.b.c", True),
    ],
)
def test_patterns_match_as_nats_matches(pattern: str, subject: str, expected: bool):
    assert matches(pattern, subject) is expected
