"""Units that really crash, on a real systemd: the collector sees it, the engine acts, systemd has the last word."""

import socket
import sys
from pathlib import Path

import pytest

from schemas.health import Level
from schemas.incident import IncidentState
from tests.functions.services.ward import Host, Ward
from tests.waiting import until

LISTENING = Path(__file__).with_name("listening.py")
TARGET = "unit:app.service"


@pytest.fixture(scope="module")
def beside_once(systemd_machine):
    beside = Host(systemd_machine)
    yield beside
    beside.end()


@pytest.fixture
async def ward(machine, beside_once):
    """Of one unit; all that were made are stopped at the end."""
    wards: list[Ward] = []

    def make(**settings) -> Ward:
        wards.append(Ward(machine, beside_once, **settings))
        return wards[-1]

    yield make
    for each in wards:
        await each.engine.stop()


def service(command: str, more: str = "", head: str = "") -> str:
    return f"[Unit]\n{head}[Service]\nExecStart={command}\n{more}"


async def crash(ward: Ward, signal: str = "SEGV") -> dict[str, str]:
    await ward.machine.systemctl("kill", f"--signal={signal}", ward.unit)
    return await ward.until_state("failed")


async def test_a_unit_that_crashed_is_started_and_healed_when_it_stays_up(ward, machine):
    here = ward()
    await machine.unit("app.service", service("/bin/sleep 1000"))
    await machine.systemctl("start", "app.service")
    assert (await here.look()).level is Level.OK
    before = await crash(here)

    alert = await here.until_alert("resolved")

    after = await here.until_state("active")
    assert here.acted == ["start"]
    assert after["InvocationID"] != before["InvocationID"]
    assert alert.title == "unit:app.service is healthy"
    assert here.story.alerts[0].title.startswith("app.service failed")
    assert "its main process was ended by SIGSEGV" in here.story.alerts[0].title
    assert "verified" in here.story.steps  # healthy for now, before it was healed
    assert here.incident(TARGET).state is IncidentState.CLOSED


async def test_nothing_is_done_twice_while_time_has_to_show_whether_it_stays(ward, machine):
    here = ward(stable_for="1 h")
    await machine.unit("app.service", service("/bin/sleep 1000"))
    await machine.systemctl("start", "app.service")
    await here.look()
    await crash(here)

    await here.until(lambda: here.acted)
    for _ in range(3):
        await here.look()

    assert here.acted == ["start"]
    assert here.incident(TARGET).state is IncidentState.OPEN


async def test_a_unit_without_starts_left_is_reset_and_started(ward, machine, tmp_path):
    here, mended = ward(), tmp_path / "mended"
    script = f"test -e {mended} && exec sleep 1000; exit 3"
    head = "StartLimitIntervalSec=1h\nStartLimitBurst=5\n"
    await machine.unit("app.service", service(f"/bin/sh -c '{script}'", "Restart=on-failure\nRestartSec=10ms\n", head))
    await machine.systemctl("start", "app.service", check=False)
    await here.until_state("failed")
    refused = await machine.systemctl("start", "app.service", check=False)
    assert refused.returncode != 0
    mended.touch()

    await here.until_alert("resolved")

    assert here.acted == ["start_anew"]
    assert "gave up" in here.story.alerts[0].title
    assert (await here.until_state("active"))["SubState"] == "running"


async def test_a_second_reset_is_not_made_and_a_person_is_told(ward, machine):
    here = ward()
    head = "StartLimitIntervalSec=1h\nStartLimitBurst=5\n"
    await machine.unit("app.service", service("/bin/sh -c 'exit 3'", "Restart=on-failure\nRestartSec=10ms\n", head))
    await machine.systemctl("start", "app.service", check=False)
    await here.until_state("failed")

    await here.until(lambda: here.acted)
    await here.until_state("failed")
    here.clock.advance(here.policy.cooldown * 1.3)
    await here.until(lambda: "empty_plan" in here.refused())

    assert here.acted == ["start_anew"]
    told = [record["plan"] for record in here.story.records if record.get("rule") == "empty_plan"]
    assert any("its own limit is 5 starts in 1 h" in finding.title for finding in told[-1].findings)


async def test_a_pid_file_that_a_crash_left_is_removed_before_the_start(ward, machine):
    here = ward(services={"app": {"stale_files": ["/run/app.pid"]}})
    script = "test -e /run/app.pid && exit 1; echo $$$$ >/run/app.pid; exec sleep 1000"
    await machine.unit("app.service", service(f"/bin/sh -c '{script}'"))
    await machine.systemctl("start", "app.service")
    await until(lambda: machine.path("/run/app.pid").exists())
    await here.look()
    await crash(here, "KILL")

    await here.until_alert("resolved")

    assert here.acted == ["remove_stale", "start"]


