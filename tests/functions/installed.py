"""What installed packages bring: plain values to load by name, and a real distribution with a function of its own."""

from dataclasses import replace
from pathlib import Path

from functions.disk.free_space import REMEDY

REFILL = replace(REMEDY, name="shop.refill")
NO_REMEDY = "something else"

MODULE = '''
"""Somebody else's function: a shelf is a file that holds a number, and it is refilled when that is too low."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from functions.core.plan import Action, Plan, Rung
from functions.core.remedy import Remedy
from schemas.facts.files import Fact
from schemas.health import Health
from schemas.probes import ProbeError
from schemas.remediation import ActionResult, Estimate, Gap, Outcome, Risk
from schemas.settings.base import Settings


class ShelfStock(Health):
    """How much is on one shelf."""

    domain: ClassVar[str] = "shop"
    signal: ClassVar[str] = "stock"

    pieces: int


class ShopSettings(Settings):
    """The `shop_monitoring` section."""

    directory: Path = Field(Path("/var/lib/shop"), description="Where the shelves are.")
    wanted: int = Field(10, description="Pieces on each shelf.")


class Seen(Fact):
    pieces: int


class Nothing(Fact):
    """No survey is needed."""


class Refill(Action):
    """Put pieces on a shelf."""

    risk: ClassVar[Risk] = Risk.REVERSIBLE
    undo: ClassVar[str] = "take them away again"

    action: Literal["shop.refill"] = "shop.refill"
    shelf: Path
    pieces: int

    def title(self):
        return f"Put {self.pieces} pieces on {self.shelf.name}"

    def estimates(self):
        return (Estimate(amount=self.pieces, unit="pieces"),)

    def items(self):
        return [self.shelf.name]

    def apply(self, tools):
        self.shelf.write_text(str(int(self.shelf.read_text()) + self.pieces))
        return ActionResult(outcome=Outcome.DONE, done=1, freed={"pieces": self.pieces})


def shelf_of(settings, target):
    return settings.directory / target.partition(":")[2]


def targets(settings, probes):
    return sorted(f"shelf:{path.name}" for path in settings.directory.iterdir())


def observe(case, probes):
    try:
        return Seen(pieces=int(shelf_of(case.settings, case.target).read_text()))
    except OSError as error:
        raise ProbeError(f"{case.target}: {error}") from error


def gap(case, seen):
    return Gap(amount=case.settings.wanted - seen.pieces, unit="pieces")


def plan(case, seen, found):
    missing = case.settings.wanted - seen.pieces
    action = Refill(shelf=shelf_of(case.settings, case.target), pieces=missing)
    return Plan(rungs=(Rung(name="refill", title="Refill", actions=(action,)),))


REMEDY = Remedy(
    name="shop.refill", title="Refill shelves", section_name="SECTION", section=ShopSettings, listens=(ShelfStock,),
    actions=(Refill,), targets=targets, observe=observe, gap=gap, plan=plan,
    survey=lambda case, seen, probes: Nothing(),
)
'''


def distribution(
    directory: Path, *, section: str = "shop_monitoring", name: str = "shop.refill", module: str = MODULE
) -> Path:
    """Write an installed package, as pip would leave it, into *directory*, which then belongs on the path."""
    information = directory / "ansai_shop-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: ansai-shop\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[ansai.functions]\n{name} = ansai_shop:REMEDY\n")
    (directory / "ansai_shop.py").write_text(module.replace("SECTION", section))
    return directory
