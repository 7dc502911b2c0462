"""A world on disk that outlives whoever works in it: tanks as files, and remedies that let water out of them.

A tank's file is its history: each line is one part of one effect, appended and synced by the process that had it. How
full the tank is follows from the lines. So what was done twice can be counted, whoever did it and whenever it died.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from functions.core.plan import Action, Plan, Rung
from functions.core.ports import ToolError
from functions.core.remedy import Case, Remedy
from schemas.facts.files import Fact
from schemas.remediation import ActionResult, Estimate, Gap, Outcome, Risk, UndoWhen
from schemas.settings.policy import Policy
from schemas.settings.root import Configuration
from tests.functions.core.tank import EAGER, TankHealth, TankSettings

FUNCTION = "water.drain"
TARGET = "tank:a"
FULL = 16  # litres
LIMIT = 10
PARTS = 2
"""An effect has so many parts of a litre each: who dies between them leaves it half done."""
NAMES = ("x", "y", "z")
"""Three effects close the gap, and no two of them do."""


class WaterConfiguration(Configuration):
    water_monitoring: TankSettings = TankSettings(limit=LIMIT)


@dataclass(frozen=True)
class Effect:
    """One line of a tank's history."""

    pid: int
    name: str
    part: int
    undone: bool
    at: float
    """seconds since 1970, right before it was written"""


def write(path: Path, effect: Effect) -> None:
    """Append one line, and return when the disk has it."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, json.dumps(asdict(effect)).encode() + b"\n")
        os.fsync(file)
    finally:
        os.close(file)


def read(path: Path) -> list[Effect]:
    """All effects on one tank, in the order in which they happened."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    return [Effect(**json.loads(line)) for line in lines]


def in_effect(effects: Iterable[Effect]) -> Counter[tuple[str, int]]:
    """(name, part) → how often it was done and not taken back: 1, and nothing else, when nobody did harm."""
    found: Counter[tuple[str, int]] = Counter()
    for effect in effects:
        found[effect.name, effect.part] += -1 if effect.undone else 1
    return +found


def double_effects(effects: Iterable[Effect]) -> int:
    """How often something was done that was done already, or taken back that was not there."""
    wrong, there = 0, set()
    for effect in effects:
        key = effect.name, effect.part
        if effect.undone:
            wrong += key not in there
            there.discard(key)
        else:
            wrong += key in there
            there.add(key)
    return wrong


def wholly_done(effects: Iterable[Effect]) -> set[str]:
    """The effects of which every part is there."""
    parts = Counter(name for name, _ in in_effect(effects))
    return {name for name, found in parts.items() if found == PARTS}


class World:
    """Both probes and tools of one host. *reached* hears of every point between two parts of an effect."""

    def __init__(
        self, directory: Path, *, reached: Callable[[str], None] = lambda point: None, jammed: Iterable[str] = ()
    ) -> None:
        self._directory = directory
        self._reached = reached
        self._jammed = set(jammed)
        """effects that fail before anything is done"""

    def tank(self, target: str) -> Path:
        return self._directory / target.partition(":")[2]

    def effects(self, target: str = TARGET) -> list[Effect]:
        return read(self.tank(target))

    def let_out(self, tank: str, name: str, *, checked: bool = False) -> ActionResult:
        """Have the effect *name*, part by part. *checked*: leave out what is there already."""
        if name in self._jammed:
            raise ToolError(f"valve {name} is jammed; open it by hand")
        path = self._directory / tank
        done = 0
        for part in range(1, PARTS + 1):
            if checked and in_effect(read(path))[name, part]:
                continue
            self._reached(f"{name} part {part} before")
            write(path, Effect(os.getpid(), name, part, False, time.time()))
            self._reached(f"{name} part {part} after")
            done += 1
        return ActionResult(outcome=Outcome.DONE, done=1, freed={"litres": done})

    def pour_back(self, tank: str, name: str) -> ActionResult:
        """Take back what is there of the effect *name*, last part first."""
        path = self._directory / tank
        there = in_effect(read(path))
        for part in range(PARTS, 0, -1):
            if there[name, part]:
                self._reached(f"undo {name} part {part} before")
                write(path, Effect(os.getpid(), name, part, True, time.time()))
                self._reached(f"undo {name} part {part} after")
        return ActionResult(outcome=Outcome.DONE, done=1)


