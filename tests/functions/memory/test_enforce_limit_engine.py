"""The whole path: an event, the plan, the limits, their way back, and a crash in the middle."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from collectors.memory import trend as collector
from collectors.memory.trend import TrendMemory
from schemas.envelope import Event
from schemas.facts.memory import Trend
from schemas.health import Level
from schemas.incident import IncidentState
from schemas.memory import MemoryTrend
from schemas.remediation import Mode, Outcome
from schemas.trigger import Asked, Trigger
from tests.functions.memory.limit_world import GROUP, LimitPlant, LimitWorld, settings_of
from tests.functions.memory.world import APP, MIB, RUN, UNIT, unit
from tests.waiting import until

BOTH = {"high": 500 * MIB, "maximum": 600 * MIB}
COOLDOWN = timedelta(minutes=15)


@pytest.fixture
async def plants() -> AsyncIterator[Callable[..., LimitPlant]]:
    made: list[LimitPlant] = []

    def build(world: LimitWorld, limits: dict[str, int], mode: Mode = Mode.AUTO, **policy: Any) -> LimitPlant:
        made.append(LimitPlant(world, settings_of(APP, **limits), mode, **{"cooldown": COOLDOWN, **policy}))
        return made[-1]

    yield build
    for plant in made:
        for engine in plant.engines:
            await engine.stop()


async def test_a_growing_service_is_held_to_its_maximum(plants):
    world = LimitWorld()
    plant = plants(world, {"maximum": 600 * MIB})

    await plant.hear()

    assert world.done == [(UNIT, RUN, None, 600 * MIB)]
    assert world.groups[GROUP].maximum == 600 * MIB
    assert plant.incident(APP).state is IncidentState.CLOSED
    report = plant.story.events[-1].report
    assert (report.gap_before.amount, report.gap_after.amount) == (1, 0)
    assert report.rungs[0].measured == {"limits": 1}


async def test_a_dry_run_tells_what_live_does(plants):
    world = LimitWorld()
    plant = plants(world, BOTH, Mode.DRY_RUN)

    await plant.hear()

    report = plant.story.events[-1].report
    assert world.done == []
    assert (report.outcome, report.gap_after.amount) == (Outcome.WOULD, 0)
    assert report.next.endswith("would reach the target")


async def test_a_service_that_does_not_grow_is_left_as_it_is(plants):
    world = LimitWorld()
    plant = plants(world, BOTH)

    await plant.hear(Level.OK)

    assert world.done == []


async def test_a_person_may_have_the_limits_set_before_anything_grows(plants):
    world = LimitWorld()
    plant = plants(world, BOTH)

    await plant.engine.on_trigger(Trigger(target=APP, mode=Asked.LIVE), "c", "anna")

    assert (world.groups[GROUP].high, world.groups[GROUP].maximum) == (500 * MIB, 600 * MIB)


async def test_a_high_is_watched_as_long_as_it_may_strangle_and_then_the_incident_is_over(plants):
    world = LimitWorld()
    plant = plants(world, BOTH)

    await plant.hear()
    assert plant.incident(APP).state is IncidentState.OPEN
    assert plant.story.steps[-1] == "verified"
    plant.clock.advance(timedelta(minutes=5))
    await plant.hear(Level.OK)

    assert plant.incident(APP).state is IncidentState.CLOSED
    assert len(world.done) == 1


async def test_a_high_that_strangles_is_lifted_after_the_cooldown_and_not_set_again(plants):
    world = LimitWorld()
    plant = plants(world, BOTH)
    await plant.hear()
    world.strangle()

    plant.clock.advance(timedelta(minutes=20))  # the timer of the incident looks again
    await until(lambda: not plant.busy())
    await plant.hear()

    assert world.done == [(UNIT, RUN, 500 * MIB, 600 * MIB), (UNIT, RUN, None, 600 * MIB)]
    assert (world.groups[GROUP].high, world.groups[GROUP].maximum) == (None, 600 * MIB)
    assert plant.incident(APP).state is IncidentState.CLOSED


async def test_a_high_that_strangles_is_lifted_when_the_collector_sees_it_though_nothing_grows(plants):
    """What is slowed grows no more: the collector of growth tells it as strangled, with the figures of the kernel."""
    world = LimitWorld(matches=[])
    world._limit_unit(UNIT, RUN, 500 * MIB, 600 * MIB)
    world.strangle()
    plant = plants(world, BOTH)
    probes = SimpleNamespace(
        units=world, memory=world, processes=world.processes, containers=SimpleNamespace(running=list)
    )
    memory = TrendMemory()
    for minute in range(2):
        reading = collector.read(plant.settings, probes, memory)
        events, memory = collector.judge(
            plant.settings, reading, memory, plant.clock.now() + timedelta(minutes=minute - 1)
        )
    (said,) = events
    assert (said.level, said.strangled, said.trend) == (Level.WARNING, True, Trend.LEARNING)

    kind = Event[MemoryTrend]
    event = kind(source="/test", type=MemoryTrend.type_name(), subject=APP, time=plant.clock.now(), data=said)
    await plant.engine.on_health(event)

    assert world.done == [(UNIT, RUN, None, 600 * MIB)]
    assert (world.groups[GROUP].high, world.groups[GROUP].maximum) == (None, 600 * MIB)
    assert plant.incident(APP).state is IncidentState.CLOSED


async def test_limits_that_the_kernel_does_not_take_get_their_old_values_again(plants):
    world = LimitWorld(units_here={UNIT: unit(memory_max=900 * MIB)}, deaf=True)
    world.change(maximum=900 * MIB, limit=900 * MIB, limit_at=GROUP)
    plant = plants(world, BOTH)

    await plant.hear()

    assert world.done == [(UNIT, RUN, 500 * MIB, 600 * MIB), (UNIT, RUN, None, 900 * MIB)]
    assert plant.outcomes() == ["acted done", "undone done"]
    assert world.units_here[UNIT].memory_max == 900 * MIB
    assert plant.incident(APP).state is IncidentState.OPEN
    assert plant.story.events[-1].outcome is Outcome.ROLLED_BACK


async def test_a_limit_that_failed_is_taken_back_at_once(plants):
    world = LimitWorld(refuse=Outcome.FAILED)
    plant = plants(world, {"maximum": 600 * MIB})

    await plant.hear()

    assert [each[-1] for each in world.done] == [600 * MIB, None]
    assert plant.incident(APP).state is IncidentState.STUCK  # the way back failed as well


async def test_what_would_kill_is_alerted_and_not_done(plants):
    world = LimitWorld()
    world.change(usage=590 * MIB, working_set=580 * MIB)
    plant = plants(world, {"maximum": 600 * MIB})

    await plant.hear()
    await plant.hear()

    assert world.done == []
    assert plant.refused() == ["empty_plan"]
    told = [record["plan"] for record in plant.story.records if record["step"] == "refused"]
    assert "the kernel would kill it now" in told[0].findings[0].title


async def test_it_is_held_to_its_maximum_after_a_restart_made_room(plants):
    world = LimitWorld()
    world.change(usage=590 * MIB, working_set=580 * MIB)
    plant = plants(world, {"maximum": 600 * MIB})
    await plant.hear()

    world.units_here[UNIT] = unit(invocation="b" * 32)
    world.change(usage=60 * MIB, working_set=50 * MIB)
    plant.clock.advance(timedelta(minutes=1))
    await plant.hear(instance="b" * 32)

    assert world.done == [(UNIT, "b" * 32, None, 600 * MIB)]


async def test_another_run_than_planned_is_left_alone(plants):
    world = LimitWorld()
    plant = plants(world, {"maximum": 600 * MIB})
    tool = world.limit_memory

    def restarted_meanwhile(*arguments: Any) -> Any:
        world.units_here[UNIT] = unit(invocation="b" * 32)
        return tool(*arguments)

    world.limit_memory = restarted_meanwhile  # type: ignore[method-assign]
    await plant.hear()

    assert plant.outcomes() == ["acted skipped"]
    assert world.groups[GROUP].maximum is None


async def test_a_crash_in_the_middle_is_taken_back_and_begun_again(plants):
    world = LimitWorld()
    plant = plants(world, {"maximum": 600 * MIB})
    plant.story.refuse_audit.add("acted")  # the process is as good as dead once it has acted

    await plant.hear()
    assert plant.incident(APP).begun is not None
    world.change(maximum=None, limit=None)  # it had not come that far

    plant.story.refuse_audit.clear()
    await plant.engine.stop()
    plant.engine = plant.new_engine()
    plant.clock.advance(timedelta(hours=1))
    await plant.hear()

    assert [each[-1] for each in world.done] == [600 * MIB, None, 600 * MIB]
    assert plant.incident(APP).state is IncidentState.CLOSED


async def test_a_service_that_is_not_in_the_configuration_is_no_target(plants):
    world = LimitWorld()
    world.units_here["other.service"] = unit("other.service", control_group=GROUP)
    plant = plants(world, BOTH)

    await plant.hear(target="unit:other.service")

    assert world.done == []
