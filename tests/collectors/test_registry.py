"""Every collector is found by its name."""

import subprocess
import sys
from pathlib import Path

import pytest

from collectors import registry

TOP = Path(__file__).parents[2]


@pytest.mark.parametrize("name", registry.names())
def test_each_entry_leads_to_the_collector_of_that_name(name):
    collector = registry.load(name)
    assert collector.name == name
    assert name == f"{collector.health.domain}.{collector.health.signal}"
    assert collector.section().every > collector.section().read_timeout
    assert collector.memory() == collector.memory()
    assert collector.title


def test_an_unknown_name_is_answered_with_the_nearest_one():
    with pytest.raises(registry.UnknownCollector, match=r"no collector 'disk.presure'; did you mean disk.pressure\?"):
        registry.load("disk.presure")
    with pytest.raises(registry.UnknownCollector, match=r"there are disk\.pressure"):
        registry.load("x")


def test_a_collector_is_imported_on_first_use():
    program = (
        "import sys; from collectors import registry; import collectors.core.run\n"
        "print('collectors.disk.pressure' in sys.modules)\n"
        "registry.load('disk.pressure'); print('collectors.disk.pressure' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=TOP, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
