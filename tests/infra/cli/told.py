"""What collectors and functions told, with fixed figures: the events that reports are made of."""

from datetime import UTC, datetime, timedelta
from typing import Any

from bus import subjects
from bus.port import Bus
from schemas.audit import ActionEvent, Step
from schemas.disk import DiskPressure
from schemas.envelope import Event
from schemas.facts.files import Resource
from schemas.facts.memory import Detector, Trend
from schemas.health import Health, Level
from schemas.memory import MemoryPressure, MemoryTrend
from schemas.remediation import Finding, Gap, Mode, PlanSummary
from schemas.services import ServiceState

HOST = "web-1"
MIB = 2**20
LEAK = "memory.contain_leak"


def ago(**span: float) -> datetime:
    return datetime.now(UTC) - timedelta(**span)


def leaking(**changes: Any) -> MemoryTrend:
    """A service on its way to its limit."""
    figures: dict[str, Any] = {
        "target": "unit:app.service", "level": Level.CRITICAL, "observed_at": ago(seconds=150),
        "reason": "app.service holds 812 MiB and grows by 120 MiB an hour towards its limit of 1.0 GiB",
        "since": datetime(2026, 3, 1, 12, 0, tzinfo=UTC), "instance": "a" * 32, "trend": Trend.EXHAUSTING,
        "detector": Detector.FAST, "held": 812 * MIB, "working_set": 840 * MIB, "limit": 1024 * MIB,
        "limit_at": "/system.slice/app.service", "per_hour": 120.0 * MIB, "per_hour_low": 110.0 * MIB,
        "per_hour_high": 131.0 * MIB, "floor_start": 310 * MIB, "floor_now": 800 * MIB, "seconds_to_limit": 5580.0,
        "window": 14_400.0, "sparkline": tuple(range(300 * MIB, 812 * MIB, 16 * MIB)), "out_of_memory_kills": 0,
    }  # fmt: skip
    return MemoryTrend(**figures | changes)


def steady(**changes: Any) -> MemoryTrend:
    figures: dict[str, Any] = {
        "target": "unit:cron.service", "level": Level.OK, "trend": Trend.STEADY, "detector": None, "held": 4 * MIB,
        "reason": "cron.service holds 4.0 MiB, and no leak is seen in 2 d", "working_set": 5 * MIB,
        "limit": 8192 * MIB, "limit_at": "host", "per_hour": 0.0, "per_hour_low": None, "per_hour_high": None,
        "seconds_to_limit": None, "sparkline": (4 * MIB,) * 30,
    }  # fmt: skip
    return leaking(**figures | changes)


def host_memory(**changes: Any) -> MemoryPressure:
    figures: dict[str, Any] = {
        "target": "host:memory", "level": Level.OK, "observed_at": ago(seconds=150), "total": 16384 * MIB,
        "available": 8192 * MIB, "swap_total": 2048 * MIB, "swap_free": 1536 * MIB, "some10": 3.0, "full10": 1.0,
        "unreclaimable": 64 * MIB, "out_of_memory_kills": 0,
    }  # fmt: skip
    return MemoryPressure(**figures | changes)


def failed(**changes: Any) -> ServiceState:
    figures: dict[str, Any] = {
        "target": "unit:nginx.service", "level": Level.CRITICAL, "observed_at": ago(seconds=150),
        "reason": "nginx.service failed: its main process ended with status 1", "unit": "nginx.service",
        "since": datetime(2026, 3, 1, 12, 0, tzinfo=UTC), "active": "failed", "sub": "failed", "result": "exit-code",
        "exit_status": 1, "restarts": 5, "recent_restarts": 3, "enabled": "enabled",
        "findings": ("its unit file changed on disk and is not in force",),
    }  # fmt: skip
    return ServiceState(**figures | changes)


def filling(**changes: Any) -> DiskPressure:
    figures: dict[str, Any] = {
        "target": "bytes:/var", "level": Level.WARNING, "observed_at": ago(seconds=150), "reason": "/var is 85 % full",
        "mount": "/var", "resource": Resource.BYTES, "source": "/dev/sda2", "total": 100 * 2**30, "used": 85 * 2**30,
        "available": 15 * 2**30, "percent": 85.0, "per_second": 2**30 / 3600, "seconds_to_full": 54_000.0,
    }  # fmt: skip
    return DiskPressure(**figures | changes)


async def tell(bus: Bus, data: Health, at: datetime | None = None, host: str = HOST) -> None:
    event = Event[type(data)](  # type: ignore[misc]
        source=f"/hosts/{host}/collectors/{data.domain}.{data.signal}", type=data.type_name(), subject=data.target,
        time=at or data.observed_at, data=data,
    )  # fmt: skip
    await bus.publish(subjects.health(host, data.domain, data.signal, data.target), event.body(), message_id=event.id)


async def act(bus: Bus, step: Step, text: str, *, at: datetime | None = None, **fields: Any) -> None:
    told = {"function": LEAK, "target": "unit:app.service", "mode": Mode.AUTO} | fields
    data = ActionEvent(host=HOST, step=step, text=text, **told)
    event = Event[ActionEvent](
        source="/test", type="ansai.action.v1", subject=data.target, time=at or ago(seconds=60), data=data
    )
    await bus.publish(subjects.action(HOST, data.function, step.value), event.body(), message_id=event.id)


def plan_with(*findings: Finding) -> PlanSummary:
    return PlanSummary(
        hash="0" * 64, function=LEAK, target="unit:app.service", gap=Gap(amount=1, unit="bytes"), rungs=(),
        findings=findings,
    )  # fmt: skip
