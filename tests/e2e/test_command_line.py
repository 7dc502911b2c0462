"""The commands of a user, on a small filesystem of their own, and nothing of them is left behind."""

import asyncio
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from schemas.audit import Step
from tests import components
from tests.e2e.conftest import FUNCTION, MIB, REPOSITORY, Site, Volume, clean_environment, settings_for
from tests.servers import free_port
from tests.waiting import until

NOBODY = 65534


def processes_that_name(text: str) -> list[str]:
    """Command lines and environments of all processes of this machine but this one."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            said = (directory / "cmdline").read_bytes() + (directory / "environ").read_bytes()
        except OSError:  # it has ended, or is not ours to look into
            continue
        if text.encode() in said and directory.name != str(os.getpid()):
            found.append(said.replace(b"\0", b" ").decode(errors="replace")[:200])
    return found


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


# ── the demonstration ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A home below /tmp for a user who can't look into pytest's directories, and for what a simulation makes there."""
    directory = Path(tempfile.mkdtemp(prefix="ansai-home-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


@pytest.fixture(params=["root", "nobody"])
def user(request: pytest.FixtureRequest, everybodys: Path) -> list[str]:
    """How to become the user that runs the demonstration."""
    components.need("root", "mounts", "unshare", "nats-server", "apt-get")
    if request.param == "root":
        return []
    os.chown(everybodys, NOBODY, NOBODY)
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    return [*in_sight(everybodys, Path(sys.base_prefix), Path(sys.prefix), REPOSITORY), *become]


def in_sight(stage: Path, *needed: Path) -> list[str]:
    """How to see *needed* as an ordinary user, also where root's tests run below a directory that only root may enter.

    In a mount namespace of its own each such directory is covered by one that holds nothing but what is needed.
    """
    script = []
    for number, hidden in enumerate(sorted({hidden for path in needed if (hidden := closed_above(path))})):
        behind = stage / f"behind-{number}"
        script += [["mkdir", behind], ["mount", "--rbind", hidden, behind]]
        script += [["mount", "-t", "tmpfs", "-o", "mode=755", "none", hidden]]
        for path in needed:
            if path.is_relative_to(hidden):
                script += [["mkdir", "-p", path], ["mount", "--rbind", behind / path.relative_to(hidden), path]]
        script += [["umount", "--lazy", behind], ["rmdir", behind]]
    commands = "\n".join(shlex.join(map(str, command)) for command in script)
    return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{commands}\nexec "$@"', "sh"]


def closed_above(path: Path) -> Path | None:
    """The uppermost directory on the way to *path* that others may not enter."""
    return next((above for above in reversed(path.parents) if not above.stat().st_mode & 0o001), None)


def demonstration(user: list[str], home: Path) -> tuple[list[str], dict[str, str]]:
    command = [*user, sys.executable, "-m", "infra.cli.main", "simulate", "run", "disk-full"]
    return command, clean_environment(home) | {"TMPDIR": str(home)}


def mounts() -> set[str]:
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


async def test_the_demonstration_heals_for_root_and_for_an_ordinary_user_and_leaves_nothing(
    user: list[str], everybodys: Path
):
    command, environment = demonstration(user, everybodys)
    before = mounts()

    demo = await asyncio.create_subprocess_exec(
        *command, cwd=everybodys, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            out, err = await demo.communicate()
    finally:
        if demo.returncode is None:
            demo.kill()
            await demo.wait()

    said = out.decode()
    assert demo.returncode == 0, said + err.decode()
    assert "healed: what may go went, the rest is where it was" in said
    for part in ("opened", "planned", "acting", "acted", "healed", "shipped: dry_run"):
        assert part in said
    assert_nothing_is_left(everybodys, before)


async def test_a_demonstration_that_is_stopped_half_way_leaves_nothing_either(user: list[str], everybodys: Path):
    command, environment = demonstration(user, everybodys)
    before = mounts()
    output = everybodys / "output"

    with output.open("wb") as file:
        demo = await asyncio.create_subprocess_exec(
            *command, cwd=everybodys, env=environment | {"PYTHONUNBUFFERED": "1"}, stdin=subprocess.DEVNULL,
            stdout=file, stderr=file,
        )  # fmt: skip
    try:
        await until(lambda: "what happens" in output.read_text(), output.read_text)
        demo.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            await demo.wait()
    finally:
        if demo.returncode is None:
            demo.kill()
            await demo.wait()

    assert "Traceback" not in output.read_text()
    output.unlink()
    assert_nothing_is_left(everybodys, before)


def assert_nothing_is_left(home: Path, before: set[str]) -> None:
    assert processes_that_name(str(home)) == []
    # Others may mount meanwhile; what the demonstration mounts is named after it, or lies over /mnt.
    assert [each for each in mounts() - before if each == "/mnt" or str(home) in each or "ansai-simulate" in each] == []
    left = [path for path in home.iterdir() if path.name.startswith("ansai-")]
    assert left == []
