"""The memory domain's health events: how one service's memory grows, and how the host fares."""

from typing import Annotated, ClassVar

from pydantic import AwareDatetime, Field

from schemas.facts.memory import Detector, Trend
from schemas.facts.processes import ProcessGrowth
from schemas.health import Health
from schemas.text import PathText, Text

Finite = Annotated[float, Field(allow_inf_nan=False)]
"""What is no number foretells nothing."""


class MemoryTrend(Health):
    """Target `unit:app.service`, `container:web`, `process:worker`. One instance is one run: a restart begins anew.

    Warning: it grows for days, or reaches its limit within `alert_within`. Critical: within `act_within`, or it stands
    at `act_percent` of its limit and grows. A service that its MemoryHigh strangles is a warning, however it grows.
    """

    domain: ClassVar[str] = "memory"
    signal: ClassVar[str] = "trend"

    instance: str = Field("", max_length=128, description="Which run of the service: another one after each start.")
    trend: Trend = Trend.LEARNING
    detector: Detector | None = None
    held: int | None = Field(
        None, ge=0, description="Bytes that no pressure frees: anonymous, shared, swapped, kernel."
    )
    working_set: int | None = Field(None, ge=0, description="Bytes in use but for cache that goes for the asking.")
    limit: int | None = Field(None, ge=0, description="Bytes at which the kernel kills: the smallest on the path.")
    limit_at: PathText = Field("", description="Whose limit it is; `host` where only the machine's memory limits.")
    per_hour: Finite | None = Field(None, description="Bytes, robust slope of the minima.")
    per_hour_low: Finite | None = None
    per_hour_high: Finite | None = None
    floor_start: int | None = Field(None, description="Bytes, of the fitted line where its window begins.")
    floor_now: int | None = None
    seconds_to_limit: Finite | None = Field(None, ge=0, description="At that slope; none when nothing grows.")
    window: Finite = Field(0, ge=0, description="Seconds that the fitted minima span.")
    series_since: AwareDatetime | None = Field(None, description="First sample of this instance.")
    sparkline: tuple[int, ...] = Field(
        (), max_length=60, description="Bytes, lowest of equal stretches from `series_since`, or three days ago, on."
    )
    out_of_memory_kills: int | None = Field(None, ge=0)
    strangled: bool = Field(False, description="Its MemoryHigh holds it, and all of its tasks wait for memory.")
    processes: tuple[ProcessGrowth, ...] = Field(
        (), max_length=5, description="Those that grew most since the service had settled."
    )
    findings: tuple[Text, ...] = Field((), description="What the figures leave open, one sentence each.")


class MemoryPressure(Health):
    """Target `host:memory`: what is available, and how long tasks wait for memory."""

    domain: ClassVar[str] = "memory"
    signal: ClassVar[str] = "pressure"

    total: int | None = Field(None, ge=0, description="Bytes.")
    available: int | None = Field(None, ge=0)
    swap_total: int = Field(0, ge=0)
    swap_free: int = Field(0, ge=0)
    some10: float | None = Field(None, description="Percent of the last ten seconds in which some task waited.")
    full10: float | None = Field(None, description="Percent in which all waited.")
    full60: float | None = None
    unreclaimable: int | None = Field(None, ge=0, description="Bytes of kernel memory that no pressure frees.")
    out_of_memory_kills: int | None = Field(None, ge=0, description="Since boot.")
    recent_kills: int = Field(0, ge=0, description="Of them, in the last quarter of an hour.")
    guard: Text = Field(
        "", description="Another program that acts when memory runs out: systemd-oomd, earlyoom, nohang."
    )
    findings: tuple[Text, ...] = ()
