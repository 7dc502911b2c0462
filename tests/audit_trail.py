"""The audit trail as tests read it."""

from collections.abc import Iterable

from bus.port import Stored
from schemas.audit import AuditRecord, AuditSegment, Step
from schemas.envelope import Event

ABOUT_ITSELF = {Step.BEGAN, Step.ENDED}


def records_of(messages: Iterable[Stored]) -> list[AuditRecord]:
    """All records in the order of the stream, but for those that the trail writes about itself."""
    segments = [Event[AuditSegment].model_validate_json(message.body).data for message in messages]
    return [record for segment in segments for record in segment.records if record.step not in ABOUT_ITSELF]