class _OnTank(Action):
    tank: str
    name: str

    def title(self) -> str:
        return f"{self.action} {PARTS} l by {self.name}"

    def estimates(self) -> tuple[Estimate, ...]:
        return (Estimate(amount=PARTS, unit="litres", exact=True),)

    def items(self) -> list[str]:
        return [self.name]


class Blast(_OnTank):
    """Neither repeatable nor to be taken back."""

    risk: ClassVar[Risk] = Risk.IRREVERSIBLE
    undo: ClassVar[str] = "none"
    action: Literal["blast"] = "blast"

    def apply(self, tools: Any) -> ActionResult:
        return tools.let_out(self.tank, self.name)


class Drain(_OnTank):
    """Looks at each part before it does it: beginning again does nothing twice."""

    risk: ClassVar[Risk] = Risk.IRREVERSIBLE
    undo: ClassVar[str] = "none"
    repeatable: ClassVar[bool] = True
    action: Literal["drain"] = "drain"

    def apply(self, tools: Any) -> ActionResult:
        return tools.let_out(self.tank, self.name, checked=True)


class PourBack(_OnTank):
    """What takes a `Pour` back, as far as it had come."""

    risk: ClassVar[Risk] = Risk.REVERSIBLE
    undo: ClassVar[str] = "none"
    repeatable: ClassVar[bool] = True
    action: Literal["pour_back"] = "pour_back"

    def apply(self, tools: Any) -> ActionResult:
        return tools.pour_back(self.tank, self.name)


class Pour(_OnTank):
    """Taken back when it or a later one fails."""

    risk: ClassVar[Risk] = Risk.REVERSIBLE
    undo: ClassVar[str] = "pour it back"
    undo_when: ClassVar[UndoWhen] = UndoWhen.FAILED
    action: Literal["pour"] = "pour"

    def apply(self, tools: Any) -> ActionResult:
        return tools.let_out(self.tank, self.name)

    def inverse(self, result: ActionResult | None) -> PourBack:
        return PourBack(tank=self.tank, name=self.name)


class Seen(Fact):
    water: int


class Found(Fact):
    done: tuple[str, ...] = ()


def remedy(kind: type[Action]) -> Remedy[Any, Any, Any]:
    """Lets water out by three actions of one *kind*, and leaves out those that were done wholly."""

    def observe(case: Case[TankSettings], probes: World) -> Seen:
        return Seen(water=FULL - in_effect(probes.effects(case.target)).total())

    def survey(case: Case[TankSettings], seen: Seen, probes: World) -> Found:
        return Found(done=tuple(sorted(wholly_done(probes.effects(case.target)))))

    def plan(case: Case[TankSettings], seen: Seen, found: Found) -> Plan:
        tank = case.target.partition(":")[2]
        actions = tuple(kind(tank=tank, name=name) for name in NAMES if name not in found.done)  # type: ignore[call-arg]
        return Plan(rungs=(Rung(name="valves", title="Open the valves", actions=actions),))

    return Remedy(
        name=FUNCTION, title="Let water out of full tanks", section_name="water_monitoring", section=TankSettings,
        listens=(TankHealth,), actions=(Blast, Drain, Pour, PourBack), targets=lambda settings, probes: [TARGET],
        observe=observe, gap=lambda case, seen: Gap(amount=seen.water - case.settings.limit, unit="litres"),
        survey=survey, plan=plan,
    )  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    """A remedy, what goes wrong by itself, and how it may end when somebody is killed on the way."""

    kind: type[Action]
    jammed: tuple[str, ...] = ()

    @property
    def remedy(self) -> Remedy[Any, Any, Any]:
        return remedy(self.kind)


SCENARIOS = {
    "reversible": Scenario(Pour),
    "irreversible": Scenario(Blast),
    "repeatable": Scenario(Drain),
    "failing": Scenario(Pour, jammed=NAMES[-1:]),
}
"""The third action of the last one fails, so that the two before it are taken back."""


def policy(group: str, freeze_file: Path) -> Policy:
    """Live, eager, in a group of its own; one attempt that fails is enough for a person to look."""
    return Policy.model_validate(
        {"mode": "auto", "group": group, "freeze_file": freeze_file, "default": {**EAGER, "max_attempts": 1}}
    )
