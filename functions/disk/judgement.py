"""How bad one filesystem is, from what was read and what the event tells of its growth. Pure."""

from functions.core.remedy import Case
from schemas.disk import DiskPressure
from schemas.facts.files import Resource, Usage
from schemas.health import Level
from schemas.settings.disk import DiskMonitoring


def judged(case: Case[DiskMonitoring], usage: Usage, resource: Resource) -> tuple[Level, str]:
    """The level of freshly read figures. Only the growth is taken from the event: no single read can tell it."""
    event = case.event
    seconds = event.seconds_to_full if isinstance(event, DiskPressure) and event.target == case.target else None
    return case.settings.judge(usage, resource, seconds)
