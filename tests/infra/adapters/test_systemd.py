"""A real systemd. What is tested runs beside it, in its namespaces, as it does on a host: one process for all tests."""

import asyncio
import sys
from pathlib import Path

import pytest

from functions.core.ports import ToolError
from infra.adapters.cgroups import MARGIN
from infra.adapters.systemd import Systemd, SystemdTools
from infra.adapters.systemd_changes import Verdict, another_run
from schemas.facts.units import Unit
from schemas.probes import ProbeError
from schemas.remediation import Outcome
from tests import cgroups
from tests.beside import Beside
from tests.systemd import Machine
from tests.waiting import until

MIB = 1 << 20
LONG = 60  # seconds
SLEEP = "/bin/sleep 1000"
V1 = "control groups of version 1"

CALLED = """
from infra.adapters import systemd


def called(kind, settings, method, arguments):
    return getattr(getattr(systemd, kind)(**settings), method)(*arguments)
"""


class Units:
    """Calls a probe or tool of units inside; what it raises there is raised here."""

    def __init__(self, machine: Machine) -> None:
        self._beside = Beside(machine, CALLED)

    async def probe(self, method: str, *arguments, **settings):
        return await asyncio.to_thread(self._beside.call, "Systemd", settings, method, arguments)

    async def tool(self, method: str, *arguments, **settings):
        return await asyncio.to_thread(self._beside.call, "SystemdTools", settings, method, arguments)

    async def unit(self, name: str) -> Unit:
        found = await self.probe("unit", name)
        assert found is not None
        return found

    def end(self) -> None:
        self._beside.end()


@pytest.fixture(scope="module")
def beside_once(systemd_machine):
    beside = Units(systemd_machine)
    yield beside
    beside.end()


@pytest.fixture
def beside(machine, beside_once):
    return beside_once


def service(command: str = SLEEP, more: str = "", head: str = "") -> str:
    return f"[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=100\n{head}[Service]\nExecStart={command}\n{more}"


async def started(machine, name: str, text: str) -> None:
    await machine.unit(name, text)
    await machine.systemctl("start", name)


async def kept(machine, name: str) -> None:
    """Loaded also while it does not run: something that runs wants it."""
    link = machine.path(f"/run/systemd/system/basic.target.wants/{name}")
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(f"/run/systemd/system/{name}")
    await machine.systemctl("daemon-reload")


async def becomes(beside, name: str, active: str) -> Unit:
    async def there():
        seen = await beside.unit(name)
        return seen if seen.active == active else None

    return await until(there)


# ── reading ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_unit_that_runs_is_told(machine, beside):
    more = "Restart=on-failure\nRestartSec=1500ms\nTimeoutStopSec=90500ms\nTimeoutStartSec=infinity\nMemoryMax=512M\n"
    await started(machine, "web.service", service(more=more, head='Description=Web = "the" front end\n'))

    seen = await beside.unit("web.service")

    assert (seen.name, seen.description) == ("web.service", 'Web = "the" front end')
    assert (seen.load, seen.active, seen.sub, seen.result) == ("loaded", "active", "running", "success")
    assert (seen.type, seen.enabled, seen.control_group) == ("simple", "static", "/system.slice/web.service")
    assert seen.main_pid == int((await machine.show("web.service", "MainPID"))["MainPID"])
    assert seen.invocation == (await machine.show("web.service", "InvocationID"))["InvocationID"]
    assert (seen.restart_policy, seen.restart_delay, seen.restarts) == ("on-failure", 1.5, 0)
    assert (seen.start_limit_burst, seen.start_limit_interval) == (100, 3600)
    assert (seen.stop_timeout, seen.start_timeout) == (90.5, None)
    assert (seen.memory_max, seen.memory_high) == (512 * MIB, None)
    assert (seen.can_start, seen.can_stop, seen.can_reload, seen.job, seen.delegated) == (
        True,
        True,
        False,
        False,
        False,
    )
    assert (seen.exit_code, seen.exit_status, seen.active_until) == (None, None, None)
    assert seen.running
    assert not seen.masked


async def test_a_unit_that_failed_tells_how(machine, beside):
    await started(machine, "web.service", service("/bin/sh -c 'exit 3'"))

    seen = await becomes(beside, "web.service", "failed")

    assert (seen.result, seen.exit_code, seen.exit_status, seen.main_pid) == ("exit-code", 1, 3, None)
    assert seen.active_since is not None
    assert seen.active_since <= seen.inactive_since


async def test_a_unit_that_was_stopped_is_inactive_and_ended_in_order(machine, beside):
    await started(machine, "web.service", service())
    await machine.systemctl("stop", "web.service")

    seen = await beside.unit("web.service")

    assert (seen.active, seen.result, seen.running, seen.failed) == ("inactive", "success", False, False)


async def test_an_unknown_unit_is_none(beside):
    assert await beside.probe("unit", "no-such.service") is None


