"""Limits written into the files of a control group of version 2 that no service manager owns."""

import pytest

from infra.adapters.cgroups import ControlGroups, ControlGroupWriter
from schemas.remediation import Outcome
from tests.kernel.inside.services import MIB
from tests.waiting import until


@pytest.fixture
def swapless(memory_cgroup):
    """Whose limits are met by what it holds."""
    (memory_cgroup.directory / "memory.swap.max").write_text("0")
    return memory_cgroup


def kernel(group) -> tuple[str, str]:
    return tuple((group.directory / name).read_text().strip() for name in ("memory.high", "memory.max"))


def path(group) -> str:
    return f"/{group.directory.relative_to('/sys/fs/cgroup')}"


@pytest.mark.parametrize("before", [(None, None), (200 * MIB, 300 * MIB)], ids=["no limits", "limits"])
def test_limits_are_set_and_become_what_they_were(swapless, before):
    writer, reader = ControlGroupWriter(), ControlGroups()
    assert writer.limit_memory(path(swapless), *before).outcome is Outcome.DONE
    was, files = reader.control_group(path(swapless)), kernel(swapless)
    assert (was.high, was.maximum) == before

    assert writer.limit_memory(path(swapless), 96 * MIB, 128 * MIB).outcome is Outcome.DONE
    now = reader.control_group(path(swapless))
    assert (now.high, now.maximum) == (96 * MIB, 128 * MIB)
    assert kernel(swapless) == (str(96 * MIB), str(128 * MIB))

    assert writer.limit_memory(path(swapless), was.high, was.maximum).outcome is Outcome.DONE
    assert kernel(swapless) == files


async def test_a_high_holds_a_leak_back_until_it_is_taken_away(swapless, leak):
    writer, reader = ControlGroupWriter(), ControlGroups()
    writer.limit_memory(path(swapless), 64 * MIB, None)
    leak(192 * MIB)

    await until(lambda: reader.control_group(path(swapless)).high_events >= 10, lambda: swapless.usage)
    assert 64 * MIB <= swapless.usage < 128 * MIB

    assert writer.limit_memory(path(swapless), None, None).outcome is Outcome.DONE
    await until(lambda: swapless.anonymous >= 192 * MIB, lambda: swapless.usage)
    assert swapless.oom_kills == 0


@pytest.mark.parametrize("limits", [(64 * MIB, None), (None, 64 * MIB)], ids=["high", "maximum"])
async def test_a_limit_below_what_is_in_use_is_refused_and_nothing_changed(swapless, leak, limits):
    leak(64 * MIB)
    await until(lambda: swapless.anonymous >= 64 * MIB, lambda: swapless.usage)

    done = ControlGroupWriter().limit_memory(path(swapless), *limits)

    assert done.outcome is Outcome.REFUSED
    assert kernel(swapless) == ("max", "max")
    assert swapless.oom_kills == 0


async def test_a_maximum_that_is_met_kills_and_is_counted(swapless, leak):
    ControlGroupWriter().limit_memory(path(swapless), None, 64 * MIB)
    leak(256 * MIB)

    await until(lambda: swapless.oom_kills == 1, lambda: swapless.usage)

    seen = ControlGroups().control_group(path(swapless))
    assert seen.out_of_memory_kills == 1
    assert seen.failures >= 1


async def test_what_is_above_a_high_goes_to_swap_and_is_still_held(memory_cgroup, leak):
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
