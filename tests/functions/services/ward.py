"""The function, its collector and the real engine on a real systemd: they read and act in its namespaces."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from collectors.services import state
from collectors.services.state import StateMemory
from functions.core.engine import Engine
from functions.core.ports import Ports
from functions.services.restart_failed import REMEDY
from schemas.alert import Alert
from schemas.envelope import Event
from schemas.services import ServiceState
from schemas.settings.services import ServiceMonitoring
from tests.beside import Beside
from tests.functions.core.tank import Plant, Tanks
from tests.systemd import Machine
from tests.waiting import until

LONG = 60  # seconds

CALLED = """
from infra.hosts.local import LocalProbes, LocalTools

held = {"probes": LocalProbes(), "tools": LocalTools()}


def called(kind, port, method, arguments):
    return getattr(getattr(held[kind], port), method)(*arguments)
"""


class Host:
    """This machine's probes and tools, beside the systemd of the test as they are beside a host's."""

    def __init__(self, machine: Machine) -> None:
        self._beside = Beside(machine, CALLED)
        self.probes: Any = Far(self, "probes")
        self.tools: Any = Far(self, "tools")
        self.acted: list[tuple[str, str]] = []
        """method of a tool, and what it was called for"""

    def call(self, kind: str, port: str, method: str, arguments: tuple[object, ...]) -> Any:
        if kind == "tools":
            self.acted.append((method, str(arguments[0])))
        return self._beside.call(kind, port, method, arguments)

    def end(self) -> None:
        self._beside.end()


class Far:
    """`probes.units.unit(name)` becomes a call inside."""

    def __init__(self, host: Host, *path: str) -> None:
        self._host = host
        self._path = path

    def __getattr__(self, name: str) -> "Far":
        return Far(self._host, *self._path, name)

    def __call__(self, *arguments: object) -> Any:
        kind, port, method = self._path
        return self._host.call(kind, port, method, arguments)


class Ward(Plant):
    """An engine for one unit, and the collector whose events it hears."""

    def __init__(self, machine: Machine, beside: Host, unit: str = "app.service", **settings: Any) -> None:
        self.machine = machine
        self.beside = beside
        self.unit = unit
        quick = {"settle": timedelta(milliseconds=1), "stable_for": timedelta(seconds=1)}
        self.settings = ServiceMonitoring(**{"units": (unit,), **quick, **settings})
        self.memory = StateMemory()
        self.beside.acted.clear()
        super().__init__(Tanks(), REMEDY)

    def new_engine(self) -> Engine:
        ports = Ports(
            self.beside.probes, self.beside.tools, self.ledger, self.leases, self.fence, self.brake, self.permits,
            self.plans, self.signals, self.story,
        )  # fmt: skip
        engine = Engine(self.remedy, self.settings, self.policy, "host-1", ports, self.clock, timedelta(seconds=LONG))
        self.engines.append(engine)
        return engine

    async def look(self) -> ServiceState | None:
        """The collector looks once, and the function hears what it says."""
        reading = await asyncio.to_thread(state.read, self.settings, self.beside.probes, self.memory)
        events, self.memory = state.judge(self.settings, reading, self.memory, self.clock.now())
        for event in events:
            assert isinstance(event, ServiceState)
            self.signals.said[event.target] = event  # type: ignore[assignment]
            await self.engine.on_health(
                Event[ServiceState](
                    source="/test", type=event.type_name(), subject=event.target, time=self.clock.now(), data=event
                )
            )
        return next((event for event in events if event.target == self.target), None)  # type: ignore[return-value]

    @property
    def target(self) -> str:
        return f"unit:{self.unit}"

    @property
    def acted(self) -> list[str]:
        return [method for method, _ in self.beside.acted]

    async def until_state(self, *active: str) -> dict[str, str]:
        async def there() -> dict[str, str] | None:
            seen = await self.machine.show(self.unit)
            return seen if seen["ActiveState"] in active else None

        return await until(there, lambda: self.machine.run("systemctl", "status", self.unit, check=False).stdout)  # type: ignore[no-any-return]

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Look again and again until *condition* answers something true."""

        async def looked() -> Any:
            await self.look()
            return condition()

        return await until(
            looked,
            lambda: (
                [(str(each["step"]), each.get("text"), each.get("result")) for each in self.story.records],
                self.beside.acted,
            ),
        )

    async def until_alert(self, word: str) -> Alert:
        def told() -> Alert | None:
            return next((alert for alert in self.story.alerts if str(alert.state) == word), None)

        return await self.until(told)  # type: ignore[no-any-return]