async def test_a_unit_whose_file_was_removed_is_told_as_long_as_it_runs(machine, beside):
    await started(machine, "web.service", service())
    machine.path("/run/systemd/system/web.service").unlink()
    await machine.systemctl("daemon-reload")

    assert (await beside.unit("web.service")).running
    assert [unit.name for unit in await beside.probe("services", ["we*.service"])] == ["web.service"]
    await machine.systemctl("stop", "web.service")
    assert await beside.probe("unit", "web.service") is None


async def test_a_masked_unit_is_told_as_masked(machine, beside):
    await machine.systemctl("mask", "--runtime", "web.service")

    assert (await beside.unit("web.service")).masked


async def test_names_with_escapes_and_instances_of_templates_are_told_as_they_are(machine, beside):
    await machine.unit("app@.service", service())
    await started(machine, r"foo\x2dbar.service", service(head="Requires=app@a-b.service\n"))

    dependent, instance = await beside.unit(r"foo\x2dbar.service"), await beside.unit("app@a-b.service")

    assert dependent.name == r"foo\x2dbar.service"
    assert "app@a-b.service" in dependent.requires
    assert instance.dependants == (r"foo\x2dbar.service",)
    assert instance.running
    globs = [r"foo\x2d*", "app@*.service"]
    assert {unit.name for unit in await beside.probe("services", globs)} == {dependent.name, instance.name}


async def test_a_unit_is_told_once_under_its_own_name_whatever_names_it_has(machine, beside):
    await started(machine, "web.service", service())
    link = machine.path("/run/systemd/system/www.service")
    link.symlink_to("/run/systemd/system/web.service")
    await machine.systemctl("daemon-reload")

    found = await beside.probe("services", ["www.service", "web.service", "we*"])

    assert [unit.name for unit in found] == ["web.service"]
    assert (await beside.unit("www.service")).name == "web.service"


async def test_globs_match_services_only_and_those_that_do_not_run_too(machine, beside):
    await machine.unit("web.socket", "[Socket]\nListenStream=/run/web.sock\n")
    await started(machine, "web.service", service(head="Requires=web.socket\n"))
    await machine.systemctl("stop", "web.service")
    await kept(machine, "web.service")

    found = await beside.probe("services", ["*"])

    assert "web.service" in {unit.name for unit in found}
    assert all(unit.name.endswith(".service") for unit in found)
    assert await beside.probe("services", ["web.socket"]) == []
    assert (await beside.unit("web.service")).sockets == ("web.socket",)


async def test_hundreds_of_units_are_told_by_one_call(machine, beside, tmp_path):
    await machine.unit("app@.service", service())
    names = {f"app@{number}.service" for number in range(200)}
    await machine.systemctl("start", *names)
    count = tmp_path / "systemctl"
    count.write_text(f'#!/bin/sh\necho call >>{tmp_path}/calls\nexec /bin/systemctl "$@"\n')
    count.chmod(0o755)

    found = await beside.probe("services", ["app@*.service"], environment={"PATH": f"{tmp_path}:/usr/bin:/bin"})

    assert {unit.name for unit in found} == names
    assert all(unit.running for unit in found)
    assert (tmp_path / "calls").read_text() == "call\n"


@pytest.mark.parametrize("name", ["*.service", "123", "--help", "app@.service", "a b.service", "web", ""])
async def test_what_is_no_name_names_no_unit_and_keeps_none_of_the_others_away(machine, beside, name):
    await started(machine, "web.service", service())

    assert await beside.probe("unit", name) is None
    if not name.startswith("*"):
        assert [unit.name for unit in await beside.probe("services", [name, "web.service"])] == ["web.service"]


async def test_no_globs_are_no_units(beside):
    assert await beside.probe("services", []) == []


async def test_a_unit_that_systemd_will_start_again_by_itself_says_so(machine, beside):
    await started(machine, "web.service", service("/bin/false", "Restart=always\nRestartSec=1h\n"))

    seen = await becomes(beside, "web.service", "activating")

    assert seen.restarting
    assert (seen.result, seen.exit_status, seen.job) == ("exit-code", 1, False)


async def test_a_changed_file_a_refusal_and_a_delegation_are_told(machine, beside):
    text = service(more="Delegate=yes\n", head="RefuseManualStop=yes\nRefuseManualStart=yes\n")
    await machine.unit("web.service", text)
    await machine.unit("front.service", service(head="Requires=web.service\n"))
    await machine.systemctl("start", "front.service")
    machine.path("/run/systemd/system/web.service").write_text(text + "Nice=5\n")

    seen = await beside.unit("web.service")

    assert (seen.refuses_manual_start, seen.refuses_manual_stop) == (True, True)
    assert (seen.delegated, seen.reload_needed) == (True, True)


@pytest.mark.needs("memory limit")
async def test_what_a_unit_uses_is_told(machine, beside):
    await started(machine, "web.service", service())

    assert 0 < (await beside.unit("web.service")).memory_current < 64 * MIB


# ── where systemd does not run, or can't be asked ─────────────────────────────────────────────────────────────────────


@pytest.fixture
def no_systemd(tmp_path):
    return str(tmp_path / "no-systemd")


