"""Synthetic memory of services, seeded: the same dice give the same trace.

Times are in hours and levels in MiB; a trace yields (when, bytes), with the jitter of a collector's clock.
"""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from math import exp, log1p, pi, sin
from random import Random
from typing import NamedTuple

from tests.fakes import START

MIB = 2**20
JITTER = 0.1
"""Of the interval, to both sides."""

Level = Callable[[float], float]
"""Hours since the start → MiB."""


def sampled(level: Level, dice: Random, hours: float, every: timedelta) -> Iterator[tuple[datetime, int]]:
    for number in range(int(timedelta(hours=hours) / every)):
        moment = (number + dice.uniform(-JITTER, JITTER)) * every
        yield START + moment, max(0, int(level(moment / timedelta(hours=1)) * MIB))


def noisy(level: Level, dice: Random, deviation: float) -> Level:
    return lambda hour: level(hour) + dice.gauss(0, deviation)


def flat(dice: Random, base: float = 800, deviation: float = 8) -> Level:
    return noisy(lambda hour: base, dice, deviation)


def leak(dice: Random, rate: float = 10, base: float = 800, deviation: float = 8) -> Level:
    """*rate* in MiB an hour."""
    return noisy(lambda hour: base + rate * hour, dice, deviation)


def step(dice: Random, rise: float = 400, base: float = 600) -> Level:
    """One rise, at any hour of three days."""
    at = dice.uniform(2, 70)
    return noisy(lambda hour: base + rise * (hour >= at), dice, 8)


def sawtooth(
    dice: Random, period: float, base: float = 400, rise: float = 400, rate: float = 0, spread: float = 0.1
) -> Level:
    """Garbage that piles up and is collected, every *period* hours give or take *spread*; *rate* leaks below it."""
    began, length = -dice.uniform(0, period), period

    def level(hour: float) -> float:
        nonlocal began, length
        while hour >= began + length:
            began, length = began + length, period * dice.uniform(1 - spread, 1 + spread)
        return base + rate * hour + rise * max(0.0, hour - began) / length

    return noisy(level, dice, 5)


def warm_up(dice: Random, tau: float, base: float = 200, rise: float = 800) -> Level:
    """A cache or heap that fills towards its size; *tau* in hours."""
    return noisy(lambda hour: base + rise * (1 - exp(-hour / tau)), dice, 5)


def diurnal(dice: Random, base: float = 800, swing: float = 200, rate: float = 0) -> Level:
    """Up and down with the day, from any hour of it; *rate* leaks below it."""
    phase = dice.uniform(0, 2 * pi)
    return noisy(lambda hour: base + rate * hour + swing * sin(2 * pi * hour / 24 + phase), dice, 10)


def burst(dice: Random, base: float = 500, rise: float = 500) -> Level:
    """A few times in three days more work for some hours, which rises and falls within minutes."""
    bursts = [(dice.uniform(0, 72), dice.uniform(0.5, 6)) for _ in range(4)]
    edge = 0.1

    def level(hour: float) -> float:
        shares = [min((hour - at) / edge, (at + length - hour) / edge, 1.0) for at, length in bursts]
        return base + rise * max(0.0, *shares)

    return noisy(level, dice, 8)


def log_filling(dice: Random, base: float = 400, rise: float = 150) -> Level:
    """A cache without a bound, of keys that come up ever more rarely."""
    return noisy(lambda hour: base + rise * log1p(hour), dice, 8)


def autocorrelated(dice: Random, base: float = 800, deviation: float = 60, memory: float = 2) -> Level:
    """A level that wanders and comes back, forgetting by 1/e in *memory* hours."""
    at, wander = 0.0, dice.gauss(0, deviation)

    def level(hour: float) -> float:
        nonlocal at, wander
        kept = exp(-max(0.0, hour - at) / memory)
        at, wander = hour, wander * kept + dice.gauss(0, deviation * (1 - kept**2) ** 0.5)
        return base + wander

    return level


class Shape(NamedTuple):
    name: str
    leaks: bool | None
    """none for growth without a bound that is no defect: what is said of it is told, and counts neither way"""
    level: Callable[[Random], Level]


