"""A collector small enough to follow: rooms and their temperature; 30 degrees is a warning, 50 an emergency."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import ClassVar

from pydantic import Field

from collectors.core.collector import Aside, Collector, Memory
from schemas.health import Health, Level
from schemas.probes import ProbeError
from schemas.settings.base import Settings


class Rooms(Settings):
    every: timedelta = timedelta(seconds=30)
    steady_every: timedelta = timedelta(minutes=5)
    read_timeout: timedelta = timedelta(seconds=10)


class Warmth(Health):
    domain: ClassVar[str] = "rooms"
    signal: ClassVar[str] = "warmth"
    degrees: float | None = None


class Almanac(Memory):
    looks: int = 0
    highest: dict[str, float] = Field(default_factory=dict)
    smell: str = ""


@dataclass
class House:
    """Stands for the probes: what is in it is read."""

    rooms: dict[str, float] = field(default_factory=dict)
    error: Exception | None = None
    before: object = None
    """called in the reading thread before anything is read"""
    reads: int = 0
    smell: object = "fresh"
    smells: int = 0


def read(_settings, house, _memory):
    house.reads += 1
    if house.before is not None:
        house.before()
    if house.error is not None:
        raise house.error
    return dict(house.rooms)


def judge(_settings, reading, memory, now):
    events = [
        Warmth(target=f"room:{room}", level=level_of(degrees), degrees=degrees, observed_at=now)
        for room, degrees in reading.items()
    ]
    highest = {room: max(degrees, memory.highest.get(room, degrees)) for room, degrees in reading.items()}
    return events, memory.model_copy(update={"looks": memory.looks + 1, "highest": highest})


def level_of(degrees):
    return Level.EMERGENCY if degrees >= 50 else Level.WARNING if degrees >= 30 else Level.OK


def unknown(_memory, target, reason, now):
    return Warmth(target=target, level=Level.UNKNOWN, reason=reason, observed_at=now)


def sniff(_settings, house):
    house.smells += 1
    if callable(house.smell):
        return house.smell()
    if isinstance(house.smell, Exception):
        raise house.smell
    return house.smell


def remember_smell(memory, found, _now):
    return memory.model_copy(update={"smell": f"unknown: {found}" if isinstance(found, ProbeError) else found})


def build(aside=None):
    return Collector(
        name="rooms.warmth", title="Rooms that get hot", section_name="rooms", section=Rooms, health=Warmth,
        memory=Almanac, read=read, judge=judge, unknown=unknown, aside=aside,
    )  # fmt: skip


THERMOMETER = build()
WITH_NOSE = build(
    Aside(
        due=lambda _settings, memory, _now: memory.smell != "fresh",
        read=sniff,
        absorb=remember_smell,
        timeout=timedelta(seconds=0.05),
    )
)