def test_where_systemd_does_not_run_the_truth_is_unknown_and_nothing_is_done(no_systemd):
    for read in (lambda probe: probe.services(["*.service"]), lambda probe: probe.unit("web.service")):
        with pytest.raises(ProbeError, match=rf"it does not run here, there is no {no_systemd}; run ansai on the host"):
            read(Systemd(no_systemd))
    tools = SystemdTools(no_systemd)
    for change in (
        lambda: tools.restart("web.service", "", 1),
        lambda: tools.start("web.service", "", 1),
        lambda: tools.start_anew("web.service", "", 1),
        lambda: tools.limit_memory("web.service", "", None, None),
    ):
        with pytest.raises(ToolError, match="it does not run here"):
            change()


def test_without_systemctl_its_package_is_named(tmp_path):
    with pytest.raises(ProbeError, match="systemctl is not installed; install the package systemd"):
        Systemd(str(tmp_path), {"PATH": str(tmp_path)}).unit("web.service")


async def test_a_systemd_that_does_not_answer_is_unknown(beside):
    nobody = {"SYSTEMCTL_FORCE_BUS": "1", "DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent"}

    with pytest.raises(ProbeError, match="ended with status 1: Failed to connect to bus"):
        await beside.probe("unit", "web.service", environment=nobody)


@pytest.mark.parametrize("name", ["*.service", "web", "--help", "app@.service", "12"])
async def test_what_is_no_name_is_never_acted_on(machine, beside, name):
    await started(machine, "web.service", service())
    before = await beside.unit("web.service")

    for method, arguments in (
        ("restart", (before.invocation, LONG)), ("start", (before.invocation, LONG)),
        ("start_anew", (before.invocation, LONG)), ("limit_memory", (before.invocation, None, 1 << 30)),
    ):  # fmt: skip
        with pytest.raises(ToolError, match="is no name of a unit"):
            await beside.tool(method, name, *arguments)

    assert (await beside.unit("web.service")).invocation == before.invocation


# ── restarting ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def run_of(beside, name: str) -> str:
    return (await beside.unit(name)).invocation


async def test_a_unit_is_restarted_and_its_new_run_is_told(machine, beside):
    await started(machine, "web.service", service())
    before = await beside.unit("web.service")

    result = await beside.tool("restart", "web.service", before.invocation, LONG)

    after = await beside.unit("web.service")
    assert result.outcome is Outcome.DONE
    assert result.reason == f"it is active (running); run {before.invocation} → {after.invocation}"
    assert after.main_pid != before.main_pid
    assert (result.name, result.freed) == ("web.service", {})


async def test_a_failed_unit_is_restarted(machine, beside, tmp_path):
    await started(machine, "web.service", service(f"/bin/sh -c 'test -e {tmp_path}/fixed && exec sleep 1000'"))
    before = await becomes(beside, "web.service", "failed")
    (tmp_path / "fixed").touch()

    result = await beside.tool("restart", "web.service", before.invocation, LONG)

    assert result.outcome is Outcome.DONE
    assert (await beside.unit("web.service")).running


async def test_another_run_than_planned_is_left_alone(machine, beside):
    await started(machine, "web.service", service())
    planned = await run_of(beside, "web.service")
    await machine.systemctl("restart", "web.service")
    now = await run_of(beside, "web.service")

    result = await beside.tool("restart", "web.service", planned, LONG)

    assert result.outcome is Outcome.SKIPPED
    assert result.reason == f"it was started anew since this was planned: its run is {now}, not {planned}"
    assert await run_of(beside, "web.service") == now


@pytest.mark.parametrize("loaded", [True, False], ids=["still loaded", "unloaded"])
async def test_a_unit_that_was_stopped_on_purpose_stays_stopped(machine, beside, loaded):
    await started(machine, "web.service", service())
    if loaded:
        await kept(machine, "web.service")
    planned = await run_of(beside, "web.service")
    await machine.systemctl("stop", "web.service")
    assert await run_of(beside, "web.service") == (planned if loaded else "")

    result = await beside.tool("restart", "web.service", planned, LONG)

    assert result.outcome is Outcome.SKIPPED
    assert "it was stopped since this was planned" in result.reason
    assert (await beside.unit("web.service")).active == "inactive"


ENDS_WITH_143 = "/bin/sh -c 'trap \"exit 143\" TERM; touch %s/up; while :; do sleep 0.02; done'"
"""As many a Java program does on SIGTERM: for systemd that is no end in order."""


async def test_a_unit_that_was_stopped_and_failed_only_thereby_stays_stopped(machine, beside, tmp_path):
    await started(machine, "web.service", service(ENDS_WITH_143 % tmp_path, "Restart=always\n"))
    await until(lambda: (tmp_path / "up").exists())
    planned = await run_of(beside, "web.service")
    await machine.systemctl("stop", "web.service")

    seen = await beside.unit("web.service")
    assert (seen.failed, seen.failed_when_stopped, seen.exit_status) == (True, True, 143)
    for method in ("restart", "start", "start_anew"):
        result = await beside.tool(method, "web.service", planned, LONG)
        assert result.outcome is Outcome.SKIPPED
        assert result.reason.startswith("it was stopped, and is failed (exit-code, status 143) only because")
    assert (await beside.unit("web.service")).failed


