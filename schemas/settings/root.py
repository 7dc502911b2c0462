"""The whole of `ansai.yaml`: the common sections, and one section per domain."""

from enum import StrEnum

from pydantic import Field

from schemas.settings.base import Settings
from schemas.settings.bus import BusSettings
from schemas.settings.custom import CustomActions
from schemas.settings.disk import DiskMonitoring
from schemas.settings.memory import MemoryMonitoring
from schemas.settings.policy import Policy
from schemas.settings.services import ServiceMonitoring


class LogFormat(StrEnum):
    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Logging(Settings):
    """What is written to standard error; events and audit records go over the bus, not here."""

    level: LogLevel = Field(LogLevel.INFO, description="Less important lines are left out.")
    format: LogFormat = Field(LogFormat.CONSOLE, description="console for people, json for log collectors.")


class Configuration(Settings):
    """Settings of ANSAI: every section is optional, and every value has a default."""

    host: str | None = Field(
        None, min_length=1, max_length=253, description="Name of this host in subjects; the system's when left out."
    )
    bus: BusSettings = Field(default_factory=BusSettings)
    logging: Logging = Logging()
    policy: Policy = Policy()
    disk_monitoring: DiskMonitoring = DiskMonitoring()
    memory_monitoring: MemoryMonitoring = MemoryMonitoring()
    service_monitoring: ServiceMonitoring = ServiceMonitoring()
    custom_actions: CustomActions = Field(
        (), description="Commands and callables of your own; each is the function custom.<name>."
    )
