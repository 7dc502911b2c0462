"""The whole path: the engine and the remedy on a machine in memory."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

from functions.core.engine import Engine
from functions.core.ports import Ports
from functions.memory.contain_leak import REMEDY
from schemas.alert import AlertState
from schemas.envelope import Event
from schemas.incident import IncidentState
from schemas.memory import MemoryTrend
from schemas.remediation import Mode, Outcome
from schemas.settings.memory import MemoryMonitoring
from tests.functions.core.conftest import passed, quiet
from tests.functions.core.tank import Plant
from tests.functions.memory.world import APP, MIB, UNIT, World, content, growing, trend, unit

GROUP = f"/system.slice/{UNIT}"
MINUTE = timedelta(minutes=1)


class Host(Plant):
    """An engine for this remedy, on its world."""

    def __init__(self, world: World, settings: MemoryMonitoring, **policy: Any) -> None:
        self.world, self.settings = world, settings
        super().__init__(world, REMEDY, **policy)  # type: ignore[arg-type]

    def new_engine(self) -> Engine:
        ports = Ports(
            self.world, self.world, self.ledger, self.leases, self.fence, self.brake,  # type: ignore[arg-type]
            self.permits, self.plans, self.signals, self.story,  # type: ignore[arg-type]
        )  # fmt: skip
        engine = Engine(
            REMEDY, self.settings, self.policy, "host-1", ports, self.clock, read_timeout=timedelta(seconds=5)
        )
        self.engines.append(engine)
        return engine

    async def hear(self, said: Callable[..., MemoryTrend] = trend, *, since: timedelta = 60 * MINUTE, **changes: Any):
        """The collector speaks now of the run that is now, and its word is kept."""
        now = self.clock.now()
        values = {
            "observed_at": now, "instance": self.run, "series_since": now - since, "since": now - since, **changes,
        }  # fmt: skip
        health = said(**values)
        self.signals.said[health.target] = health  # type: ignore[assignment]
        event = Event[MemoryTrend](
            source="/test", type=MemoryTrend.type_name(), subject=health.target, time=now, data=health
        )
        return await self.engine.on_health(event)

    @property
    def run(self) -> str:
        return self.world.units_here[UNIT].invocation

    @property
    def tools(self) -> list[str]:
        return [tool for tool, *_ in self.world.done]

    def state(self) -> IncidentState:
        return self.incident(APP).state

    def grow(self, held: int) -> None:
        self.world.held[GROUP] = held * MIB


@pytest.fixture
async def host() -> AsyncIterator[Callable[..., Host]]:
    made: list[Host] = []

    def build(world: World | None = None, service: dict[str, Any] | None = None, **policy: Any) -> Host:
        own = {"restart": True, "garbage_collection": {"signal": "SIGUSR1", "timeout": "1 ms"}}
        settings = MemoryMonitoring.model_validate(
            {"restart_grace": "1 ms", "services": {APP: own if service is None else service}}
        )
        made.append(Host(world or World(handlers={"SIGUSR1"}), settings, **policy))
        return made[-1]

    yield build
    for each in made:
        for engine in each.engines:
            await engine.stop()


async def flat(plant: Host, minutes: int) -> None:
    """The collector sees it stay flat for so long, and says so every five minutes."""
    for minute in range(0, minutes + 1, 5):
        await plant.hear(content, since=minute * MINUTE)
        await quiet(plant)
        if minute < minutes:
            plant.clock.advance(5 * MINUTE)
            await quiet(plant)


async def settle(plant: Host, condition: Callable[[], object]) -> None:
    """Until it holds, and nothing is worked on."""
    await passed(plant, 5 * MINUTE, condition)
    await quiet(plant)


async def test_it_is_asked_then_restarted_then_watched_and_healed(host):
    plant = host()

    await plant.hear()
    await settle(plant, lambda: plant.tools)

    assert plant.tools == ["signal", "restart"]
    assert plant.state() is IncidentState.OPEN
    assert plant.story.steps[-1] == "verified"
    assert plant.story.alerts[0].state is AlertState.OPENED

    await flat(plant, 10)
    assert plant.state() is IncidentState.OPEN
    await flat(plant, 20)
    assert plant.state() is IncidentState.CLOSED
    assert plant.story.alerts[-1].state is AlertState.RESOLVED
    assert plant.tools == ["signal", "restart"]


async def test_the_report_of_the_walk_says_what_was_done_and_what_came_back(host):
    plant = host()
    await plant.hear()
    await settle(plant, lambda: plant.tools and plant.story.steps[-1] == "verified")

    report = plant.story.events[-1].report
    assert report is not None
    collected, restarted = report.rungs
    assert (collected.rung, collected.outcome) == ("collect_garbage", Outcome.INEFFECTIVE)
    assert (restarted.rung, restarted.freed, restarted.measured) == (
        "restart", {"bytes": 310 * MIB}, {"bytes": 310 * MIB},
    )  # fmt: skip
    assert report.unexplained == ""
    assert (report.before["held"], report.after["held"]) == (410 * MIB, 50 * MIB)
    assert "holds 410 MiB of 740 MiB" in report.findings[0].title


async def test_what_gives_a_tenth_back_is_not_restarted(host):
    plant = host(World(handlers={"SIGUSR1"}, garbage=0.5))
    await plant.hear()
    await settle(plant, lambda: plant.tools)
    assert plant.tools == ["signal"]
    assert plant.state() is IncidentState.OPEN

    await flat(plant, 10)
    assert plant.state() is IncidentState.OPEN
    await flat(plant, 20)
    assert (plant.state(), plant.tools) == (IncidentState.CLOSED, ["signal"])


async def test_a_service_that_leaks_again_is_contained_again_until_that_is_a_symptom_only(host):
    plant = host(max_fixes=2, service={"restart": True})
    for _ in range(2):
        plant.grow(410)
        await plant.hear()
        await settle(plant, lambda: plant.state() is IncidentState.OPEN and plant.story.steps[-1] == "verified")
        await flat(plant, 20)
        assert plant.state() is IncidentState.CLOSED
        plant.clock.advance(60 * MINUTE)
        await quiet(plant)

    plant.grow(410)
    await plant.hear()
    assert plant.tools == ["restart", "restart"]
    assert plant.refused() == ["symptom_only"]


async def test_the_events_that_come_after_a_restart_do_not_restart_it_again(host):
    plant = host(service={"restart": True})
    old = plant.run
    await plant.hear()
    await settle(plant, lambda: plant.tools)

    await plant.hear(instance=old)  # what the collector had on its way
    plant.clock.advance(20 * MINUTE)
    await quiet(plant)
    await plant.hear(instance=old)
    assert plant.tools == ["restart"]
    assert plant.state() is IncidentState.OPEN


async def test_a_restart_that_fails_leaves_word_what_a_person_should_do(host):
    plant = host(World(refuse={"restart": Outcome.FAILED}), service={"restart": True})
    await plant.hear()
    await settle(plant, lambda: plant.story.steps[-1] == "unhealed")

    alert = plant.story.alerts[-1]
    assert alert.state is AlertState.UNHEALED
    assert "app.service failed and holds no memory: its main process ended with status 1" in alert.next
    assert "journalctl --unit=app.service" in alert.next
    plant.clock.advance(60 * MINUTE)
    await quiet(plant)
    await plant.hear(instance="a" * 32)
    assert plant.tools == ["restart"]
    assert plant.state() is IncidentState.OPEN


async def test_growth_with_time_left_is_told_with_its_report_and_nothing_is_done(host):
    plant = host(service={"restart": True})
    await plant.hear(growing)
    await settle(plant, lambda: "would" in plant.story.steps)

    assert plant.tools == []
    report = plant.story.events[-1].report
    assert report is not None
    assert "a restart would only be a break" in report.next
    assert plant.story.alerts[0].state is AlertState.OPENED


async def test_a_window_that_opens_later_is_not_waited_for_and_one_in_time_is(host):
    """The clock of this world begins at midnight."""
    windows = {
        "late": ({"cron": "0 6 * * *", "duration": "1 h", "zone": "UTC"}, ["restart"]),
        "soon": ({"cron": "5 0 * * *", "duration": "1 h", "zone": "UTC"}, []),
    }
    for window, done in windows.values():
        plant = host(service={"restart": True}, maintenance_windows=(window,))
        await plant.hear()
        await settle(plant, lambda plant=plant: plant.tools or "maintenance_windows" in plant.waited())
        assert plant.tools == done


async def test_when_nothing_may_be_done_and_it_presses_a_person_is_called(host):
    plant = host(service={})
    await plant.hear()
    assert plant.tools == []
    assert plant.refused() == ["empty_plan"]
    record = plant.story.records[-1]
    assert any("{restart: true}}} permits it" in finding.detail for finding in record["plan"].findings)


async def test_a_dry_run_changes_nothing_and_tells_both_rungs(host):
    plant = host(mode=Mode.DRY_RUN)
    await plant.hear()
    await settle(plant, lambda: "would" in plant.story.steps)

    assert plant.tools == []
    report = plant.story.events[-1].report
    assert report is not None
    assert [rung.rung for rung in report.rungs] == ["collect_garbage", "restart"]


async def test_a_restart_by_somebody_else_between_alert_and_action_is_enough(host):
    plant = host(service={"restart": True}, confirmation={"needed": 3, "of": 3, "every": "10 s"})
    await plant.hear()
    assert plant.waited() == ["confirmation"]
    plant.world.units_here[UNIT] = unit(invocation="c" * 32)
    plant.clock.advance(timedelta(seconds=11))
    await settle(plant, lambda: not plant.busy() and plant.incident(APP).gap.verifying)

    assert plant.tools == []


async def test_who_dies_in_the_middle_of_a_restart_does_not_restart_twice(host):
    """The process ends after systemd has done it and before that could be written down."""
    plant = host(service={"restart": True})
    plant.story.refuse_audit = {"acted"}
    await plant.hear()
    await settle(plant, lambda: plant.tools)
    assert plant.incident(APP).begun is not None

    plant.story.refuse_audit = set()
    next_process = plant.new_engine()
    next_process.look_again()
    await settle(plant, lambda: "recovered" in plant.story.steps and plant.incident(APP).gap.verifying)

    assert plant.tools == ["restart"]
    assert plant.incident(APP).begun is None
    assert plant.state() is IncidentState.OPEN