@pytest.mark.parametrize(
    ("more", "command", "stopped"),
    [
        ("TimeoutStopSec=200ms\n", "trap '' TERM; touch {up}; while :; do sleep 0.02; done", True),
        ("ExecStop=/bin/false\n", "touch {up}; exec sleep 1000", True),
        ("ExecStopPost=/bin/sleep 0.1\n", "touch {up}; exit 3", False),
        ("RuntimeMaxSec=200ms\n", "touch {up}; exec sleep 1000", False),
        ("Type=notify\nNotifyAccess=all\nWatchdogSec=200ms\n", "systemd-notify --ready; touch {up}; sleep 1000", False),
    ],
    ids=["it had to be killed", "its own stop command failed", "it crashed", "its time was up", "the watchdog"],
)
async def test_whether_it_was_stopped_or_broke_is_told_by_when_its_process_ended(
    machine, beside, tmp_path, more, command, stopped
):
    script = tmp_path / "script"
    script.write_text(command.format(up=tmp_path / "up"))
    await started(machine, "web.service", service(f"/bin/sh {script}", more))
    await until(lambda: (tmp_path / "up").exists())
    if stopped:
        await machine.systemctl("stop", "web.service", check=False)

    assert (await becomes(beside, "web.service", "failed")).failed_when_stopped is stopped


async def test_a_restart_that_fails_is_no_stop(machine, beside, tmp_path):
    script = tmp_path / "script"
    script.write_text(f"trap 'exit 143' TERM; test -e {tmp_path}/bad && exit 5; systemd-notify --ready\n"
                      "while :; do sleep 0.02; done")  # fmt: skip
    await started(machine, "web.service", service(f"/bin/sh {script}", "Type=notify\nNotifyAccess=all\n"))
    (tmp_path / "bad").touch()
    await machine.systemctl("restart", "web.service", check=False)

    seen = await beside.unit("web.service")

    assert (seen.failed, seen.exit_status, seen.failed_when_stopped) == (True, 5, False)


async def test_a_unit_that_does_not_run_is_started_by_no_restart(machine, beside):
    await machine.unit("web.service", service())

    assert (await beside.tool("restart", "web.service", "", LONG)).outcome is Outcome.SKIPPED
    assert (await beside.unit("web.service")).active == "inactive"


@pytest.mark.parametrize("method", ["start", "start_anew"])
async def test_only_the_failure_that_was_planned_for_is_followed_by_a_start(machine, beside, method, tmp_path):
    await started(machine, "web.service", service("/bin/false"))
    failed = await becomes(beside, "web.service", "failed")

    async def tried() -> str:
        result = await beside.tool(method, "web.service", failed.invocation, LONG)
        assert result.outcome is Outcome.SKIPPED
        return result.reason

    await machine.systemctl("reset-failed", "web.service")
    assert await tried() == "it was stopped since this was planned, or its failure was cleared"
    await machine.systemctl("start", "web.service")
    again = await becomes(beside, "web.service", "failed")
    assert await tried() == f"it was started anew since this was planned: its run is {again.invocation}, not " + (
        failed.invocation
    )
    await machine.unit("web.service", service())
    await machine.systemctl("start", "web.service")
    assert await tried() == "it is active (running) by now"


async def test_a_unit_that_is_gone_is_skipped(beside):
    for method in ("restart", "start", "start_anew"):
        result = await beside.tool(method, "no-such.service", "", LONG)
        assert (result.outcome, result.reason) == (Outcome.SKIPPED, "systemd knows no such unit any more")


@pytest.mark.parametrize("reloaded", [True, False], ids=["read again", "not yet read again"])
async def test_a_masked_unit_is_never_touched(machine, beside, reloaded):
    await started(machine, "web.service", service())
    machine.path("/etc/systemd/system/web.service").symlink_to("/dev/null")
    if reloaded:
        await machine.systemctl("daemon-reload")
    before = await machine.show("web.service", "InvocationID", "ActiveState", "MemoryMax")
    assert before["ActiveState"] == "active"

    for method, arguments in (
        *((method, (before["InvocationID"], LONG)) for method in ("restart", "start", "start_anew")),
        ("limit_memory", (before["InvocationID"], None, 1 << 30)), ("limit_memory", ("", None, None)),
    ):  # fmt: skip
        result = await beside.tool(method, "web.service", *arguments)
        assert (result.outcome, result.reason) == (Outcome.SKIPPED, "it is masked: somebody forbade it to run")

    assert await machine.show("web.service", "InvocationID", "ActiveState", "MemoryMax") == before


async def test_a_failed_unit_that_is_masked_stays_failed(machine, beside):
    await started(machine, "web.service", service("/bin/false"))
    failed = await becomes(beside, "web.service", "failed")
    machine.path("/run/systemd/system/web.service").unlink()
    await machine.systemctl("mask", "--runtime", "web.service")

    for method in ("start", "start_anew"):
        assert (await beside.tool(method, "web.service", failed.invocation, LONG)).outcome is Outcome.SKIPPED

    assert (await beside.unit("web.service")).failed


