"""kill -9 at every moment that somebody else could tell apart: nothing is done twice, no incident is lost."""

from collections.abc import AsyncIterator, Sequence

import pytest

from tests.chaos import world
from tests.chaos.trials import Range, Trial, Verdict, distinct, firing_range, steady

SEEDS = range(1, 6)
STEPS = (
    "leases create #1 after",
    "incident create open #1 after",
    "publish alert critical #1 after",
    "audit planned #1 after",
    "incident update acting begun #2 after",  # the intent
    "y part 1 #1 after",  # in the middle of an action
    "y part 2 #1 after",  # after its effect, before its outcome is known to anybody
    "incident update acting #2 after",  # between two actions
    "z part 2 #1 after",  # the gap is closed, and nobody has measured it
    "audit healed #1 after",  # measured
    "incident update closed #1 after",
    "ack #1 before",
)
"""One of each kind."""
HALF_DONE = "y part 1 #1 after"


@pytest.fixture
async def place(tmp_path) -> AsyncIterator[Range]:
    async with firing_range(tmp_path) as made:
        yield made


def check(verdicts: Sequence[Verdict]) -> None:
    """Nothing is wrong with any of them, and they did die where they should."""
    assert [verdict.explained() for verdict in verdicts if verdict.wrong or verdict.lost] == []
    assert sum(verdict.double_effects for verdict in verdicts) == 0
    missed = [verdict.trial.kills for verdict in verdicts if not verdict.killed_at]
    assert len(missed) <= len(verdicts) / 20, f"never reached: {missed}"


def ends(verdicts: Sequence[Verdict]) -> dict[str, str]:
    """Boundary → how it ended."""
    return {str(verdict.trial.kills[-1]): verdict.ended for verdict in verdicts}


async def test_a_reversible_plan_is_healed_wherever_its_function_is_killed(place):
    boundaries = distinct(steady(await place.boundaries("reversible")))
    assert set(boundaries) >= {
        "fence #1 before",
        "x part 2 #1 before",
        "audit acted #3 before",
        "leases delete #1 before",
    }

    verdicts = await place.run([Trial("reversible", (name,)) for name in boundaries])

    check(verdicts)
    assert set(ends(verdicts).values()) == {"healed"}


async def test_an_irreversible_plan_is_healed_or_left_to_a_person_wherever_its_function_is_killed(place):
    boundaries = distinct(steady(await place.boundaries("irreversible")))

    verdicts = await place.run([Trial("irreversible", (name,)) for name in boundaries])

    check(verdicts)
    ended = ends(verdicts)
    assert ended["x part 1 #1 before"] == ended["y part 2 #1 before"] == ended["audit acted #1 before"] == "stuck"
    assert (
        ended["audit planned #1 before"]
        == ended["audit acting #2 before"]
        == ended["audit healed #1 before"]
        == "healed"
    )


async def test_items_that_are_checked_before_they_are_changed_are_healed_from_the_middle_of_every_action(place):
    boundaries = [name for name in await place.boundaries("repeatable") if " part " in name or "acted" in name]

    verdicts = await place.run([Trial("repeatable", (name,)) for name in boundaries])

    check(verdicts)
    assert set(ends(verdicts).values()) == {"healed"}


async def test_a_failure_takes_back_everything_before_it_wherever_the_function_was_killed(place):
    """The third action always fails, and the two before it are bound to it, whichever process did them."""
    boundaries = distinct(steady(await place.boundaries("failing")))
    assert set(boundaries) >= {
        "y part 1 #1 before",  # x is done, and will be no part of the next plan
        "audit failed #1 before",
        "audit undoing #2 before",
        "undo y part 1 #1 before",
        "audit undone #3 before",
    }

    verdicts = await place.run([Trial("failing", (name,)) for name in boundaries])

    check(verdicts)
    assert set(ends(verdicts).values()) == {"stuck"}
    histories = {
        name: world.read(verdict.directory / "tanks" / "a") for name, verdict in zip(boundaries, verdicts, strict=True)
    }
    assert {name: left for name, effects in histories.items() if (left := dict(world.in_effect(effects)))} == {}
    assert [name for name, effects in histories.items() if not latest_first(effects)] == []


def latest_first(effects: Sequence[world.Effect]) -> bool:
    """Whether always the latest of what was in effect was taken back."""
    there: list[tuple[str, int]] = []
    for effect in effects:
        part = effect.name, effect.part
        if not effect.undone:
            there.append(part)
        elif not there or there.pop() != part:
            return False
    return True


@pytest.mark.parametrize("scenario", ["reversible", "irreversible"])
async def test_who_recovers_may_be_killed_too(place, scenario):
    """The first dies in the middle of the second action, the next one anywhere in what it does about that."""
    boundaries = steady(await place.boundaries(scenario, HALF_DONE))
    until = next((at for at, name in enumerate(boundaries) if name.startswith("audit planned")), len(boundaries))

    verdicts = await place.run([Trial(scenario, (HALF_DONE, name)) for name in distinct(boundaries[:until])])

    check(verdicts)
    assert set(ends(verdicts).values()) == {"healed" if scenario == "reversible" else "stuck"}


@pytest.mark.parametrize("seed", SEEDS)
async def test_nor_do_copies_of_the_event_pauses_and_further_kills_do_harm(place, seed):
    trials = [Trial(scenario, _kills(seed, at), seed) for scenario in ("reversible", "irreversible") for at in STEPS]

    check(await place.run(trials))


def _kills(seed: int, at: str) -> tuple[str | int, ...]:
    """Sometimes the one that recovers is killed as well, somewhere."""
    chance = Trial("", (at,), seed).chance()
    return (at, chance.randrange(3, 60)) if chance.random() < 0.4 else (at,)
