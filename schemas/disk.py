"""The disk domain's health event: how full one filesystem is, in bytes or in inodes."""

from typing import ClassVar

from pydantic import Field

from schemas.facts.files import Resource
from schemas.health import Health
from schemas.text import PathText, Text


class DiskPressure(Health):
    """Target `bytes:/var` or `inodes:/var`. Figures are absent when they could not be read (level unknown)."""

    domain: ClassVar[str] = "disk"
    signal: ClassVar[str] = "pressure"

    mount: PathText = Field(description="Mount point.")
    resource: Resource
    source: PathText = Field("", description="Device or remote that is mounted.")
    fstype: Text = ""
    total: int | None = Field(None, ge=0, description="Bytes or inodes.")
    used: int | None = Field(None, ge=0)
    available: int | None = Field(None, ge=0, description="What ordinary users can still take.")
    percent: float | None = Field(
        None, ge=0, le=100, description="As df prints it: used / (used + available), rounded up."
    )
    per_second: float | None = Field(None, description="Robust slope of `used` over the last hour.")
    per_second_day: float | None = Field(None, description="Robust slope of `used` over the last 24 hours.")
    seconds_to_full: float | None = Field(
        None, ge=0, description="At the steeper of both slopes; none when not growing."
    )
    deleted_open_bytes: int | None = Field(None, ge=0, description="Held by deleted files that a process keeps open.")
    findings: tuple[Text, ...] = Field((), description="What does not add up, one sentence each.")