async def test_a_unit_that_may_not_be_stopped_by_itself_is_refused(machine, beside):
    await started(machine, "web.service", service(head="RefuseManualStop=yes\n"))
    planned = await run_of(beside, "web.service")

    result = await beside.tool("restart", "web.service", planned, LONG)

    assert result.outcome is Outcome.REFUSED
    assert "RefuseManualStop=" in result.reason
    assert await run_of(beside, "web.service") == planned


async def test_a_unit_that_may_not_be_started_by_itself_is_refused(machine, beside):
    await machine.unit("web.service", service("/bin/false", head="RefuseManualStart=yes\n"))
    await machine.unit("front.service", service(head="Wants=web.service\n"))
    await machine.systemctl("start", "front.service")
    failed = await becomes(beside, "web.service", "failed")

    for method in ("start", "start_anew", "restart"):
        result = await beside.tool(method, "web.service", failed.invocation, LONG)
        assert result.outcome is Outcome.REFUSED
        assert "RefuseManualStart=" in result.reason
    assert (await beside.unit("web.service")).failed  # nothing was cleared either


async def test_a_changed_file_is_not_applied_as_a_side_effect(machine, beside):
    await started(machine, "web.service", service())
    planned = await run_of(beside, "web.service")
    machine.path("/run/systemd/system/web.service").write_text(service("/bin/sleep 2000"))

    result = await beside.tool("restart", "web.service", planned, LONG)

    assert result.outcome is Outcome.REFUSED
    assert "run systemctl daemon-reload" in result.reason
    assert await run_of(beside, "web.service") == planned


async def slow_to_stop(machine, directory: Path, name: str = "web.service") -> None:
    """Stops when the file `let-go` is there."""
    waiting = f"ExecStop=/bin/sh -c 'until test -e {directory}/let-go; do sleep 0.02; done'\n"
    await started(machine, name, service(more=waiting))


async def test_a_restart_that_is_not_over_in_time_is_in_progress_and_systemd_goes_on(machine, beside, tmp_path):
    await slow_to_stop(machine, tmp_path)
    planned = await run_of(beside, "web.service")

    result = await beside.tool("restart", "web.service", planned, 0.3)

    assert result.outcome is Outcome.IN_PROGRESS
    assert "it is deactivating (stop), and systemd goes on with it: systemctl did not end within 0.3 s" in result.reason
    assert "look at systemctl status web.service and journalctl --unit=web.service" in result.reason
    assert (await beside.unit("web.service")).job
    (tmp_path / "let-go").touch()
    after = await becomes(beside, "web.service", "active")
    assert after.invocation != planned


async def test_a_unit_with_which_something_is_being_done_is_left_to_that(machine, beside, tmp_path):
    await slow_to_stop(machine, tmp_path)
    planned = await run_of(beside, "web.service")
    await machine.systemctl("stop", "--no-block", "web.service")

    for method, arguments in (
        *((method, (planned, LONG)) for method in ("restart", "start", "start_anew")),
        ("limit_memory", (planned, None, 1 << 30)),
    ):
        result = await beside.tool(method, "web.service", *arguments)
        assert result.outcome is Outcome.DEFERRED
        assert "look at systemctl list-jobs" in result.reason

    (tmp_path / "let-go").touch()
    await becomes(beside, "web.service", "inactive")


async def test_a_restart_after_which_it_does_not_come_up_failed(machine, beside, tmp_path):
    check = f"ExecStartPre=/bin/sh -c 'test ! -e {tmp_path}/broken'\n"
    await started(machine, "web.service", service(more=check))
    planned = await run_of(beside, "web.service")
    (tmp_path / "broken").touch()

    result = await beside.tool("restart", "web.service", planned, LONG)

    assert result.outcome is Outcome.FAILED
    assert result.reason.startswith("it is failed (exit-code")
    assert "Job for web.service failed" in result.reason
    assert "journalctl --unit=web.service" in result.reason


async def test_a_restart_that_systemd_did_not_begin_leaves_the_run_and_failed(machine, beside):
    await started(machine, "web.service", service())
    planned = await run_of(beside, "web.service")
    await machine.unit("web.service", service(head="Requires=no-such.service\n"))

    result = await beside.tool("restart", "web.service", planned, LONG)

    assert result.outcome is Outcome.FAILED
    assert result.reason.startswith("it is still active (running) in the same run: Failed to restart web.service: Unit")
    assert await run_of(beside, "web.service") == planned


async def test_a_restart_after_which_systemd_tries_again_by_itself_failed(machine, beside, tmp_path):
    check = f"ExecStartPre=/bin/sh -c 'test ! -e {tmp_path}/broken'\nRestart=always\nRestartSec=1h\n"
    await started(machine, "web.service", service(more=check))
    planned = await run_of(beside, "web.service")
    (tmp_path / "broken").touch()

    result = await beside.tool("restart", "web.service", planned, LONG)

    assert result.outcome is Outcome.FAILED
    assert "systemd itself will start it again" in result.reason


