"""What `ansai plan` says of the policy, and of targets of whatever kind."""

import json

import pytest
from rich.console import Console

from functions.core.plan import Plan, Rung
from functions.core.shown import Shown
from functions.memory.facts import Seen, State
from functions.services.actions import StartUnit
from functions.services.facts import Seen as UnitSeen
from infra.cli.plan import allowed
from infra.cli.plan_view import block
from infra.hosts.preview import Preview
from schemas.facts.files import Fact
from schemas.facts.units import Unit
from schemas.health import Level
from schemas.remediation import Gap
from schemas.settings.policy import EffectivePolicy

MIB = 2**20


def drawn(renderable, width: int) -> list[str]:
    console = Console(width=width, record=True, file=open("/dev/null", "w"), markup=False)  # noqa: SIM115
    with console.file:
        console.print(renderable)
        return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({}, "mode dry_run: it only tells what it would do"),
        ({"mode": "auto"}, "mode auto: it acts by itself; with what is irreversible it asks before it acts"),
        ({"mode": "approve"}, "mode approve: it asks before it acts"),
        ({"enabled": False}, "the policy has switched it off"),
    ],
)
def test_a_plan_says_how_far_the_policy_lets_it_go(policy, said):
    assert allowed(EffectivePolicy.model_validate(policy)) == said


# Lines about what is no disk.


def service(seen: Seen, gap: Gap, plan: Plan | None = None) -> Preview:
    return Preview("memory.contain_leak", "unit:app.service", seen, gap, plan)


def running(level: Level = Level.WARNING) -> Seen:
    return Seen(
        state=State.RUNNING, level=level, held=700 * MIB, working_set=768 * MIB, limit=1024 * MIB, limit_at="/app"
    )


GROWS = Gap(amount=500 * MIB, unit="bytes", reason="app.service grows by 120 MiB an hour")
WATCHED = Gap(
    amount=0, unit="bytes", reason="it gave 300 MiB back; whether it grows again is watched", provisional=True
)
UNHEARD = Gap.unknown("bytes", "nothing was heard of how it grows")
LINE = "unit:app.service  ██████████████████······   75 %  warning   768 MiB of 1.0 GiB (/app)"


@pytest.mark.parametrize("gap", [GROWS, WATCHED, UNHEARD], ids=["open", "watched", "unknown"])
@pytest.mark.parametrize("width", [120, 200])
def test_a_service_is_a_line_with_its_use_of_the_limit_and_below_it_why(gap, width):
    assert drawn(block(service(running(), gap), names=16), width) == [LINE, f"  {gap.reason}"]


def test_one_that_is_well_is_one_line_aligned_with_the_others():
    well = Gap(amount=0, unit="bytes", reason="it does not grow")

    (line,) = drawn(block(service(running(Level.OK), well), names=16), 120)

    assert line == LINE.replace("warning ", "ok      ") + "  not needed now"


def test_what_does_not_run_has_no_bar():
    stopped = Seen(state=State.STOPPED, reason="it does not run")

    assert drawn(block(service(stopped, Gap.unknown("bytes", stopped.reason)), names=16), 120) == [
        "unit:app.service  stopped                          unknown", "  it does not run",
    ]  # fmt: skip


def test_a_unit_is_shown_with_its_state_and_why_it_is_to_be_brought_back():
    seen = UnitSeen(unit=Unit(name="app.service", active="failed", sub="failed"), at=1.0)
    gap = Gap(amount=1, unit="units", reason="app.service failed: exit-code 1")
    start = Rung(name="start", title="Start it", actions=(StartUnit(unit="app.service", invocation="1", timeout=1.0),))

    lines = drawn(block(service(seen, gap, Plan(rungs=(start,)))), 120)

    assert [line.split() for line in lines[:2]] == [
        ["unit:app.service", "failed", "(failed)"], ["app.service", "failed:", "exit-code", "1"],
    ]  # fmt: skip
    assert "could change" in lines[2]
    assert "could free" not in "\n".join(lines)
    assert "▶ would run" in lines[3]


class Shelf(Fact):
    """Of an installed package that knows nothing of how it is shown."""

    pieces: int


class Tank(Fact):
    """Of one that does."""

    def shown(self) -> Shown:
        return Shown(Level.OK, 50.0, "5 of 10 litres")


def test_anybodys_observation_is_shown_as_far_as_it_says_how():
    gap = Gap(amount=7, unit="pieces", reason="3 of 10 pieces")

    assert drawn(block(service(Shelf(pieces=3), gap)), 120) == ["unit:app.service    7 pieces over target"]
    assert drawn(block(service(Tank(), gap)), 120) == [
        "unit:app.service  ████████████············   50 %  ok  5 of 10 litres  7 pieces over target"
    ]


def test_what_cannot_be_listed_is_told_and_the_other_functions_plan_nevertheless(ansai, tmp_path):
    """Where no systemd runs, services can't be listed, but disks can."""
    (tmp_path / "ansai.yaml").write_text("memory_monitoring: {units: [], containers: []}\n")

    listed = json.loads(ansai("plan", "--target", "bytes:/", "--json").out)
    missing = ansai("plan", "--target", "/nowhere")

    assert [each["function"] for each in listed] == ["disk.free_space"]
    assert missing.code == 1
    assert "disk.free_space has no target '/nowhere' here" in missing.err
    assert missing.err.count("\n") == 1
