"""What the hosts of a group know of one another, so that a fault of many is not healed everywhere at once.

All of it lies in the bucket `fleet` and is written on change only; a member says hourly that it is still there.
"""

from datetime import datetime, timedelta

from pydantic import AwareDatetime, Field

from schemas.remediation import Value
from schemas.text import Text

MEMBER_EXPIRY = timedelta(hours=3)
"""A member that has not said for this long that it is there doesn't count: a larger group would allow more."""


class Member(Value):
    """One host that runs one function. Key `member.<group>.<domain>.<function>.<host>`."""

    host: str
    function: str
    group: str
    seen_at: AwareDatetime
    unhealthy_since: AwareDatetime | None = Field(None, description="Some target of it has an open incident since.")


class Slot(Value):
    """A host that acts now."""

    host: str
    holder: str = Field(description="The process: its emitter.")
    until: AwareDatetime = Field(description="Free again after this, also when the holder has died.")


class Slots(Value):
    """Who acts now in a group. Key `slots.<group>.<domain>.<function>`; replaced by compare-and-set."""

    slots: tuple[Slot, ...] = ()


class Spent(Value):
    """What one host has spent of its budgets. Key `spent.<host>`; replaced by compare-and-set.

    Counted by the minute (attempts) and by the hour (irreversible ones), so that it stays small.
    """

    attempts: dict[str, dict[int, int]] = Field(default_factory=dict, description="function → Unix minute → attempts")
    irreversible: dict[str, dict[int, int]] = Field(default_factory=dict, description="function → Unix hour → attempts")


class Storm(Value):
    """So many of a group are unhealthy that one cause is likely. Key `storm.<group>.<domain>.<function>`."""

    since: AwareDatetime
    unhealthy: int
    members: int
    told_by: Text = ""


class Fleet(Value):
    """What a guard sees of it all: a view at one moment, from mirrors that a watch keeps up to date."""

    members: int = Field(1, ge=1, description="Hosts of the group that run the function, this one included.")
    unhealthy: tuple[str, ...] = Field((), description="Those with an open incident, this one included.")
    unhealthy_since: datetime | None = Field(None, description="Since when this host has told the others so.")
    acting: tuple[str, ...] = Field((), description="Hosts that hold a slot now.")
    spent_function: int = Field(0, description="Attempts of this function on this host in the last hour.")
    spent_host: int = Field(0, description="Attempts of all functions on this host in the last hour.")
    spent_irreversible: int = Field(0, description="Irreversible attempts of this function here in the last 24 hours.")
