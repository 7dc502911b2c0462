"""Commands as they are run for real: small shell scripts found on a search path of the test's own."""

import os
import signal
import threading
from pathlib import Path

import pytest

from functions.core.ports import ToolError
from infra.adapters import commands
from infra.adapters.commands import SEARCH_PATH, Commands
from schemas.probes import ProbeError


@pytest.fixture
def script(tmp_path: Path):
    """Write an executable and give back what finds it."""

    def write(body: str, error: type[ProbeError] | type[ToolError] = ToolError, **environment: str) -> Commands:
        path = tmp_path / "tool"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return Commands(error, {"PATH": f"{tmp_path}:{SEARCH_PATH}", **environment})

    return write


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except FileNotFoundError:
        return False


def test_both_outputs_and_the_status_come_back(script):
    run = script("echo out; echo err >&2; exit 3").run(["tool"], timeout=10, accept=(0, 3))

    assert (run.status, run.stdout, run.stderr, run.truncated) == (3, "out\n", "err\n", False)


def test_only_what_was_given_is_in_the_environment(script, monkeypatch):
    monkeypatch.setenv("SECRET", "x")

    output = script("env", EXTRA="1").run(["tool"], timeout=10).stdout

    names = {line.partition("=")[0] for line in output.splitlines()}
    assert {"EXTRA", "LC_ALL", "PATH"} <= names
    assert "SECRET" not in names
    assert "HOME" not in names


def test_arguments_are_no_shell_text(script, tmp_path):
    argument = f"; touch {tmp_path}/owned $(id)"

    assert script('printf %s "$1"').run(["tool", argument], timeout=10).stdout == argument
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("error", [ProbeError, ToolError])
def test_a_failure_names_command_status_and_last_error_line(script, error):
    with pytest.raises(error) as caught:
        script("echo first >&2; printf 'the \\033[31mreason\\n' >&2; exit 7", error).run(["tool", "-x"], timeout=10)

    assert str(caught.value) == "tool -x ended with status 7: the \\x1b[31mreason"


def test_death_by_a_signal_is_named(script):
    with pytest.raises(ToolError, match="tool ended with signal SIGKILL: silent"):
        script("kill -9 $$").run(["tool"], timeout=10)


def test_a_missing_binary_names_its_package(tmp_path):
    with pytest.raises(ToolError, match="journalctl is not installed; install the package systemd"):
        Commands(ToolError, {"PATH": str(tmp_path)}).run(["journalctl"], timeout=10)


def test_what_cannot_be_executed_is_told(script, tmp_path):
    runner = script("true")
    (tmp_path / "tool").write_bytes(b"\x7fELF nonsense")

    with pytest.raises(ToolError, match="tool could not be started: Exec format error"):
        runner.run(["tool"], timeout=10)


def test_at_the_deadline_the_whole_group_ends(script, tmp_path):
    runner = script(f"sleep 1000 & echo $! > {tmp_path}/child; wait")

    with pytest.raises(ToolError, match=r"tool did not end within 0\.5 s and was killed"):
        runner.run(["tool"], timeout=0.5)

    assert not alive(int((tmp_path / "child").read_text()))


def test_who_ignores_sigterm_is_killed(script, tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "GRACE", 0.1)
    runner = script(f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 1; done")

    with pytest.raises(ToolError, match="was killed"):
        runner.run(["tool"], timeout=0.5)

    assert not alive(int((tmp_path / "pid").read_text()))


def test_a_daemon_that_keeps_the_pipe_open_delays_nothing_and_lives_on(script, tmp_path):
    runner = script(f"sleep 1000 & echo $! > {tmp_path}/daemon; echo done")

    run = runner.run(["tool"], timeout=60)

    daemon = int((tmp_path / "daemon").read_text())
    try:
        assert run.stdout == "done\n"
        assert alive(daemon)
    finally:
        os.kill(daemon, signal.SIGKILL)


def test_a_flood_of_output_is_capped_but_the_command_ends(script, monkeypatch):
    monkeypatch.setattr(commands, "CAPTURED", 1000)

    run = script("head -c 3000000 /dev/zero; echo end >&2").run(["tool"], timeout=30)

    assert len(run.stdout) == 1000
    assert run.truncated
    assert run.stderr == "end\n"


def test_names_that_are_no_utf8_survive(script):
    output = script("printf '\\377'").run(["tool"], timeout=10).stdout

    assert os.fsencode(output) == b"\xff"


def test_several_commands_run_side_by_side(script):
    runner = script('printf %s "$1"')
    seen: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda n=n: seen.update({n: runner.run(["tool", str(n)], timeout=30).stdout}))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert seen == {n: str(n) for n in range(8)}