async def test_a_process_that_outlived_its_unit_and_holds_its_port_is_ended(ward, machine, tmp_path):
    port = free_port()
    here = ward(services={"app": {"ports": [port]}})
    command = f'"{sys.executable}" "{LISTENING}" {port} "{tmp_path}/crashed"'
    await machine.unit("app.service", service(command, "KillMode=process\n"))
    await machine.systemctl("start", "app.service")
    await here.until_state("failed")
    left = machine.run("cat", "/sys/fs/cgroup/systemd/system.slice/app.service/cgroup.procs", check=False).stdout
    assert (tmp_path / "crashed").exists(), left

    await here.until_alert("resolved")

    assert here.acted == ["end", "start"]
    assert reachable(port)


async def test_a_process_of_another_unit_that_holds_its_port_lives_and_is_named(ward, machine, tmp_path):
    port = free_port()
    here = ward(services={"app": {"ports": [port]}})
    (tmp_path / "crashed").touch()
    command = f'"{sys.executable}" "{LISTENING}" {port} "{tmp_path}/crashed"'
    await machine.unit("other.service", service(command))
    await machine.unit("app.service", service(command, "Type=notify\n"))
    await machine.systemctl("start", "other.service")
    await until(lambda: reachable(port))
    await machine.systemctl("start", "app.service", check=False)
    await here.until_state("failed")

    alert = await here.until_alert("unhealed")

    assert here.acted == ["start"]
    assert f"port {port}, which app.service listens on, is held by other.service" in told(alert)
    assert (await machine.show("other.service", "ActiveState"))["ActiveState"] == "active"


async def test_a_unit_that_was_stopped_on_purpose_stays_stopped(ward, machine):
    here = ward()
    await machine.unit("app.service", service("/bin/sleep 1000", "Restart=always\n"))
    await machine.systemctl("start", "app.service")
    await here.look()
    await machine.systemctl("stop", "app.service")

    event = await here.look()

    assert (event.level, event.stopped_on_purpose) == (Level.OK, True)
    assert (here.beside.acted, here.story.alerts) == ([], [])
    assert (await machine.show("app.service", "ActiveState"))["ActiveState"] == "inactive"


async def test_a_unit_that_was_stopped_on_purpose_and_failed_only_thereby_stays_down(ward, machine, tmp_path):
    here = ward()
    script = f'trap "exit 143" TERM; touch {tmp_path}/up; while :; do sleep 0.02; done'
    await machine.unit("app.service", service(f"/bin/sh -c '{script}'", "Restart=always\n"))
    await machine.systemctl("start", "app.service")
    await here.look()
    await until(lambda: (tmp_path / "up").exists())
    await machine.systemctl("stop", "app.service")
    await here.until_state("failed")

    events = [await here.look() for _ in range(3)]

    assert {(event.level, event.stopped_on_purpose) for event in events} == {(Level.OK, True)}
    assert "app.service was stopped" in events[-1].reason
    assert (here.beside.acted, here.story.alerts) == ([], [])
    assert (await machine.show("app.service", "ActiveState"))["ActiveState"] == "failed"


async def test_a_unit_that_was_stopped_along_with_what_it_is_bound_to_stays_down(ward, machine, tmp_path):
    here = ward()
    script = f'trap "exit 143" TERM; touch {tmp_path}/up; while :; do sleep 0.02; done'
    await machine.unit("db.service", service("/bin/sleep 1000"))
    await machine.unit("app.service", service(f"/bin/sh -c '{script}'", head="BindsTo=db.service\nAfter=db.service\n"))
    await machine.systemctl("start", "app.service")
    await here.look()
    await until(lambda: (tmp_path / "up").exists())
    await machine.systemctl("stop", "db.service")
    await here.until_state("failed")

    assert (await here.look()).level is Level.OK

    assert here.beside.acted == []


async def test_a_unit_is_not_started_when_that_would_stop_one_that_runs(ward, machine):
    here = ward()
    await machine.unit("app.service", service("/bin/sleep 1000", head="Conflicts=other.service\n"))
    await machine.unit("other.service", service("/bin/sleep 1000"))
    await machine.systemctl("start", "app.service")
    await here.look()
    await crash(here)
    await machine.systemctl("start", "other.service")

    await here.until(lambda: "empty_plan" in here.refused())

    assert here.beside.acted == []
    assert (await machine.show("other.service", "ActiveState"))["ActiveState"] == "active"
    plan = next(record["plan"] for record in here.story.records if record.get("rule") == "empty_plan")
    assert plan.findings[0].title.startswith("a start of app.service would stop other.service")


async def test_what_was_run_once_by_hand_is_not_run_again(ward, machine):
    here = ward(settle="30 s")
    machine.run("systemd-run", "--unit=app", "/bin/sh", "-c", "exit 9")
    await here.until_state("failed")
    await here.look()
    here.clock.advance(here.settings.settle)

    await here.until(lambda: "empty_plan" in here.refused())

    assert here.beside.acted == []
    assert (await here.look()).level is Level.WARNING


async def test_a_unit_that_is_known_by_another_name_is_protected_by_that(ward, machine):
    here = ward(protected=["mysql"])
    await machine.unit("app.service", service("/bin/sleep 1000"))
    machine.path("/run/systemd/system/mysql.service").symlink_to("/run/systemd/system/app.service")
    await machine.systemctl("daemon-reload")
    await machine.systemctl("start", "mysql.service")
    await here.look()
    await crash(here)

    await here.until(lambda: "empty_plan" in here.refused())

    assert here.beside.acted == []


