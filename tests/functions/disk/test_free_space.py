"""The remedy: its targets, what it observes, how far from healthy that is."""

from dataclasses import replace

import pytest

from functions.disk.free_space import REMEDY
from schemas.facts.files import Mount
from schemas.health import Level
from schemas.probes import ProbeError
from schemas.settings.disk import DiskMonitoring
from tests.functions.disk.world import MIB, World


def test_the_bytes_and_the_inodes_of_every_real_filesystem_are_targets():
    other = {"mount_id": 3, "root": "/", "options": ("rw",), "source": "x"}
    world = World(other_mounts=[Mount(device="8:2", point="/srv", fstype="xfs", **other),
                                Mount(device="0:5", point="/proc", fstype="proc", **other)])  # fmt: skip
    assert REMEDY.targets(DiskMonitoring(), world) == ["bytes:/", "inodes:/", "bytes:/srv", "inodes:/srv"]


def test_observing_is_a_single_read_of_the_filesystem():
    world = World()
    seen = REMEDY.observe(world.case(), world)
    assert world.asked == ["usage"]
    assert (seen.level, seen.usage.point) == (Level.CRITICAL, "/")


@pytest.mark.parametrize("target", ["bytes:relative", "blocks:/", "/", "bytes:", ""])
def test_a_target_of_another_kind_is_an_unknown_truth(target):
    with pytest.raises(ProbeError, match=r"is no target of disk[.]free_space; they look like bytes:/var"):
        REMEDY.observe(World().case(target), World())


def test_a_vanished_mount_is_an_unknown_truth():
    with pytest.raises(ProbeError, match="/gone is no mount point"):
        REMEDY.observe(World().case("bytes:/gone"), World())


@pytest.mark.parametrize(("used", "amount"), [(920, 170), (750, 0), (700, -50)])
def test_the_gap_is_what_lies_above_the_target(used, amount):
    world = World(used=used * MIB)
    gap = REMEDY.gap(world.case(), REMEDY.observe(world.case(), world))
    assert (gap.amount, gap.unit) == (amount * MIB, "bytes")
    assert gap.closed is (amount <= 0)


def test_the_gap_of_inodes_counts_inodes():
    world = World(inodes_used=9_000)
    case = world.case("inodes:/")
    gap = REMEDY.gap(case, REMEDY.observe(case, world))
    assert (gap.amount, gap.unit) == (1_500, "inodes")


def test_less_than_the_absolute_floor_is_a_gap_at_any_percent():
    world = World(used=850 * MIB, total=1000 * MIB)
    case = world.case(
        target="bytes:/", minimum_available="200M", thresholds={"warning": 90, "critical": 95, "emergency": 98}
    )
    case_target = case.settings.model_copy(update={"target": 89})
    assert case_target.excess(REMEDY.observe(case, world).usage, "bytes") == 50 * MIB


@pytest.mark.parametrize(
    ("target", "world"), [("inodes:/", World(inodes_total=0, inodes_used=0)), ("bytes:/", World(0, 0))]
)
def test_where_there_is_no_limit_the_gap_is_unknown(target, world):
    case = world.case(target)
    gap = REMEDY.gap(case, REMEDY.observe(case, world))
    assert not gap.known
    assert "reports no" in gap.reason


def test_growth_comes_from_the_event_of_the_same_target_only():
    world = World(used=850 * MIB)
    assert REMEDY.observe(world.case(seconds_to_full=60), world).level is Level.EMERGENCY
    assert REMEDY.observe(world.case(), world).level is Level.WARNING
    of_another = replace(world.case("inodes:/"), event=world.case("bytes:/", seconds_to_full=60).event)
    assert REMEDY.observe(of_another, world).level is Level.OK
