"""A house to look at, and a run that looks at it."""

import pytest

from collectors.core.run import CollectorRun
from tests.collectors.core.thermometer import THERMOMETER, House, Rooms
from tests.fakes import FakeClock, FakeOutlet


@pytest.fixture
def house():
    return House({"kitchen": 20, "attic": 25})


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def outlet():
    return FakeOutlet()


@pytest.fixture
def start(house, clock, outlet):
    """Makes a run; `directory`, `settings` and `collector` may be given."""

    def build(collector=THERMOMETER, settings=None, **options):
        options = {"clock": clock, "jitter": lambda: 0.0, **options}
        return CollectorRun(collector, settings or Rooms(), house, outlet, "web-1.example", **options)

    return build
