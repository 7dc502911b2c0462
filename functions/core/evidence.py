"""What an incident remembers as evidence: looks, changes to and fro, and heals. Pure."""

from datetime import datetime, timedelta

from functions.core.rules import DAY, PROBE, flaps
from functions.core.situation import Authority
from schemas.health import Health, Level
from schemas.incident import Incident, Sample
from schemas.settings.policy import EffectivePolicy

KEPT = 21
"""Looks and changes that are remembered: as many as Nagios judges flapping by."""

PERSON = "person"


def looked(
    incident: Incident, policy: EffectivePolicy, began: datetime, *, unhealthy: bool,
    event: Health | None = None, authority: Authority = Authority.EVENT,
) -> tuple[Sample, ...]:  # fmt: skip
    """The incident's samples with one more look of the function's own, and what made it look."""
    every, samples = policy.confirmation.every, incident.samples
    if event is not None and event.level is not Level.UNKNOWN:
        said = event.level.rank >= Level.WARNING.rank
        samples = _added(samples, Sample(at=event.observed_at, source=event.signal, unhealthy=said), every)
    if authority in {Authority.LIVE, Authority.APPROVAL}:
        samples = _added(samples, Sample(at=began, source=PERSON, unhealthy=True), every)
    return _added(samples, Sample(at=began, source=PROBE, unhealthy=unhealthy), every)


def _added(samples: tuple[Sample, ...], sample: Sample, every: timedelta) -> tuple[Sample, ...]:
    """A burst of looks counts as one: what comes within *every* of the same source tells nothing new."""
    latest = next((each for each in reversed(samples) if each.source == sample.source), None)
    if latest is not None and latest.unhealthy == sample.unhealthy and sample.at - latest.at < every:
        return samples
    return (*samples, sample)[-KEPT:]


def alarmed_at(incident: Incident, signal: str) -> datetime:
    """When *signal* said last that the target is unhealthy, or when it was opened, or last acted upon."""
    said = (sample.at for sample in incident.samples if sample.unhealthy and sample.source == signal)
    return max([incident.opened_at, incident.attempted_at or incident.opened_at, *said])


def carried_samples(before: Incident, policy: EffectivePolicy, now: datetime) -> tuple[Sample, ...]:
    """Looks of an incident that closed by itself lately count for the next one; ours would be about another cause."""
    since = now - 2 * policy.confirmation.of * policy.confirmation.every
    return () if before.acted else tuple(sample for sample in before.samples if sample.at > since)


def changed(incident: Incident, policy: EffectivePolicy, now: datetime) -> tuple[tuple[datetime, ...], bool]:
    """The changes with one more, now; and whether the target flaps."""
    within = tuple(moment for moment in incident.changes if moment > now - policy.flapping.within)
    changes = (*within, now)[-KEPT:]
    flapping = flaps(policy, incident, now)  # before this one: it may have calmed down meanwhile
    return changes, flaps(policy, incident.model_copy(update={"changes": changes, "flapping": flapping}), now)


def fixed(incident: Incident, now: datetime) -> tuple[datetime, ...]:
    """The heals of the last day, with one more when something was done in this incident."""
    recent = tuple(moment for moment in incident.fixes if moment > now - DAY)
    return (*recent, now)[-KEPT:] if incident.acted else recent


def not_from_the_future(incident: Incident, now: datetime, tolerance: timedelta) -> Incident:
    """An incident that a wrong clock wrote: its waits begin now, instead of never ending or having passed."""
    moments = ("opened_at", "changed_at", "alerted_at", "attempted_at", "foretold_at")
    late: dict[str, object] = {
        name: now for name in moments if (moment := getattr(incident, name)) is not None and moment > now + tolerance
    }
    if not late:
        return incident
    pending = incident.pending
    if pending is not None and pending.requested_at > now + tolerance:
        late["pending"] = pending.model_copy(
            update={"requested_at": now, "expires_at": now + (pending.expires_at - pending.requested_at)}
        )
    return incident.model_copy(
        update={
            **late, "samples": tuple(each for each in incident.samples if each.at <= now),
            "changes": tuple(each for each in incident.changes if each <= now),
            "fixes": tuple(min(each, now) for each in incident.fixes),
            "ineffective": {rung: min(until, now + DAY / 4) for rung, until in incident.ineffective.items()},
        }
    )  # fmt: skip
