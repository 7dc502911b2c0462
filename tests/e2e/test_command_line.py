"""The commands of a user, on a small filesystem of their own, and nothing of them is left behind."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from schemas.audit import Step
from tests.e2e.conftest import FUNCTION, MIB, Site, Volume, clean_environment, settings_for
from tests.e2e.traces import processes_that_name
from tests.servers import free_port
from tests.waiting import until

# ── up ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.needs("nats-server")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
async def test_up_brings_its_own_server_shows_the_filesystems_and_leaves_no_process(
    memory: Volume, tmp_path: Path, number: signal.Signals
):
    memory.write("data/orders.db", 10 * MIB)
    (tmp_path / "ansai.yaml").write_text(yaml.safe_dump(settings_for(memory)))
    environment = clean_environment(tmp_path) | {"ANSAI_BUS__EMBEDDED__PORT": str(free_port())}
    output = tmp_path / "output"
    with output.open("wb") as file:
        up = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "infra.cli.main", "up", cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL,
            stdout=file, stderr=file,
        )  # fmt: skip
    try:
        await until(lambda: f"bytes:{memory.point}" in output.read_text() and "health" in output.read_text())
        state = str(tmp_path / "state")
        servers = [said for said in processes_that_name(state) if "nats-server" in said]
        assert len(servers) == 1
        up.send_signal(number)
        async with asyncio.timeout(30):
            assert await up.wait() == 0
    finally:
        if up.returncode is None:
            up.kill()
            await up.wait()

    assert "Traceback" not in output.read_text()
    assert processes_that_name(state) == []


# ── plan, trigger, audit ──────────────────────────────────────────────────────────────────────────────────────────


async def test_plan_says_by_its_exit_code_whether_there_is_something_to_do(memory: Volume, site: Site):
    memory.write("data/orders.db", 30 * MIB)
    site.configure(settings_for(memory))

    calm = await site.run("plan", "--exit-code")
    memory.fill(92)
    await memory.aged()
    pressed = await site.run("plan", FUNCTION, "--exit-code", "--json")

    assert (calm.code, calm.err) == (0, "")
    assert "not needed now" in calm.out or "Nothing was changed" in calm.out
    assert (pressed.code, pressed.err) == (2, "")
    (full,) = [each for each in json.loads(pressed.out) if each["target"] == f"bytes:{memory.point}"]
    assert full["needed_now"]
    assert full["gap"]["amount"] > 0


async def test_a_trigger_is_followed_to_its_end_and_found_in_the_audit_trail(memory: Volume, site: Site):
    memory.write("data/orders.db", 30 * MIB)
    memory.fill(92)
    await memory.aged()
    site.configure(settings_for(memory))
    await site.start("run", FUNCTION)
    order = ("trigger", FUNCTION, "--target", str(memory.point), "--wait", "--who", "anna")

    dry = await site.run(*order)
    still_full = memory.percent()
    live = await site.run(*order[:3], f"bytes:{memory.point}", "--live", "--wait", "--json", "--who", "anna")
    trail = await site.run("audit", "list", "--json", "--limit", "500")
    shown = await site.run("audit", "show", json.loads(live.out)["correlation"])

    assert dry.code == 0, dry.err
    assert "would" in dry.out
    assert still_full == 92
    assert live.code == 0, live.err
    assert json.loads(live.out)["events"][-1]["step"] == "healed"
    assert memory.percent() <= 75
    records = json.loads(trail.out)
    correlated = [each for each in records if each["correlation"] == json.loads(live.out)["correlation"]]
    assert correlated[0]["who"].startswith("anna")
    assert [each["step"] for each in correlated][:2] == [Step.RECEIVED, Step.OPENED]
    assert correlated[-1]["step"] == Step.HEALED
    assert shown.code == 0
    assert "the gap is closed" in shown.out