async def test_a_unit_that_waits_to_be_started_again_is_not_made_to_wait(machine, beside, tmp_path):
    command = f"/bin/sh -c 'test -e {tmp_path}/fixed && exec sleep 1000'"
    await started(machine, "web.service", service(command, "Restart=always\nRestartSec=1h\n"))
    waiting = await becomes(beside, "web.service", "activating")
    (tmp_path / "fixed").touch()

    assert (await beside.tool("restart", "web.service", waiting.invocation, LONG)).outcome is Outcome.DONE

    assert (await beside.unit("web.service")).running


async def test_a_oneshot_is_done_when_it_ran_to_its_end(machine, beside, tmp_path):
    command = f"/bin/sh -c 'echo ran >>{tmp_path}/runs'"
    failed = await failed_before(machine, beside, service(command, "Type=oneshot\n"))

    result = await beside.tool("restart", "web.service", failed, LONG)

    assert result.outcome is Outcome.DONE
    assert (tmp_path / "runs").read_text() == "ran\n"


async def test_a_unit_whose_condition_does_not_hold_was_not_started(machine, beside):
    failed = await failed_before(machine, beside, service(head="ConditionPathExists=/no-such-file\n"))

    still = await beside.tool("start", "web.service", failed, LONG)
    cleared = await beside.tool("start_anew", "web.service", failed, LONG)

    assert still.outcome is Outcome.FAILED
    assert "it is still failed (exit-code, status 1) in the same run" in still.reason
    assert cleared.outcome is Outcome.PARTIAL
    assert cleared.reason.startswith("its failure and its count of starts were cleared, but it is inactive (dead)")
    assert "a condition in its file does not hold" in cleared.reason


async def test_an_instance_of_a_template_is_restarted_alone(machine, beside):
    await machine.unit("app@.service", service())
    await machine.systemctl("start", "app@1.service", r"app@a\x2db.service")
    planned, other = await run_of(beside, r"app@a\x2db.service"), await run_of(beside, "app@1.service")

    result = await beside.tool("restart", r"app@a\x2db.service", planned, LONG)

    assert result.outcome is Outcome.DONE
    assert await run_of(beside, r"app@a\x2db.service") != planned
    assert await run_of(beside, "app@1.service") == other


async def test_the_dependants_that_are_told_are_those_that_restart_with_it(machine, beside):
    words = {
        "bound": "BindsTo",
        "part": "PartOf",
        "requiring": "Requires",
        "requisite": "Requisite",
        "wanting": "Wants",
    }
    await started(machine, "base.service", service())
    for name, word in words.items():
        await started(machine, f"{name}.service", service(head=f"{word}=base.service\nAfter=base.service\n"))
    before = {name: await run_of(beside, f"{name}.service") for name in words}
    base = await beside.unit("base.service")

    result = await beside.tool("restart", "base.service", base.invocation, LONG)

    assert result.outcome is Outcome.DONE
    after = {name: await run_of(beside, f"{name}.service") for name in words}
    assert {f"{name}.service" for name in words if after[name] != before[name]} == set(base.dependants)
    assert "wanting.service" not in base.dependants


# ── starting, and clearing a failure ──────────────────────────────────────────────────────────────────────────────────


async def failed_before(machine, beside, text: str) -> str:
    """The run in which web.service failed; its file is *text* by now."""
    await started(machine, "web.service", service("/bin/false"))
    failed = await becomes(beside, "web.service", "failed")
    await machine.unit("web.service", text)
    return failed.invocation


@pytest.mark.parametrize("method", ["start", "start_anew"])
async def test_a_unit_is_started_unless_it_runs_by_then(machine, beside, method):
    failed = await failed_before(machine, beside, service())

    assert (await beside.tool(method, "web.service", failed, LONG)).outcome is Outcome.DONE
    now = await run_of(beside, "web.service")
    second = await beside.tool(method, "web.service", failed, LONG)

    assert (second.outcome, second.reason) == (Outcome.SKIPPED, "it is active (running) by now")
    assert await run_of(beside, "web.service") == now


@pytest.mark.parametrize("method", ["start", "start_anew"])
async def test_a_start_that_is_not_over_in_time_is_in_progress(machine, beside, tmp_path, method):
    before = f"ExecStartPre=/bin/sh -c 'until test -e {tmp_path}/go; do sleep 0.02; done'\n"
    failed = await failed_before(machine, beside, service(more=before))

    result = await beside.tool(method, "web.service", failed, 0.3)

    assert result.outcome is Outcome.IN_PROGRESS
    assert "activating" in result.reason
    (tmp_path / "go").touch()
    await becomes(beside, "web.service", "active")


async def test_a_unit_in_its_start_limit_is_started_after_its_failure_was_cleared(machine, beside, tmp_path):
    command = f"/bin/sh -c 'test -e {tmp_path}/fixed && exec sleep 1000; exit 0'"
    text = f"[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=2\n[Service]\nExecStart={command}\n"
    await started(machine, "web.service", f"{text}Restart=always\nRestartSec=10ms\n")
    failed = await becomes(beside, "web.service", "failed")
    assert failed.result == "start-limit-hit"
    (tmp_path / "fixed").touch()

    early = await beside.tool("start", "web.service", failed.invocation, LONG)
    late = await beside.tool("start_anew", "web.service", failed.invocation, LONG)

    assert early.outcome is Outcome.FAILED
    assert "after systemctl reset-failed web.service it may be started again" in early.reason
    assert late.outcome is Outcome.DONE
    assert (await beside.unit("web.service")).running


