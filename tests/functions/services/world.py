"""A machine in memory: units, processes, files and checks, as a function sees them; and what its tools were told."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from functions.core.remedy import Case
from functions.services.facts import Found, Holder, Seen
from schemas.facts.commands import Checked, Command
from schemas.facts.processes import Listener, ProcessIdentity
from schemas.facts.units import Unit
from schemas.health import Level
from schemas.probes import ProbeError
from schemas.remediation import ItemResult, Outcome
from schemas.services import ServiceState
from schemas.settings.services import ServiceMonitoring

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
AT = 5000.0  # seconds of the monotonic clock, at NOW
APP = "app.service"
TARGET = f"unit:{APP}"


def unit(name: str = APP, **facts: Any) -> Unit:
    """One that failed an hour ago."""
    return Unit(
        **{
            "name": name, "active": "failed", "sub": "failed", "type": "simple", "result": "exit-code", "exit_code": 1,
            "exit_status": 3, "invocation": "1", "slice": "system.slice", "active_since": AT - 3700,
            "inactive_since": AT - 3600, **facts,
        }
    )  # fmt: skip


def running(name: str = APP, seconds: float = 3600, **facts: Any) -> Unit:
    up = {"active": "active", "sub": "running", "result": "success", "exit_code": None, "exit_status": None,
          "active_since": AT - seconds, "inactive_since": None}  # fmt: skip
    return unit(name, **{**up, **facts})


def down(name: str = APP, **facts: Any) -> Unit:
    """One that was stopped on purpose."""
    return unit(name, **{"active": "inactive", "sub": "dead", "result": "success", "exit_status": 0, **facts})


def heard(minutes_ago: float = 0, level: Level = Level.CRITICAL, **fields: Any) -> ServiceState:
    said = {"target": TARGET, "unit": APP, "active": "failed", "invocation": "1", **fields}
    return ServiceState(level=level, observed_at=NOW - timedelta(minutes=minutes_ago), **said)


def flapping(**fields: Any) -> ServiceState:
    return heard(**{"level": Level.WARNING, "active": "active", "restarts": 4, "recent_restarts": 4, **fields})


def case(event: ServiceState | None = None, *, skip_rungs: frozenset[str] = frozenset(), **settings: Any) -> Case:
    return Case("host", TARGET, ServiceMonitoring(**settings), NOW, event, event, skip_rungs)


def seen(facts: Unit | None) -> Seen:
    return Seen(unit=facts, at=AT)


def process(pid: int = 7, command: str = "app --serve") -> ProcessIdentity:
    return ProcessIdentity(pid=pid, started=100 + pid, command=command)


def holder(group: str, port: int = 8080, pid: int = 7) -> Holder:
    return Holder(port=port, process=process(pid), group=group)


def found(**facts: Any) -> Found:
    return Found(**facts)


@dataclass
class Groups:
    inside: dict[str, tuple[int, ...]]

    def processes(self, path: str) -> tuple[int, ...]:
        return self.inside.get(path, ())


@dataclass
class World:
    """Every probe and every tool; a part named in `broken` raises ProbeError."""

    known: dict[str, Unit | None] = field(default_factory=dict)
    paths: set[str] = field(default_factory=set)
    listening: list[Listener] = field(default_factory=list)
    answers: dict[str, Checked] = field(default_factory=dict)
    """program → what it says"""
    broken: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    done: list[tuple[str, ...]] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """what a tool answers, by its name; done when not given"""

    @property
    def units(self) -> "World":
        return self

    files = processes = commands = units
    inside: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """control group → its processes"""
    after: dict[str, Unit | None] = field(default_factory=dict)
    """what a unit becomes once the listeners were read"""

    @property
    def memory(self) -> "Groups":
        return Groups(self.inside)

    def read(self, what: str) -> None:
        self.asked.append(what)
        if what in self.broken:
            raise ProbeError(f"{what}: permission denied")

    # ── probes ────────────────────────────────────────────────────────────────────────────────────────────────────

    def services(self, globs):
        self.read("services")
        return list(self.known.values())

    def unit(self, name):
        self.read(name)
        return self.known.get(name)

    def mount_of(self, path):
        self.read(path)
        if path not in self.paths:
            raise ProbeError(f"{path} does not exist")
        return "/"

    def listeners(self, ports):
        self.read("listeners")
        self.known |= self.after
        return [each for each in self.listening if each.port in ports]

    def check(self, command: Command) -> Checked | None:
        self.read(" ".join(command.argv))
        return self.answers.get(command.argv[0])

    # ── tools ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def do(self, tool: str, *arguments: object) -> ItemResult:
        self.done.append((tool, *map(str, arguments)))
        outcome = self.outcomes.get(tool, Outcome.DONE)
        return ItemResult(name=str(arguments[0]), outcome=outcome, reason=f"{tool} {outcome}")

    def restart(self, unit, invocation, timeout):
        return self.do("restart", unit, invocation, timeout)

    def start(self, unit, invocation, timeout):
        return self.do("start", unit, invocation, timeout)

    def start_anew(self, unit, invocation, timeout):
        return self.do("start_anew", unit, invocation, timeout)

    def end(self, process, grace):
        return self.do("end", process.pid, grace)

    def remove_stale(self, path, held_by):
        return self.do("remove_stale", path, *held_by)


def titles(plan) -> str:
    return "\n".join(finding.title for finding in plan.findings)


def rungs(plan) -> list[str]:
    return [rung.name for rung in plan.rungs]
