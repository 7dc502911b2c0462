"""What each action says of itself and does."""

from datetime import timedelta

import pytest

from functions.memory.actions import FUNCTION, CollectGarbage, RestartContainer, RestartUnit
from functions.memory.contain_leak import REMEDY
from schemas.remediation import ActionResult, Outcome, Risk
from tests.functions.memory.world import APP, FIRST_PID, MIB, NOW, UNIT, World, identity

SIGNAL = CollectGarbage(target=APP, process=identity(), signal="SIGUSR1", timeout=0)
ADDRESS = CollectGarbage(target=APP, url="http://127.0.0.1:1/gc", method="GET", timeout=3)
COMMAND = CollectGarbage(target=APP, command=("/bin/gc", "7"), timeout=3)
JAVA = CollectGarbage(target=APP, process=identity(), timeout=3)
RESTART = RestartUnit(unit=UNIT, invocation="a" * 32, dependants=("web.service",), held=300 * MIB, timeout=90)
CONTAINER = RestartContainer(
    engine="podman", container="f" * 64, name="web-1", started=NOW - timedelta(days=1), held=300 * MIB, timeout=30
)
ALL = [SIGNAL, ADDRESS, COMMAND, JAVA, RESTART, CONTAINER]
TOOLS = ["signal", "ask", "run", "jcmd", "restart", "restart_container"]


def test_every_kind_of_action_of_the_remedy_is_looked_at_here():
    assert {type(action) for action in ALL} == set(REMEDY.actions)


@pytest.mark.parametrize("action", ALL, ids=lambda action: action.title())
def test_an_action_survives_being_stored_as_json(action):
    assert type(action).model_validate_json(action.model_dump_json()) == action


@pytest.mark.parametrize("action", ALL, ids=lambda action: action.title())
def test_an_action_is_of_the_risk_of_a_restart_and_has_no_way_back(action):
    assert action.risk is Risk.AVAILABILITY
    assert action.inverse(None) is None
    assert action.told.items == len(action.items()) > 0


@pytest.mark.parametrize("action", ALL, ids=lambda action: action.title())
def test_nothing_is_surely_freed(action):
    assert action.exact("bytes") == 0


@pytest.mark.parametrize(
    ("action", "done"),
    [
        (SIGNAL, ("signal", "SIGUSR1", FIRST_PID)),
        (ADDRESS, ("ask", "http://127.0.0.1:1/gc", "GET", 3)),
        (COMMAND, ("run", APP, FUNCTION, ("/bin/gc", "7"), 3)),
        (JAVA, ("jcmd", str(FIRST_PID), 3)),
        (RESTART, ("restart", UNIT, "a" * 32, 90)),
        (CONTAINER, ("restart_container", "f" * 64, "podman", NOW - timedelta(days=1), 30)),
    ],
    ids=TOOLS,
)
def test_it_does_one_thing_by_its_tool(action, done):
    world = World()
    result = action.apply(world)
    assert world.done == [done]
    assert (result.outcome, result.done) == (Outcome.DONE, 1)


def test_a_run_that_ended_gave_back_what_it_held_above_its_beginning():
    assert RESTART.apply(World()).freed == {"bytes": 300 * MIB}
    assert SIGNAL.apply(World()).freed == {}


@pytest.mark.parametrize("outcome", [Outcome.SKIPPED, Outcome.IN_PROGRESS, Outcome.REFUSED, Outcome.FAILED])
@pytest.mark.parametrize(("action", "tool"), list(zip(ALL, TOOLS, strict=True)), ids=TOOLS)
def test_what_did_not_work_is_told_as_it_was_and_freed_nothing(action, tool, outcome):
    result = action.apply(World(refuse={tool: outcome}))
    assert (result.outcome, result.done, result.freed) == (outcome, 0, {})
    assert result.detail == "as the test wants it"


def test_another_run_than_the_planned_one_is_left_alone():
    world = World()
    assert RESTART.apply(world).outcome is Outcome.DONE
    again = RESTART.apply(world)
    assert (again.outcome, again.detail) == (Outcome.SKIPPED, "another run than planned")
    assert len(world.done) == 1


def test_a_signal_gets_time_to_work_and_one_that_was_not_sent_gets_none(monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr("functions.memory.actions.time.sleep", slept.append)
    patient = SIGNAL.model_copy(update={"timeout": 12.5})
    patient.apply(World(refuse={"signal": Outcome.SKIPPED}))
    assert slept == []
    patient.apply(World())
    assert slept == [12.5]


def test_whom_to_ask_must_be_known():
    result = CollectGarbage(target=APP, signal="SIGHUP", timeout=0).apply(World())
    assert isinstance(result, ActionResult)
    assert result.outcome is Outcome.REFUSED


@pytest.mark.parametrize(
    ("action", "way"),
    [
        (SIGNAL, f"SIGUSR1 to process {FIRST_PID}"),
        (ADDRESS, "GET http://127.0.0.1:1/gc"),
        (COMMAND, "/bin/gc 7"),
        (JAVA, f"jcmd {FIRST_PID} GC.run"),
    ],
)
def test_a_title_says_how_it_is_asked(action, way):
    assert action.title() == f"Ask unit:app.service to collect garbage, by {way}"