async def test_a_unit_that_failed_and_was_reset_by_a_person_stays_down(ward, machine):
    here = ward()
    here.policy = here.policy.model_copy(update={"enabled": False})  # people are faster
    here.engine.reconfigure(here.settings, here.policy)
    await machine.unit("app.service", service("/bin/sleep 1000"))
    await machine.systemctl("start", "app.service")
    await here.look()
    await crash(here)
    assert (await here.look()).level is Level.CRITICAL
    await machine.systemctl("reset-failed", "app.service")
    here.engine.reconfigure(here.settings, here.policy.model_copy(update={"enabled": True}))

    event = await here.look()

    assert (event.level, event.stopped_on_purpose) == (Level.OK, True)
    assert here.beside.acted == []


async def test_a_masked_unit_is_never_touched(ward, machine):
    here = ward()
    await machine.unit("app.service", service("/bin/sleep 1000"))
    await machine.systemctl("start", "app.service")
    assert (await here.look()).level is Level.OK
    await machine.systemctl("mask", "app.service")
    await crash(here)

    assert await here.look() is None

    assert here.beside.acted == []
    assert (await machine.show("app.service", "ActiveState"))["ActiveState"] == "failed"


async def test_a_protected_unit_is_told_and_never_touched(ward, machine):
    here = ward(protected=["app"])
    await machine.unit("app.service", service("/bin/sleep 1000"))
    await machine.systemctl("start", "app.service")
    await here.look()
    await crash(here)

    await here.until(lambda: "empty_plan" in here.refused())

    assert here.beside.acted == []
    assert here.story.alerts[0].title.startswith("app.service failed")


async def test_a_start_that_fails_again_is_told_with_what_a_person_should_do(ward, machine):
    here = ward()
    await machine.unit("app.service", service("/bin/sh -c 'exit 3'", "Type=forking\n"))
    await machine.systemctl("start", "app.service", check=False)
    await here.until_state("failed")

    alert = await here.until_alert("unhealed")

    assert here.acted == ["start"]
    assert alert.title == "unit:app.service is still not healthy"
    assert "app.service: its main process" in told(alert) or "app.service: a process of it" in told(alert)
    commands = {" ".join(finding.command) for finding in alert.report.findings}
    assert "journalctl -u app.service -n 50 --no-pager" in commands
    assert "systemctl status --no-pager --full app.service" in commands


async def test_a_unit_with_a_broken_configuration_is_not_started_until_it_is_mended(ward, machine, tmp_path):
    sound = tmp_path / "sound"
    check = ["/bin/sh", "-c", f"test -e {sound} || {{ echo line 7: no such word >&2; exit 1; }}"]
    here = ward(services={"app": {"check": check}})
    await machine.unit("app.service", service("/bin/sleep 1000"))
    await machine.systemctl("start", "app.service")
    await here.look()
    await crash(here)

    await here.until(lambda: "empty_plan" in here.refused())

    assert here.beside.acted == []
    plan = next(record["plan"] for record in here.story.records if record.get("rule") == "empty_plan")
    assert plan.findings[0].title.endswith("is broken, so it is not started: line 7: no such word")
    sound.touch()
    await here.until_alert("resolved")
    assert here.acted == ["start"]


async def test_what_a_unit_needs_is_healed_first(ward, machine):
    here = ward(units=("app.service", "db.service"))
    head = "Requires=db.service\nAfter=db.service\n"
    await machine.unit("db.service", service("/bin/sleep 1000"))
    await machine.unit("app.service", service("/bin/sleep 1000", head=head))
    await machine.systemctl("start", "app.service")
    await here.look()
    await machine.systemctl("kill", "--signal=SEGV", "app.service")
    await here.until_state("failed")
    await machine.systemctl("kill", "--signal=SEGV", "db.service")

    await here.until_alert("resolved")
    await here.until(lambda: len(here.beside.acted) == 2)

    assert here.beside.acted == [("start", "db.service"), ("start", "app.service")]


async def test_a_flapping_unit_is_restarted_once_what_it_left_is_gone(ward, machine):
    here = ward(services={"app": {"stale_files": ["/run/app.lock"]}})
    machine.run("touch", "/run/app.lock")
    script = "test -e /run/app.lock && exit 1; exec sleep 1000"
    more, head = "Restart=on-failure\nRestartSec=1s\n", "StartLimitIntervalSec=1s\nStartLimitBurst=1000\n"
    await machine.unit("app.service", service(f"/bin/sh -c '{script}'", more, head))
    await machine.systemctl("start", "app.service", check=False)

    await here.until_alert("resolved")

    assert "app.service flaps" in here.story.alerts[0].title
    assert here.acted == ["remove_stale", "restart"]
    assert (await here.until_state("active"))["SubState"] == "running"


def told(alert) -> str:
    return "\n".join(finding.title for finding in alert.report.findings)


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


def reachable(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(5)
        return client.connect_ex(("127.0.0.1", port)) == 0
