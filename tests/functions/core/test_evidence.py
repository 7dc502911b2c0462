"""What an incident remembers as evidence: looks, changes to and fro, heals, and moments that a wrong clock wrote."""

from datetime import timedelta

from functions.core import evidence
from functions.core.situation import Authority
from schemas.health import Level
from schemas.incident import Pending, Sample
from tests.functions.core.situations import HOUR, MINUTE, NOW, SECOND, incident, looks, policy
from tests.functions.core.tank import TankHealth

DAY = timedelta(days=1)


def event(ago: float = 0, level: Level = Level.CRITICAL) -> TankHealth:
    return TankHealth(target="tank:a", level=level, reason="full", observed_at=NOW - ago * SECOND)


def sources(samples: tuple[Sample, ...]) -> list[str]:
    return [sample.source for sample in samples]


def test_a_look_because_of_an_event_is_two_samples():
    samples = evidence.looked(incident(samples=()), policy(), NOW, unhealthy=True, event=event())

    assert sources(samples) == ["level", "probe"]
    assert all(sample.unhealthy for sample in samples)


def test_a_burst_of_events_counts_once_a_source():
    memory = incident(samples=())
    for ago in (9, 7, 5, 3, 1):
        samples = evidence.looked(memory, policy(), NOW - ago * SECOND, unhealthy=True, event=event(ago))
        memory = incident(samples=samples)

    assert sources(memory.samples) == ["level", "probe"]


def test_looks_that_are_far_enough_apart_all_count():
    memory = incident(samples=())
    for ago in (20, 10, 0):
        memory = incident(samples=evidence.looked(memory, policy(), NOW - ago * SECOND, unhealthy=True))

    assert sources(memory.samples) == ["probe"] * 3


def test_another_result_counts_at_once():
    samples = evidence.looked(incident(samples=looks(1)), policy(), NOW, unhealthy=False)

    assert [sample.unhealthy for sample in samples] == [True, False]


def test_an_event_that_arrives_late_and_says_the_same_counts_for_nothing():
    samples = evidence.looked(
        incident(samples=looks(5, source="level")), policy(), NOW, unhealthy=True, event=event(60)
    )

    assert sources(samples) == ["level", "probe"]


def test_an_event_below_warning_is_no_sample_of_trouble():
    samples = evidence.looked(incident(samples=()), policy(), NOW, unhealthy=True, event=event(level=Level.OK))

    assert [(sample.source, sample.unhealthy) for sample in samples] == [("level", False), ("probe", True)]


def test_a_person_who_orders_is_a_source_and_one_who_only_looks_is_none():
    def seen(authority: Authority) -> list[str]:
        return sources(evidence.looked(incident(samples=()), policy(), NOW, unhealthy=True, authority=authority))

    assert seen(Authority.LIVE) == seen(Authority.APPROVAL) == ["person", "probe"]
    assert seen(Authority.DRY_RUN) == ["probe"]


def test_no_more_looks_are_kept_than_can_be_asked_for():
    memory = incident(samples=looks(*range(1000, 100, -10)))

    assert len(evidence.looked(memory, policy(), NOW, unhealthy=True)) == evidence.KEPT >= 20


def test_looks_of_an_incident_that_closed_by_itself_count_for_a_while():
    before = incident(samples=looks(100, 79, 5))

    assert evidence.carried_samples(before, policy(), NOW) == looks(79, 5)


def test_looks_from_before_something_was_done_tell_nothing_about_the_next_incident():
    before = incident(samples=looks(5), last_outcome="done")

    assert evidence.carried_samples(before, policy(), NOW) == ()


def test_the_sixth_change_within_an_hour_is_flapping_and_the_third_is_calm_again():
    memory, states = incident(), []
    for minute in range(8):
        changes, flapping = evidence.changed(memory, policy(), NOW + minute * MINUTE)
        memory = incident(changes=changes, flapping=flapping)
        states.append(flapping)

    assert states == [False] * 5 + [True] * 3
    assert evidence.changed(memory, policy(), NOW + 2 * HOUR) == ((NOW + 2 * HOUR,), False)


def test_a_target_that_calmed_down_flaps_again_only_at_the_upper_bound():
    calm = incident(changes=[NOW - n * MINUTE for n in (30, 20, 10)], flapping=True)  # three left: it is over

    changes, flapping = evidence.changed(calm, policy(), NOW)

    assert (len(changes), flapping) == (4, False)


def test_a_target_that_still_flaps_goes_on_to_below_the_upper_bound():
    wild = incident(changes=[NOW - n * MINUTE for n in (40, 30, 20, 10)], flapping=True)

    assert evidence.changed(wild, policy(), NOW)[1]


def test_a_heal_counts_only_when_something_was_done():
    assert evidence.fixed(incident(last_outcome="done"), NOW) == (NOW,)
    assert evidence.fixed(incident(interruptions=1), NOW) == (NOW,)
    assert evidence.fixed(incident(attempts=1), NOW) == ()  # a question that nobody answered


def test_heals_are_forgotten_after_a_day():
    fixes = (NOW - DAY, NOW - DAY + SECOND)

    assert evidence.fixed(incident(fixes=fixes), NOW) == fixes[1:]


def test_an_incident_of_a_right_clock_stays_as_it_is():
    memory = incident(attempted_at=NOW + 4 * MINUTE)

    assert evidence.not_from_the_future(memory, NOW, 5 * MINUTE) is memory


def test_what_a_clock_a_day_ahead_wrote_begins_to_wait_now():
    tomorrow = NOW + DAY
    written = incident(
        opened_at=tomorrow, changed_at=tomorrow, alerted_at=tomorrow, attempted_at=tomorrow, foretold_at=tomorrow,
        samples=(*looks(5), *(each.model_copy(update={"at": tomorrow}) for each in looks(0))),
        changes=(NOW, tomorrow), fixes=(tomorrow,), ineffective={"rung1": tomorrow + 6 * HOUR},
        pending=Pending(hash="f" * 64, requested_at=tomorrow, expires_at=tomorrow + 3 * HOUR),
    )  # fmt: skip

    mended = evidence.not_from_the_future(written, NOW, 5 * MINUTE)

    moments = (mended.opened_at, mended.changed_at, mended.alerted_at, mended.attempted_at, mended.foretold_at)
    assert moments == (NOW,) * 5
    assert (mended.samples, mended.changes, mended.fixes) == (looks(5), (NOW,), (NOW,))
    assert mended.ineffective == {"rung1": NOW + 6 * HOUR}
    assert mended.pending is not None
    assert (mended.pending.requested_at, mended.pending.expires_at) == (NOW, NOW + 3 * HOUR)


def test_the_alarm_is_as_old_as_the_latest_word_of_that_signal_or_as_the_incident():
    opened = incident(samples=(), opened_at=NOW - HOUR)
    told = (
        Sample(at=NOW - MINUTE, source="level", unhealthy=True),
        Sample(at=NOW - SECOND, source="level", unhealthy=False),
        Sample(at=NOW, source="probe", unhealthy=True),
    )

    assert evidence.alarmed_at(opened, "level") == NOW - HOUR
    assert evidence.alarmed_at(incident(samples=told, opened_at=NOW - HOUR), "level") == NOW - MINUTE
