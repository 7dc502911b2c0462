"""memory.enforce_limit without an engine: what it plans for real services is applied, and taken back.

With swap: without anything to reclaim to, it sets no MemoryHigh.
"""

from datetime import UTC, datetime

import pytest

from functions.core.remedy import Case
from functions.memory.enforce_limit import REMEDY
from functions.memory.limit_actions import LimitControlGroup, LimitUnit, ReleaseHigh
from infra.hosts.local import LocalProbes, LocalTools
from schemas.remediation import Outcome
from schemas.settings.memory import MemoryMonitoring, ProcessMatch, ServiceMemory
from tests.kernel.inside.services import MIB, leaking, service
from tests.waiting import until

HIGH, MAXIMUM = 96 * MIB, 160 * MIB


class Walk:
    """The function on one target, by the probes and tools of this machine."""

    def __init__(self, target: str) -> None:
        self.probes, self.tools = LocalProbes(), LocalTools()
        settings = MemoryMonitoring(
            processes={"leak": ProcessMatch(command="programs/leaking.py")},
            services={target: ServiceMemory(high=HIGH, maximum=MAXIMUM)},
        )
        self.case = Case("host-1", target, settings, datetime.now(UTC))
        assert REMEDY.targets(settings, self.probes) == [target]

    def seen(self):
        return REMEDY.observe(self.case, self.probes)

    def missing(self) -> float:
        gap = REMEDY.gap(self.case, self.seen())
        assert gap.known
        return gap.amount

    def planned(self):
        """The only action of the plan."""
        seen = self.seen()
        plan = REMEDY.plan(self.case, seen, REMEDY.survey(self.case, seen, self.probes))
        (action,) = [action for rung in plan.rungs for action in rung.actions]
        return action

    def done(self, action):
        result = action.apply(self.tools)
        assert result.outcome is Outcome.DONE, result
        return result


def limits(walk: Walk) -> tuple[int | None, int | None]:
    seen = walk.seen()
    return seen.high, seen.maximum


@pytest.mark.parametrize(
    ("configured", "before"),
    [("", (None, None)), ("MemoryHigh=200M\nMemoryMax=300M\n", (200 * MIB, 300 * MIB))],
    ids=["no limits", "limits of its file"],
)
async def test_a_service_is_held_to_its_limits_and_gets_the_old_ones_back(swap, machine, configured, before):
    await machine.unit("web.service", service("/bin/sleep 1000", configured))
    await machine.systemctl("start", "web.service")
    walk = Walk("unit:web.service")
    assert (walk.missing(), limits(walk)) == (2, before)

    action = walk.planned()
    result = walk.done(action)

    assert isinstance(action, LimitUnit)
    assert (walk.missing(), limits(walk)) == (0, (HIGH, MAXIMUM))

    walk.done(action.inverse(result))

    assert (walk.missing(), limits(walk)) == (2, before)


async def test_without_swap_a_service_is_held_to_its_maximum_only(machine):
    await machine.unit("web.service", service("/bin/sleep 1000"))
    await machine.systemctl("start", "web.service")
    walk = Walk("unit:web.service")
    assert walk.missing() == 1

    result = walk.done(action := walk.planned())
    assert (walk.missing(), limits(walk)) == (0, (None, MAXIMUM))

    walk.done(action.inverse(result))
    assert (walk.missing(), limits(walk)) == (1, (None, None))


async def test_processes_in_a_group_of_nobodys_are_held_by_its_files(swap, memory_cgroup, leak):
    leak(32 * MIB)
    await until(lambda: memory_cgroup.anonymous >= 32 * MIB, lambda: memory_cgroup.usage)
    walk = Walk("process:leak")
    assert (walk.missing(), limits(walk)) == (2, (None, None))

    action = walk.planned()
    result = walk.done(action)

    assert isinstance(action, LimitControlGroup)
    assert (walk.missing(), limits(walk)) == (0, (HIGH, MAXIMUM))

    walk.done(action.inverse(result))

    assert (walk.missing(), limits(walk)) == (2, (None, None))


async def test_a_memory_high_that_strangles_is_lifted_and_the_maximum_stays(swap, machine):
    await machine.unit("web.service", service(leaking(rate=16 * MIB, limit=120 * MIB)))
    await machine.systemctl("start", "web.service")
    walk = Walk("unit:web.service")
    walk.done(walk.planned())

    await until(lambda: walk.missing() == 1, walk.seen, seconds=240)  # the pressure is that of the last minute
    action = walk.planned()
    walk.done(action)

    assert isinstance(action, ReleaseHigh)
    assert limits(walk) == (None, MAXIMUM)
    await until(lambda: walk.seen().working_set >= 120 * MIB, walk.seen)