SLOW = (
    Shape("flat", False, flat),
    Shape("step", False, step),
    Shape("sawtooth 20 min", False, lambda dice: sawtooth(dice, 1 / 3)),
    Shape("sawtooth 3 h", False, lambda dice: sawtooth(dice, 3)),
    Shape("sawtooth 10 h", False, lambda dice: sawtooth(dice, 10)),
    Shape("sawtooth 30 h", False, lambda dice: sawtooth(dice, 30)),
    Shape("warm-up, τ 5 h", False, lambda dice: warm_up(dice, 5)),
    Shape("warm-up, τ 12 h", False, lambda dice: warm_up(dice, 12)),
    Shape("daily wave", False, diurnal),
    Shape("burst", False, burst),
    Shape("autocorrelated noise", False, autocorrelated),
    Shape("leak 3 MiB/h", True, lambda dice: leak(dice, 3)),
    Shape("leak 10 MiB/h", True, lambda dice: leak(dice, 10)),
    Shape("leak 30 MiB/h", True, lambda dice: leak(dice, 30)),
    Shape("leak 3 MiB/h in noise", True, lambda dice: leak(dice, 3, deviation=60)),
    Shape("leak 10 MiB/h under a sawtooth", True, lambda dice: sawtooth(dice, 0.5, rate=10)),
    Shape("leak 5 MiB/h in a daily wave", True, lambda dice: diurnal(dice, rate=5)),
    Shape("cache filling like a logarithm", None, log_filling),
)
"""Three days of each, for the slow detector."""

LIMIT = 1000
"""MiB, of the shapes below."""


def late_leak(dice: Random, minutes: float = 40, base: float = 550) -> Level:
    """Level for some hours, then straight to the limit in *minutes*."""
    at = dice.uniform(1, 4)
    return noisy(lambda hour: base + (LIMIT - base) * max(0.0, hour - at) * 60 / minutes, dice, 3)


def idle_then_warm(dice: Random, tau: float, top: float = 850) -> Level:
    """A service that nobody asks for a while, and that then warms up; *tau* in hours."""
    at = dice.uniform(0.7, 3)
    return noisy(lambda hour: 200 + (top - 200) * (1 - exp(-max(0.0, hour - at) / tau)), dice, 3)


def to_the_limit(minutes: float, deviation: float = 3) -> Callable[[Random], Level]:
    return lambda dice: leak(dice, (LIMIT - 100) * 60 / minutes, 100, deviation)


def teeth(minutes: float, spread: float = 0.1, bottom: float = 300) -> Callable[[Random], Level]:
    """Garbage up to 90 % of the limit."""
    return lambda dice: sawtooth(dice, minutes / 60, bottom, 0.9 * LIMIT - bottom, spread=spread)


def warming(minutes: float, share: float = 0.85) -> Callable[[Random], Level]:
    return lambda dice: warm_up(dice, minutes / 60, 100, share * LIMIT - 100)


FAST = (
    *(Shape(f"to the limit in {m} min", True, to_the_limit(m)) for m in (60, 120, 300)),
    Shape("to the limit in 120 min, noisy", True, to_the_limit(120, 15)),
    Shape("to the limit in 40 min, after hours", True, late_leak),
    Shape("leak under a sawtooth of 2 min", True, lambda dice: sawtooth(dice, 1 / 30, 300, 150, rate=180)),
    *(Shape(f"sawtooth {m:g} min to 90 %", False, teeth(m)) for m in (0.2, 1.5, 3, 7, 12, 20, 28)),
    Shape("ragged sawtooth, 5 min", False, teeth(5, 0.7)),
    Shape("ragged sawtooth, 15 min", False, teeth(15, 0.7)),
    *(Shape(f"warm-up to 85 %, τ {m} min", False, warming(m)) for m in (3, 8, 12, 15, 20, 30, 60)),
    Shape("warm-up to 85 %, τ 5 min, late", False, lambda dice: idle_then_warm(dice, 5 / 60)),
    Shape("warm-up to 85 %, τ 15 min, late", False, lambda dice: idle_then_warm(dice, 15 / 60)),
    Shape("level at 85 %", False, lambda dice: flat(dice, 850, 10)),
    Shape("wandering at 85 %", False, lambda dice: autocorrelated(dice, 850, 30, 0.5)),
    Shape("bursts to 85 %", False, lambda dice: burst(dice, 400, 450)),
)
"""Some hours of each, with a sample a minute and a limit, for the fast detector."""
