"""The kill switch: while a freeze is in force, nobody begins an action."""

from datetime import UTC, datetime

from pydantic import AwareDatetime, Field

from schemas.remediation import Value
from schemas.text import Text


class Freeze(Value):
    """Why nothing may be changed. It stands in a file of a host, or under the key `freeze` of the bucket `fleet`."""

    reason: Text = ""
    who: Text = ""
    since: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))
    where: Text = Field("", description="The file or the key that was found; for the person who is to lift it.")