async def test_a_unit_that_was_cleared_in_vain_says_so(machine, beside):
    failed = await failed_before(machine, beside, service("/no/such/program", "Type=forking\n"))

    result = await beside.tool("start_anew", "web.service", failed, LONG)

    assert result.outcome is Outcome.PARTIAL
    assert result.reason.startswith("its failure and its count of starts were cleared, but it is failed (exit-code")


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────────────

limits = pytest.mark.needs("memory limit")


def throttles() -> bool:
    return cgroups.memory_hierarchy().type == "cgroup2"


def held_to(machine, name: str = "web.service") -> float:
    """The limit that the kernel holds the unit to."""
    version = 2 if throttles() else 1
    return cgroups.MemoryCgroup(machine.cgroup("memory", f"/system.slice/{name}"), version).limit_in_force()


@limits
async def test_a_limit_is_set_in_the_kernel_and_taken_away_again(machine, beside):
    await started(machine, "web.service", service(more="MemoryMax=512M\n"))
    run = await run_of(beside, "web.service")

    lowered = await beside.tool("limit_memory", "web.service", run, None, 256 * MIB)
    assert (lowered.outcome, lowered.freed) == (Outcome.DONE, {})
    assert "MemoryMax 512 MiB → 256 MiB" in lowered.reason
    assert held_to(machine) == 256 * MIB
    assert (await beside.unit("web.service")).memory_max == 256 * MIB

    restored = await beside.tool("limit_memory", "web.service", run, None, 512 * MIB)
    assert restored.outcome is Outcome.DONE
    assert held_to(machine) == 512 * MIB

    lifted = await beside.tool("limit_memory", "web.service", run, None, None)
    assert "MemoryMax 512 MiB → infinity" in lifted.reason
    assert held_to(machine) == float("inf")
    assert await run_of(beside, "web.service") == run


@limits
async def test_a_limit_that_is_not_whole_pages_is_taken(machine, beside):
    await started(machine, "web.service", service())

    result = await beside.tool("limit_memory", "web.service", await run_of(beside, "web.service"), None, 256 * MIB + 1)

    assert result.outcome is Outcome.DONE
    assert held_to(machine) == 256 * MIB


@limits
async def test_a_limit_on_a_unit_that_does_not_run_holds_from_its_start(machine, beside):
    await machine.unit("web.service", service())

    assert (await beside.tool("limit_memory", "web.service", "", None, 256 * MIB)).outcome is Outcome.DONE
    await machine.systemctl("start", "web.service")

    assert held_to(machine) == 256 * MIB


@limits
async def test_a_limit_near_what_is_in_use_is_refused(machine, beside, tmp_path):
    hold = f'"{sys.executable}" -c \'held = bytearray({64 * MIB}); open("{tmp_path}/up", "w"); input()\''
    await started(machine, "web.service", service(hold, "StandardInput=file:/dev/ptmx\n"))
    await until(lambda: (tmp_path / "up").exists())
    run = await run_of(beside, "web.service")

    result = await beside.tool("limit_memory", "web.service", run, None, 68 * MIB)

    assert result.outcome is Outcome.REFUSED
    assert f"MemoryMax 68.0 MiB is less than {MARGIN} ×" in result.reason
    assert held_to(machine) == float("inf")
    assert (await beside.tool("limit_memory", "web.service", run, None, 256 * MIB)).outcome is Outcome.DONE


@limits
async def test_a_limit_is_lowered_for_the_planned_run_only_but_raised_for_any(machine, beside):
    await started(machine, "web.service", service())
    planned = await run_of(beside, "web.service")
    assert (await beside.tool("limit_memory", "web.service", planned, None, 256 * MIB)).outcome is Outcome.DONE
    await machine.systemctl("restart", "web.service")
    assert held_to(machine) == 256 * MIB

    lower = await beside.tool("limit_memory", "web.service", planned, None, 128 * MIB)
    higher = await beside.tool("limit_memory", "web.service", planned, None, None)

    assert lower.outcome is Outcome.SKIPPED
    assert higher.outcome is Outcome.DONE
    assert held_to(machine) == float("inf")


@limits
async def test_a_unit_that_manages_its_groups_itself_is_refused(machine, beside):
    await started(machine, "web.service", service(more="Delegate=yes\n"))

    result = await beside.tool("limit_memory", "web.service", await run_of(beside, "web.service"), None, 256 * MIB)

    assert result.outcome is Outcome.REFUSED
    assert "Delegate=" in result.reason


