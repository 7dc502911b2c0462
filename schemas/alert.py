"""What a person must know."""

from enum import StrEnum

from pydantic import AwareDatetime

from schemas.remediation import Report, Value
from schemas.text import Text


class Severity(StrEnum):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class AlertState(StrEnum):
    OPENED = "opened"
    REFUSED = "refused"
    UNHEALED = "unhealed"
    REQUESTED = "requested"
    """a plan waits for a person"""
    STORM = "storm"
    """many hosts at once: told once among all of them"""
    RESOLVED = "resolved"


class Alert(Value):
    """One notice about one incident: what, what was done or why not, what happens next, how to stop it."""

    host: str
    function: str
    target: Text
    incident: str = ""
    severity: Severity
    state: AlertState
    title: Text
    text: Text = ""
    next: Text = ""
    stop: Text = ""
    at: AwareDatetime
    report: Report | None = None
