"""Limits set through systemd: the kernel throttles and kills by them, and they become what they were before."""

import pytest

from infra.adapters.systemd import Systemd, SystemdTools
from schemas.remediation import Outcome
from tests.kernel.inside.services import MIB, leaking, service, waiting_for
from tests.waiting import until


def kernel(machine, unit: str) -> tuple[str, str]:
    group = machine.cgroup("memory", f"/system.slice/{unit}")
    return (group / "memory.high").read_text().strip(), (group / "memory.max").read_text().strip()


def limit(unit: str, high: int | None, maximum: int | None) -> None:
    """Of the run that is now."""
    now = Systemd().unit(unit)
    assert now is not None
    done = SystemdTools().limit_memory(unit, now.invocation, high, maximum)
    assert done.outcome is Outcome.DONE, done.reason


@pytest.mark.parametrize(
    ("configured", "before"),
    [("", ("max", "max")), ("MemoryHigh=200M\nMemoryMax=300M\n", (str(200 * MIB), str(300 * MIB)))],
    ids=["no limits", "limits of its file"],
)
async def test_limits_are_set_and_become_what_they_were(machine, configured, before):
    await machine.unit("web.service", service("/bin/sleep 1000", configured))
    await machine.systemctl("start", "web.service")
    was = Systemd().unit("web.service")
    assert was is not None
    assert kernel(machine, "web.service") == before

    limit("web.service", 96 * MIB, 128 * MIB)
    now = Systemd().unit("web.service")
    assert now is not None
    assert (now.memory_high, now.memory_max) == (96 * MIB, 128 * MIB)
    assert kernel(machine, "web.service") == (str(96 * MIB), str(128 * MIB))

    limit("web.service", was.memory_high, was.memory_max)
    after = Systemd().unit("web.service")
    assert after is not None
    assert (after.memory_high, after.memory_max) == (was.memory_high, was.memory_max)
    assert kernel(machine, "web.service") == before
    assert after.invocation == was.invocation


async def test_memory_high_holds_a_leak_back_until_it_is_taken_away(machine, memory):
    await machine.unit("web.service", service(leaking(limit=192 * MIB)))
    await machine.systemctl("start", "web.service")
    limit("web.service", 64 * MIB, None)
    invocation = (await machine.show("web.service", "InvocationID"))["InvocationID"]

    await until(lambda: memory("web.service").high_events >= 10, lambda: memory("web.service"))
    await until(lambda: memory("web.service").pressure.some10 > 0, lambda: memory("web.service"))
    held_back = memory("web.service")
    assert 64 * MIB <= held_back.usage < 128 * MIB
    assert held_back.out_of_memory_kills == 0

    limit("web.service", None, None)
    await until(lambda: memory("web.service").anonymous >= 192 * MIB, lambda: memory("web.service"))
    assert kernel(machine, "web.service") == ("max", "max")
    assert (await machine.show("web.service", "InvocationID"))["InvocationID"] == invocation


async def test_memory_max_that_is_met_ends_a_service_for_memory(machine, tmp_path):
    await machine.unit("web.service", service(waiting_for(tmp_path / "go", leaking())))
    await machine.systemctl("start", "web.service")
    limit("web.service", None, 64 * MIB)

    (tmp_path / "go").touch()

    await until(lambda: Systemd().unit("web.service").failed, lambda: Systemd().unit("web.service"))
    assert Systemd().unit("web.service").result == "oom-kill"


async def test_a_kill_for_memory_is_counted_in_the_group(machine, memory, tmp_path):
    command = waiting_for(tmp_path / "go", leaking())
    await machine.unit("web.service", service(command, "OOMPolicy=continue\n"))
    await machine.systemctl("start", "web.service")
    limit("web.service", None, 64 * MIB)
    assert memory("web.service").out_of_memory_kills == 0

    (tmp_path / "go").touch()

    await until(lambda: memory("web.service").out_of_memory_kills == 1, lambda: memory("web.service"))
    seen = memory("web.service")
    assert seen.failures >= 1
    assert Systemd().unit("web.service").running


async def test_a_maximum_below_what_is_in_use_is_refused_and_nothing_changed(machine, memory):
    await machine.unit("web.service", service(leaking(limit=64 * MIB)))
    await machine.systemctl("start", "web.service")
    await until(lambda: memory("web.service").anonymous >= 64 * MIB, lambda: memory("web.service"))
    now = Systemd().unit("web.service")

    done = SystemdTools().limit_memory("web.service", now.invocation, None, 32 * MIB)

    assert done.outcome is Outcome.REFUSED
    assert kernel(machine, "web.service") == ("max", "max")
    assert memory("web.service").out_of_memory_kills == 0
