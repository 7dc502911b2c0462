"""Leaks found and false alarms over synthetic traces: ours, and least squares alone at the same detection delay.

    python -m tests.bench.memory_growth [--traces 20] [--rounds 200]

Both look once an hour at the hourly minima of the last two days. The reference calls a leak what a fitted straight line
grows by, in share of its start. It is slowed down to our median delay on the plain leaks in both ways there are: by the
highest threshold that is still as soon, and by our own threshold, but not before that hour. Either leaves it the fewest
false alarms it can have at that delay. The fast detector is shown beside it, against a limit.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from random import Random

from rich.console import Console
from rich.progress import track

from collectors.memory.growth import Criteria, Figures, judge
from collectors.memory.series import Point, Series
from schemas.facts.memory import Growth, Trend
from tests.collectors.memory.traces import FAST, LIMIT, MIB, SLOW, Shape, sampled

HOURS, EVERY = 72, timedelta(minutes=10)
FAST_HOURS, FAST_EVERY = 6, timedelta(minutes=1)
PLAIN = ("leak 3 MiB/h", "leak 10 MiB/h", "leak 30 MiB/h")
"""The delay is compared on these."""
MAY_ALARM = ("wandering at 85 %",)
"""It does go straight for the limit, now and then, for half an hour."""
MOST_MILLISECONDS = 2.0
"""One evaluation of one service."""

Looks = list[tuple[tuple[Point, ...], bool]]
"""An hour each: the minima, and what ours says of them."""


def looks(shape: Shape, seed: int) -> Looks:
    dice, series, found = Random(f"{shape.name}{seed}"), Series(), []
    for when, value in sampled(shape.level(dice), dice, HOURS, EVERY):
        before = len(series.hourly)
        series = series.add(when, value, every=EVERY)
        if len(series.hourly) > before:
            said = judge(series, Figures(value, None))
            found.append((series.floors(Criteria().window), said.trend is Trend.GROWING))
    return found


def growth_share(points: Sequence[Point]) -> float:
    """What the least-squares line grows by from first to last, of its start; none without enough points or bytes."""
    criteria = Criteria()
    if len(points) < criteria.least_minima:
        return 0.0
    slope, start = statistics.linear_regression([at for at, _ in points], [value for _, value in points])
    start += slope * points[0][0]
    growth = slope * (points[-1][0] - points[0][0])
    return growth / max(start, 1.0) if growth > criteria.growth_bytes else 0.0


def delay(said: Sequence[bool]) -> float:
    """Hours from the start of the trace to the first alarm; for ever without one."""
    return next((float(hour) for hour, leak in enumerate(said) if leak), float("inf"))


def median_delay(delays: Sequence[float]) -> float:
    return statistics.median_low(sorted(delays))


def matched(shares: dict[str, list[list[float]]], target: float) -> float:
    """The highest threshold with which the plain leaks are found within *target* hours, in the median."""
    plain = [run for name in PLAIN for run in shares[name]]
    steps = sorted({share for run in plain for share in run if share > 0})

    def soon(threshold: float) -> bool:
        return median_delay([delay([share >= threshold for share in run]) for run in plain]) <= target

    low, high = 0, len(steps) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if soon(steps[middle]) else (low, middle - 1)
    return steps[low]


def slow(traces: int) -> bool:
    runs = {
        shape.name: [looks(shape, seed) for seed in range(traces)]
        for shape in track(SLOW, "slow detector", console=Console(stderr=True), transient=True)
    }
    ours = {name: [delay([leak for _, leak in run]) for run in of] for name, of in runs.items()}
    shares = {name: [[growth_share(points) for points, _ in run] for run in of] for name, of in runs.items()}
    target = median_delay([hours for name in PLAIN for hours in ours[name]])
    same, tuned = Criteria().growth_share, matched(shares, target)
    said = {
        "ours": ours,
        f"squares > {tuned:.1%}": flagged(shares, tuned, 0),
        f"squares > {same:.0%} after {target:.0f} h": flagged(shares, same, target),
    }
    print(f"{traces * len(SLOW)} traces of {HOURS} h, {traces} a shape; share flagged, median delay in hours")
    print(f"  {'':32}{'':6}" + "".join(f"{name:>26}" for name in said))
    for shape in SLOW:
        kind = {True: "leak", False: "none", None: "either"}[shape.leaks]
        print(f"  {shape.name:32}{kind:6}" + "".join(f"{cell(of[shape.name]):>26}" for of in said.values()))
    false = [share_flagged(of, leaks=False) for of in said.values()]
    for (name, of), alarms in zip(said.items(), false, strict=True):
        plain = median_delay([hours for shape in PLAIN for hours in of[shape]])
        print(
            f"  {name:26} false alarms {alarms:6.1%}, leaks found {share_flagged(of, leaks=True):6.1%},"
            f" plain leaks after {plain:.0f} h"
        )
    return false[0] < min(false[1:])


def flagged(shares: dict[str, list[list[float]]], threshold: float, patience: float) -> dict[str, list[float]]:
    """The reference's delays when it says nothing before *patience* hours."""
    return {
        name: [delay([share >= threshold and hour >= patience for hour, share in enumerate(run)]) for run in of]
        for name, of in shares.items()
    }


