"""`plan`, `up`, `run`, `collect` and `trigger` as real processes on this machine's filesystems; nothing is changed."""

import asyncio
import json
import os
import pty
import signal
import socket
import subprocess
import sys

import pytest

from bus.port import StreamName
from tests.servers import free_port
from tests.waiting import until

SETTINGS = """\
host: web-1
disk_monitoring:
  only_mounts: ["/"]
  every: 1 s
  auto_cleanup:
    log_directories: []
    temp_directories: {}
    rotate_logs: false
    docker_images: false
    journal_size: false
"""
"""One filesystem, and no tree to walk."""


@pytest.fixture(autouse=True)
def settings(tmp_path):
    (tmp_path / "ansai.yaml").write_text(SETTINGS)


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def embedded(port):
    return {"ANSAI_BUS__EMBEDDED__PORT": str(port)}


async def line_with(stream: asyncio.StreamReader, words: str) -> str:
    """Read until a line holds *words*."""
    seen = []
    async with asyncio.timeout(60):
        while line := await stream.readline():
            seen.append(line.decode())
            if words in seen[-1]:
                return seen[-1]
    raise AssertionError(f"{words!r} is not in {seen}")


async def ended(process, number: signal.Signals = signal.SIGTERM) -> tuple[str, str]:
    process.send_signal(number)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return out.decode(), err.decode()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_plan_shows_every_target_and_changes_nothing(ansai):
    shown = ansai("plan")

    assert shown.code == 0
    assert shown.err == ""
    assert "disk.free_space on web-1" in shown.out
    assert "bytes:/ " in shown.out
    assert "Nothing was changed." in shown.out


def test_plan_as_json_is_one_document(ansai):
    previews = json.loads(ansai("plan", "disk.free_space", "--json").out)

    assert {preview["target"] for preview in previews} >= {"bytes:/"}
    (root,) = [preview for preview in previews if preview["target"] == "bytes:/"]
    assert root["plan"]["function"] == "disk.free_space"
    assert root["gap"]["unit"] == "bytes"
    assert root["needed_now"] == [] or root["gap"]["amount"] > 0


def test_plan_of_one_target_leaves_the_others_out(ansai):
    previews = json.loads(ansai("plan", "--target", "bytes:/", "--json").out)

    assert [preview["target"] for preview in previews] == ["bytes:/"]


def test_the_exit_code_of_plan_says_whether_there_is_something_to_do(ansai, tmp_path):
    (tmp_path / "pressed.yaml").write_text(
        SETTINGS + "  target: 0.001\n  thresholds: {warning: 0.002, critical: 0.003, emergency: 0.004}\n"
    )
    (tmp_path / "calm.yaml").write_text(
        SETTINGS + "  target: 99.7\n  minimum_available: 0\n"
        "  thresholds: {warning: 99.8, critical: 99.9, emergency: 100}\n"
    )

    pressed = ansai("plan", "--exit-code", "--config", "pressed.yaml", "--target", "bytes:/")
    without = ansai("plan", "--config", "pressed.yaml", "--target", "bytes:/")
    fine = ansai("plan", "--exit-code", "--config", "calm.yaml", "--target", "bytes:/")

    assert pressed.code == 2
    assert "over target" in pressed.out
    assert without.code == 0
    assert fine.code == 0
    assert "not needed now" in fine.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["plan", "--target", "bytes:/nowhere"],
            "disk.free_space has no target 'bytes:/nowhere' here; there are bytes:/",
        ),
        (["plan", "disk.fre_space"], "did you mean disk.free_space?"),
        (["run", "disk.fre_space"], "did you mean disk.free_space?"),
        (["collect", "disk.presure"], "disk.pressure"),
        (["trigger", "disk.free_space", "--live"], "--live needs a --target"),
        (["run", "disk.free_space"], "no bus: no embedded server runs here"),
    ],
)
def test_what_can_not_be_done_is_one_line(ansai, arguments, said):
    ended = ansai(*arguments)

    assert ended.code == 1
    assert said in ended.err
    assert ended.err.count("\n") == 1


def test_a_function_that_is_switched_off_is_not_run(ansai, tmp_path):
    (tmp_path / "ansai.yaml").write_text("policy:\n  functions:\n    disk.free_space: {enabled: false}\n")

    assert "switched off by the policy" in ansai("run", "disk.free_space").err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
