"""What every treatment of one function shares, and what a treatment answers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from functions.core.case_file import CaseFile, Cause
from functions.core.observation import Observer
from functions.core.ports import Ports
from functions.core.remedy import AnyRemedy
from functions.core.steadiness import Steadiness
from schemas.clock import Clock
from schemas.settings.base import Settings
from schemas.settings.policy import EffectivePolicy


@dataclass(frozen=True)
class Verdict:
    """What to do with the message: acknowledge (no `retry_after`), or deliver again later; and when to look again."""

    retry_after: timedelta | None = None
    look_again: datetime | None = None


SETTLED = Verdict()


@dataclass(frozen=True)
class Practice:
    """Replaced as a whole when the configuration is reloaded: a treatment keeps the one it began with."""

    remedy: AnyRemedy
    settings: Settings
    policy: EffectivePolicy
    host: str
    observer: Observer
    ports: Ports
    clock: Clock
    steadiness: Steadiness
    stopping: Callable[[], bool]
    strangers: set[str] = field(default_factory=set)
    """targets of events that were refused because the configuration knows none of the name"""

    def now(self) -> datetime:
        """The time that incidents are written in: a clock that jumped is not followed until its new time has held."""
        now = self.clock.now()
        return now - self.steadiness.jump(now, self.policy.clock_tolerance, self.policy.cooldown)

    def case_file(self, target: str, cause: Cause) -> CaseFile:
        """Empty: what is remembered about the target is read by `CaseFile.open`."""
        ports = self.ports
        return CaseFile(ports.ledger, ports.story, self.now, self.host, self.remedy.name, target, cause, self.policy)