def share_flagged(delays: dict[str, list[float]], *, leaks: bool) -> float:
    of = [hours for shape in SLOW if shape.leaks is leaks for hours in delays[shape.name]]
    return sum(hours < float("inf") for hours in of) / len(of)


def cell(delays: Sequence[float]) -> str:
    found = [hours for hours in delays if hours < float("inf")]
    return f"{len(found) / len(delays):.0%}" + (f" {statistics.median(found):5.0f}" if found else "      ")


def near(shape: Shape, seed: int) -> tuple[float, float] | None:
    """(share of the limit that is used, minutes to it) when the fast detector first speaks."""
    dice, series, growth = Random(f"{shape.name}{seed}"), Series(), None
    for when, value in sampled(shape.level(dice), dice, FAST_HOURS, FAST_EVERY):
        if value >= LIMIT * MIB:
            return None
        series = series.add(when, value, every=FAST_EVERY)
        growth = judge(series, Figures(value, LIMIT * MIB), before=growth)
        if growth.trend is Trend.EXHAUSTING:
            return value / MIB / LIMIT, (growth.seconds_to_limit or 0.0) / 60
    return None


def fast(traces: int) -> bool:
    print(f"\n{traces * len(FAST)} traces of up to {FAST_HOURS} h with a limit; share flagged, then used and left")
    held = True
    for shape in track(FAST, "fast detector", console=Console(stderr=True), transient=True):
        found = [at for at in (near(shape, seed) for seed in range(traces)) if at is not None]
        used = f"{statistics.median(u for u, _ in found):6.0%}" if found else ""
        left = f"{statistics.median(m for _, m in found):5.0f} min" if found else ""
        print(f"  {shape.name:38}{'leak' if shape.leaks else 'none':6}{len(found) / traces:>5.0%}{used}{left}")
        held &= bool(shape.leaks) or not found or shape.name in MAY_ALARM
    return held


def milliseconds(rounds: int, shape: Shape, hours: float, every: timedelta) -> float:
    """Of one sample and one verdict at the end of a trace."""
    dice, series, value = Random(1), Series(), 0
    for when, value in sampled(shape.level(dice), dice, hours, every):
        series = series.add(when, value, every=every)
    figures = Figures(value, 2 * value)
    return median_time(rounds, lambda: judge(series.add(when + every, value, every=every), figures))


def median_time(rounds: int, run: Callable[[], Growth]) -> float:
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds) * 1000


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=int, default=20, help="of each shape")
    parser.add_argument("--rounds", type=int, default=200, help="of the time of one verdict")
    options = parser.parse_args(argv)
    fewer, quiet = slow(options.traces), fast(options.traces)
    cost = milliseconds(options.rounds, SLOW[-2], HOURS, FAST_EVERY)
    print(f"\none sample and its verdict: {cost:.2f} ms (at most {MOST_MILLISECONDS:g})")
    print(f"fewer false alarms than least squares at the same delay: {'held' if fewer else 'MISSED'}")
    print(f"no false alarm of the fast detector on a level, a saw or a warm-up: {'held' if quiet else 'MISSED'}")
    return 0 if fewer and quiet and cost <= MOST_MILLISECONDS else 1


if __name__ == "__main__":
    sys.exit(main())
