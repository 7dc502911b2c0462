"""Limits written into the files of a control group of version 2 that no service manager owns."""

import pytest

from infra.adapters.cgroups import ControlGroups, ControlGroupWriter
from schemas.remediation import Outcome
from tests.kernel.inside.services import MIB
from tests.waiting import until


def kernel(group) -> tuple[str, str]:
    return tuple((group.directory / name).read_text().strip() for name in ("memory.high", "memory.max"))


def path(group) -> str:
    return f"/{group.directory.relative_to('/sys/fs/cgroup')}"


@pytest.mark.parametrize("before", [(None, None), (200 * MIB, 300 * MIB)], ids=["no limits", "limits"])
def test_limits_are_set_and_become_what_they_were(memory_cgroup, before):
    writer, reader = ControlGroupWriter(), ControlGroups()
    assert writer.limit_memory(path(memory_cgroup), *before).outcome is Outcome.DONE
    was, files = reader.control_group(path(memory_cgroup)), kernel(memory_cgroup)
    assert (was.high, was.maximum) == before

    assert writer.limit_memory(path(memory_cgroup), 96 * MIB, 128 * MIB).outcome is Outcome.DONE
    now = reader.control_group(path(memory_cgroup))
    assert (now.high, now.maximum) == (96 * MIB, 128 * MIB)
    assert kernel(memory_cgroup) == (str(96 * MIB), str(128 * MIB))

    assert writer.limit_memory(path(memory_cgroup), was.high, was.maximum).outcome is Outcome.DONE
    assert kernel(memory_cgroup) == files


async def test_a_high_holds_a_leak_back_until_it_is_taken_away(memory_cgroup, leak):
    writer, reader = ControlGroupWriter(), ControlGroups()
    writer.limit_memory(path(memory_cgroup), 64 * MIB, None)
    leak(192 * MIB)

    await until(lambda: reader.control_group(path(memory_cgroup)).high_events >= 10, lambda: memory_cgroup.usage)
    assert 64 * MIB <= memory_cgroup.usage < 128 * MIB

    assert writer.limit_memory(path(memory_cgroup), None, None).outcome is Outcome.DONE
    await until(lambda: memory_cgroup.anonymous >= 192 * MIB, lambda: memory_cgroup.usage)
    assert memory_cgroup.oom_kills == 0


@pytest.mark.parametrize("limits", [(64 * MIB, None), (None, 64 * MIB)], ids=["high", "maximum"])
async def test_a_limit_below_what_is_in_use_is_refused_and_nothing_changed(memory_cgroup, leak, limits):
    leak(64 * MIB)
    await until(lambda: memory_cgroup.anonymous >= 64 * MIB, lambda: memory_cgroup.usage)

    done = ControlGroupWriter().limit_memory(path(memory_cgroup), *limits)

    assert done.outcome is Outcome.REFUSED
    assert kernel(memory_cgroup) == ("max", "max")
    assert memory_cgroup.oom_kills == 0


async def test_a_maximum_that_is_met_kills_and_is_counted(memory_cgroup, leak):
    ControlGroupWriter().limit_memory(path(memory_cgroup), None, 64 * MIB)
    leak(256 * MIB)

    await until(lambda: memory_cgroup.oom_kills == 1, lambda: memory_cgroup.usage)

    seen = ControlGroups().control_group(path(memory_cgroup))
    assert seen.out_of_memory_kills == 1
    assert seen.failures >= 1


async def test_what_is_above_a_high_goes_to_swap_and_is_still_held(swap, memory_cgroup, leak):
    ControlGroupWriter().limit_memory(path(memory_cgroup), 64 * MIB, None)
    leak(128 * MIB)

    def seen():
        return ControlGroups().control_group(path(memory_cgroup))

    await until(lambda: seen().held >= 128 * MIB, seen)
    assert seen().swap > 32 * MIB
    assert seen().usage < 96 * MIB
    assert seen().high_events > 0
    assert seen().out_of_memory_kills == 0


def test_a_group_that_is_gone_is_skipped():
    done = ControlGroupWriter().limit_memory("/no-such-group", None, 64 * MIB)

    assert done.outcome is Outcome.SKIPPED
