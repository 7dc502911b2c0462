"""kill -9 at every boundary, with many seeds: what was done twice, lost, or is not in the trail as it was.

    python -m tests.bench.chaos [--seeds 50] [--scenarios reversible irreversible …]

Real processes on a real nats-server; leases and acknowledgements last a second. Each seed kills at every n-th boundary
of each scenario, n being a fifth of them, so that five seeds make a round over all; it decides about copies of the
event, pauses before the restart, and further kills of those that recover.
"""

import argparse
import asyncio
import re
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.chaos.trials import CHAIN, Trial, Verdict, firing_range, steady
from tests.chaos.world import SCENARIOS

ROUND = 5
"""Seeds that together kill at every boundary once."""
SHOWN = 20
"""Things that went wrong, told in full."""


def trials(scenario: str, boundaries: Sequence[str], seed: int) -> list[Trial]:
    found = []
    for at in boundaries[seed % ROUND :: ROUND]:
        chance = Trial(scenario, (at,), seed).chance()
        again = (chance.randrange(3, 60),) if chance.random() < 0.3 else ()
        found.append(Trial(scenario, (at, *again), seed))
    return found


async def fire(scenario: str, seeds: Sequence[int]) -> list[Verdict]:
    """A new server for each round, so that none has to remember thousands of hosts."""
    verdicts: list[Verdict] = []
    for begin in range(0, len(seeds), ROUND):
        with tempfile.TemporaryDirectory(prefix="ansai-chaos-") as directory:
            async with firing_range(Path(directory)) as place:
                boundaries = steady(await place.boundaries(scenario))
                wanted = [
                    trial for seed in seeds[begin : begin + ROUND] for trial in trials(scenario, boundaries, seed)
                ]
                verdicts += await place.run(wanted)
    return verdicts


def step(name: str) -> str:
    """The boundary without its number, the action's name, and which half of it."""
    return re.sub(r"^(undo )?[xyz] part (\d)", r"\1effect, part \2", re.sub(r" #\d+", "", name))


def table(verdicts: Iterable[Verdict]) -> None:
    rows: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        rows[verdict.trial.scenario, step(str(verdict.trial.kills[0]))].append(verdict)
    print(f"{'scenario':<13}{'killed':<40}{'kills':>6}  {'ended':<22}{'double':>7}{'lost':>6}{'chains':>9}{'wrong':>7}")
    for (scenario, at), found in sorted(rows.items()):
        ended = Counter(verdict.ended for verdict in found)
        how = ", ".join(f"{count} {name}" for name, count in sorted(ended.items()))
        kills, doubles = sum(len(each.killed_at) for each in found), sum(each.double_effects for each in found)
        lost, wrong = sum(each.lost for each in found), sum(bool(each.wrong) for each in found)
        chains = f"{sum(map(verified, found))}/{len(found)}"
        print(f"{scenario:<13}{at:<40}{kills:>6}  {how:<22}{doubles:>7}{lost:>6}{chains:>9}{wrong:>7}")


def verified(verdict: Verdict) -> bool:
    return not any(what.startswith(CHAIN) for what in verdict.wrong)


async def bench(scenarios: Sequence[str], seeds: int) -> int:
    began, verdicts = time.monotonic(), []
    for scenario in scenarios:
        verdicts += await fire(scenario, range(1, seeds + 1))
    table(verdicts)
    bad = [verdict for verdict in verdicts if verdict.wrong or verdict.lost or verdict.double_effects]
    for verdict in bad[:SHOWN]:
        print(f"WRONG  {verdict.explained()}")
    kills = sum(len(verdict.killed_at) for verdict in verdicts)
    print(
        f"\n{kills:,} kills in {len(verdicts):,} incidents, {seeds} seeds, {time.monotonic() - began:.0f} s:"
        f" {sum(verdict.double_effects for verdict in verdicts)} double effects,"
        f" {sum(verdict.lost for verdict in verdicts)} lost incidents,"
        f" {sum(not verified(verdict) for verdict in verdicts)} chains that do not verify, {len(bad)} wrong at all"
    )
    return int(bool(bad) or not kills)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    options = parser.parse_args(argv)
    return asyncio.run(bench(options.scenarios, options.seeds))


if __name__ == "__main__":
    sys.exit(main())