@limits
async def test_a_throttle_is_set_where_the_kernel_has_one_and_said_to_do_nothing_where_not(machine, beside):
    await started(machine, "web.service", service())
    run = await run_of(beside, "web.service")

    result = await beside.tool("limit_memory", "web.service", run, 200 * MIB, 256 * MIB)

    assert result.outcome is Outcome.DONE
    assert held_to(machine) == 256 * MIB
    set_to = (await beside.unit("web.service")).memory_high
    if throttles():
        assert set_to == 200 * MIB
        assert V1 not in result.reason
    else:
        assert set_to is None
        assert result.reason.endswith(f"MemoryHigh was left as it is, for in {V1} it does nothing")


@limits
async def test_nothing_but_a_throttle_is_refused_where_the_kernel_has_none(machine, beside):
    await started(machine, "web.service", service())

    result = await beside.tool("limit_memory", "web.service", await run_of(beside, "web.service"), 200 * MIB, None)

    assert result.outcome is (Outcome.DONE if throttles() else Outcome.REFUSED)
    assert throttles() or result.reason == f"{V1} have no MemoryHigh; give MemoryMax"


# ── limits in version 2, whose files are a test's own: the kernel of this machine may have version 1 ──────────────────


@pytest.fixture
def version_2(tmp_path):
    """A tree in which web.service is held to 200 and 256 MiB, and uses 64, of which 32 are idle cache."""
    group = tmp_path / "cgroup" / "system.slice" / "web.service"
    group.mkdir(parents=True)
    for directory in (tmp_path / "cgroup", group.parent, group):
        (directory / "cgroup.controllers").write_text("cpu memory pids\n")
        (directory / "cgroup.procs").write_text("")
    files = {
        "memory.current": 64 * MIB, "memory.high": 200 * MIB, "memory.max": 256 * MIB, "memory.swap.current": 0,
        "memory.stat": f"anon {16 * MIB}\nfile {48 * MIB}\ninactive_file {32 * MIB}\nshmem 0",
    }  # fmt: skip
    for name, text in files.items():
        (group / name).write_text(f"{text}\n")
    return tmp_path / "cgroup"


async def limited(beside, tree: Path, high: int | None, maximum: int | None):
    run = await run_of(beside, "web.service")
    return await beside.tool("limit_memory", "web.service", run, high, maximum, control_groups=str(tree))


async def test_both_limits_are_set_and_looked_for_in_the_kernel(machine, beside, version_2):
    await started(machine, "web.service", service(more="MemoryMax=1G\n"))

    result = await limited(beside, version_2, 200 * MIB, 256 * MIB)

    seen = await beside.unit("web.service")
    assert (seen.memory_high, seen.memory_max) == (200 * MIB, 256 * MIB)
    assert result.outcome is Outcome.DONE
    assert result.reason == "MemoryMax 1.0 GiB → 256 MiB; MemoryHigh infinity → 200 MiB"


async def test_a_limit_that_the_kernel_did_not_take_failed_whatever_systemd_says(machine, beside, version_2):
    await started(machine, "web.service", service())

    result = await limited(beside, version_2, 100 * MIB, 256 * MIB)

    assert (await beside.unit("web.service")).memory_high == 100 * MIB
    assert result.outcome is Outcome.FAILED
    assert "systemd took MemoryHigh=100 MiB, but the kernel holds it to 200 MiB" in result.reason


async def test_idle_page_cache_is_not_in_the_way_of_a_limit(machine, beside, version_2):
    await started(machine, "web.service", service())

    refused = await limited(beside, version_2, None, 39 * MIB)
    (version_2 / "system.slice/web.service/memory.max").write_text(f"{40 * MIB}\n")
    (version_2 / "system.slice/web.service/memory.high").write_text("max\n")
    done = await limited(beside, version_2, None, 40 * MIB)

    assert refused.outcome is Outcome.REFUSED
    assert "the 32.0 MiB that it works with: the kernel would kill at once; give at least 40.0 MiB" in refused.reason
    assert done.outcome is Outcome.DONE


async def test_a_throttle_above_the_maximum_is_refused(machine, beside, version_2):
    await started(machine, "web.service", service())

    assert (await limited(beside, version_2, 256 * MIB, 256 * MIB)).outcome is Outcome.REFUSED


async def test_a_unit_whose_memory_can_not_be_read_is_refused_a_lower_limit(machine, beside, version_2):
    await started(machine, "web.service", service())
    (version_2 / "system.slice/web.service/memory.stat").unlink()

    result = await limited(beside, version_2, None, 256 * MIB)

    assert result.outcome is Outcome.REFUSED
    assert result.reason.startswith("what it uses is not known: ")
    assert (await beside.unit("web.service")).memory_max is None


def test_which_run_it_is_is_a_rule_of_its_own():
    stopped = Unit(name="web.service", active="inactive", invocation="a")
    failed = stopped.model_copy(update={"active": "failed"})
    waiting = stopped.model_copy(update={"active": "activating", "sub": "auto-restart"})

    assert another_run(failed, "a") is None
    assert another_run(failed, "") is None
    assert another_run(waiting, "a") is None
    for unit, planned in ((stopped, "a"), (failed, "b"), (waiting, ""), (waiting, "b")):
        seen = another_run(unit, planned)
        assert isinstance(seen, Verdict)
        assert seen.outcome is Outcome.SKIPPED