async def test_up_shows_this_machine_and_leaves_nothing_running(started, embedded, port, number):
    up = await started("up", **embedded)

    assert f"ANSAI on web-1, dry_run, bus nats://127.0.0.1:{port}" in await line_with(up.stdout, "ANSAI on")
    await line_with(up.stdout, "Nothing was changed.")
    _, err = await ended(up, number)

    assert up.returncode == 0
    assert "Traceback" not in err
    assert not answers(port)


async def test_up_hears_its_own_collector_and_shows_the_health_of_the_root(started, embedded):
    up = await started("up", **embedded)

    line = await line_with(up.stdout, "disk.pressure  bytes:/")

    assert "health" in line
    await ended(up)


async def test_on_a_terminal_up_draws_one_picture(tmp_path, clean_environment, embedded):
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "infra.cli.main", "up", cwd=tmp_path, stdin=theirs, stdout=theirs,
        stderr=subprocess.PIPE, env=clean_environment | embedded | {"TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
    )  # fmt: skip
    os.close(theirs)
    seen = bytearray()
    loop, drawn = asyncio.get_running_loop(), asyncio.Event()

    def read() -> None:
        try:
            seen.extend(os.read(ours, 65536))
        except OSError:  # the other end is closed
            loop.remove_reader(ours)
        if b"Ctrl-C stops everything" in seen and b"bytes:/" in seen and b"events" in seen:
            drawn.set()

    loop.add_reader(ours, read)
    try:
        await asyncio.wait_for(drawn.wait(), 60)
        process.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(process.communicate(), 60)
    finally:
        loop.remove_reader(ours)
        os.close(ours)
        if process.returncode is None:
            process.kill()
            await process.wait()

    assert process.returncode == 0
    assert b"\x1b[?25h" in seen, "the cursor is shown again"
    assert b"Traceback" not in err


async def test_collector_and_function_run_apart_and_a_trigger_is_answered(server, started, ansai_beside):
    function = await started("run", "disk.free_space", "--bus", server)
    collector = await started("collect", "disk.pressure", "--bus", server)
    for process in (function, collector):
        await line_with(process.stderr, "running on")

    asked = await ansai_beside(
        "trigger", "disk.free_space", "--target", "bytes:/", "--wait", "--json", "--who", "anna", "--bus", server
    )
    trail = json.loads((await ansai_beside("audit", "list", "--json", "--bus", server)).out)

    answer = json.loads(asked.out)
    assert asked.code == 0
    assert answer["listeners"] == ["disk.free_space on web-1"]
    assert answer["events"][-1]["final"]
    received = next(record for record in trail if record["step"] == "received")
    assert received["who"].startswith("anna")
    assert received["correlation"] == answer["correlation"]
    for process in (function, collector):
        await ended(process)
        assert process.returncode == 0


async def test_a_trigger_for_a_target_that_does_not_exist_ends_with_1(server, started, ansai_beside):
    function = await started("run", "disk.free_space", "--bus", server)
    await line_with(function.stderr, "running on")

    asked = await ansai_beside("trigger", "disk.free_space", "--target", "/nowhere", "--wait", "--bus", server)

    assert asked.code == 1
    assert "no such target here; known are bytes:/" in asked.out


async def test_nobody_who_listens_is_said_before_anything_is_published(server, bus, ansai_beside):
    asked = await ansai_beside("trigger", "disk.free_space", "--bus", server)

    assert asked.code == 1
    assert "nobody on web-1 listens for disk.free_space. Start it with: ansai run disk.free_space" in asked.err
    assert [stored async for stored in bus.read(StreamName.TRIGGER)] == []


async def test_a_trigger_for_an_unknown_function_says_who_is_there(started, embedded, ansai_beside):
    up = await started("up", **embedded)
    await line_with(up.stdout, "ANSAI on")

    async def listed():
        asked = await ansai_beside("trigger", "disk.fre_space", **embedded)
        return asked if "on that host run disk.free_space" in asked.err else None

    asked = await until(listed, seconds=60)

    assert asked.code == 1
    assert "there is no function of ours called disk.fre_space" in asked.err
    await ended(up)
