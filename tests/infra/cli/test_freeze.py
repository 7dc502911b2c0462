"""`ansai freeze` against a real nats-server, and without one."""

import json

import pytest

from bus.port import Bucket
from bus.subjects import FREEZE
from infra.cli import freeze as freeze_command
from infra.cli.main import main
from tests.servers import free_port


@pytest.fixture
def file(tmp_path):
    """Where the functions of the test's own user look."""
    return tmp_path / "state" / "ansai" / "freeze"


async def records(ansai_beside, server):
    """Step, person and reason of what the audit trail has of the switch."""
    listed = await ansai_beside("audit", "list", "--function", "operator.freeze", "--json", "--bus", server)
    return [
        (each["step"], each["who"], each.get("text", ""))
        for each in json.loads(listed.out)
        if each["step"] in {"frozen", "thawed"}
    ]


async def test_on_freezes_this_host_then_all_and_is_audited(ansai_beside, server, bus, file):
    done = await ansai_beside("freeze", "on", "--reason", "storage moves", "--bus", server, SUDO_USER="anna")

    assert done.code == 0
    assert done.out.splitlines() == [f"frozen on this host: {file}", "frozen on all hosts: key freeze of bucket fleet"]
    stored = json.loads((await (await bus.bucket(Bucket.FLEET)).get(FREEZE)).value)
    assert (stored["reason"], stored["who"]) == ("storage moves", "anna")
    assert json.loads(file.read_text())["reason"] == "storage moves"
    assert await records(ansai_beside, server) == [("frozen", "anna (unauthenticated)", "storage moves")]


async def test_off_lifts_both_and_is_audited_once(ansai_beside, server, bus, file):
    await ansai_beside("freeze", "on", "--bus", server)
    again = await ansai_beside("freeze", "on", "--reason", "still", "--bus", server)
    assert again.code == 0

    done = await ansai_beside("freeze", "off", "--reason", "moved", "--bus", server, USER="ben")
    nothing = await ansai_beside("freeze", "off", "--bus", server)

    assert (done.code, nothing.code) == (0, 0)
    assert "lifted on all hosts" in done.out
    assert "there was none on the bus" in nothing.out
    assert "other hosts may be frozen by files of their own" in done.err
    assert not file.exists()
    assert await (await bus.bucket(Bucket.FLEET)).get(FREEZE) is None
    assert [step for step, _, _ in await records(ansai_beside, server)] == ["frozen", "frozen", "thawed"]
    assert (await records(ansai_beside, server))[-1][1:] == ("ben (unauthenticated)", "moved")


def test_with_the_bus_down_this_host_is_frozen_and_that_is_said(ansai, file):
    done = ansai("freeze", "on", "--bus", f"nats://127.0.0.1:{free_port()}", ANSAI_BUS__CONNECT_DEADLINE="0.2 s")

    assert done.code == 1
    assert done.out == f"frozen on this host: {file}\n"
    assert done.err.splitlines()[-1].startswith("ansai: only this host is frozen: ")
    assert "Traceback" not in done.err
    assert file.exists()


def test_local_asks_no_bus(ansai, file):
    nowhere = f"nats://127.0.0.1:{free_port()}"
    assert ansai("freeze", "on", "--local", "--bus", nowhere).code == 0
    assert file.exists()
    assert ansai("freeze", "off", "--local", "--bus", nowhere).code == 0
    assert not file.exists()


async def test_status_shows_all_three_places(ansai_beside, server, file):
    await ansai_beside("freeze", "on", "--reason", "storage moves", "--bus", server)
    file.unlink()
    file.write_text("by hand")

    shown = await ansai_beside("freeze", "status", "--bus", server)
    told = json.loads((await ansai_beside("freeze", "status", "--json", "--bus", server)).out)

    assert shown.code == 0
    lines = shown.out.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [[str(file), "frozen"], ["/etc/ansai/freeze", "free"]]
    assert "by hand" in lines[1]
    assert "storage moves" in lines[3]
    assert told["frozen"] is True
    assert told["places"]["key freeze of bucket fleet"]["reason"] == "storage moves"


def test_status_without_a_bus_says_that_it_can_t_tell(ansai):
    shown = ansai("freeze", "status")
    told = json.loads(ansai("freeze", "status", "--json").out)

    assert shown.code == 1
    assert shown.out.splitlines()[-1].split() == ["key", "freeze", "of", "bucket", "fleet", "unknown"]
    assert "whether all hosts are frozen is not known: no bus" in shown.err
    assert told["frozen"] is None


def test_the_administrator_s_file_is_not_removed_but_told(tmp_path, monkeypatch, capsys):
    system = tmp_path / "system freeze"
    system.write_text("audit week")
    monkeypatch.setattr(freeze_command, "SYSTEM_FREEZE_FILE", system)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    with pytest.raises(SystemExit) as ended:
        main(["freeze", "off", "--local"])

    assert ended.value.code == 1
    assert f"this host stays frozen by {system} (audit week); remove it: rm {system}" in capsys.readouterr().err
    assert system.exists()


@pytest.mark.parametrize("command", ["on", "off"])
def test_a_directory_in_the_file_s_place_is_left_and_told(ansai, file, command):
    file.mkdir(parents=True)

    done = ansai("freeze", command, "--local")

    assert done.code == 1
    assert str(file) in done.err
    assert file.is_dir()


def test_a_link_in_the_file_s_place_is_replaced_and_not_followed(ansai, file, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    file.parent.mkdir(parents=True)
    file.symlink_to(elsewhere)

    assert ansai("freeze", "on", "--local").code == 0

    assert not file.is_symlink()
    assert elsewhere.read_text() == "mine"
