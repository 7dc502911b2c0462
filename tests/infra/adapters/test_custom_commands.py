"""Commands of the operator's own, run for real: what they get, what they may, how they end and what is told of it."""

import json
import os
import pwd
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra.adapters import commands
from infra.adapters.custom_commands import CustomChecks, CustomCommands, trouble_with
from schemas.facts.commands import Command
from schemas.probes import ProbeError
from schemas.remediation import ItemResult, Outcome
from tests.infra.adapters.test_commands import alive

TARGET = "bytes:/srv/exports"

as_root = pytest.mark.needs("root")


@pytest.fixture
def script(tmp_path: Path):
    def write(body: str, name: str = "tool", interpreter: str = "/bin/sh") -> str:
        path = tmp_path / name
        path.write_text(f"#!{interpreter}\n{body}\n")
        path.chmod(0o755)
        return str(path)

    return write


def run(*argv: str, runs: dict | None = None, **fields) -> ItemResult:
    command = Command(argv=argv, **{"timeout": 30, **fields})
    return CustomCommands(runs if runs is not None else {}).run("custom.x", TARGET, command)


def check(*argv: str, **fields) -> bool:
    return CustomChecks({}).healthy(Command(argv=argv, **{"timeout": 30, **fields}))


def test_status_0_is_done_and_both_outputs_are_told(script):
    item = run(script("echo cleared 3; echo careful >&2"))

    assert (item.name, item.outcome) == (TARGET, Outcome.DONE)
    assert item.reason.endswith("tool ended with status 0: errors: careful; output: cleared 3")


def test_another_status_is_a_failure_that_names_it(script):
    item = run(script("echo no room >&2; exit 3"))

    assert item.outcome is Outcome.FAILED
    assert item.reason.endswith("ended with status 3: errors: no room")


def test_death_by_a_signal_is_a_failure(script):
    assert run(script("kill -9 $$")).reason.endswith("ended with signal SIGKILL: silent")


def test_arguments_are_no_shell_text(script, tmp_path):
    hostile = f"$(touch {tmp_path}/owned); `touch {tmp_path}/owned` | & ' \" * ~"

    item = run(script('printf %s "$1"'), hostile)

    assert item.reason.endswith(hostile)
    assert not (tmp_path / "owned").exists()


def test_a_name_that_is_no_utf8_arrives_as_it_is(script, tmp_path):
    run(script(f'printf %s "$1" > {tmp_path}/got'), os.fsdecode(b"/srv/\xff"))

    assert (tmp_path / "got").read_bytes() == b"/srv/\xff"


def test_output_for_terminals_is_neutralised_and_only_its_end_is_told(script):
    item = run(script("printf '\\033[31mred'; head -c 100000 /dev/zero | tr '\\0' x; printf '\\033[0mlast'"))

    assert "\x1b" not in item.reason
    assert item.reason.endswith("\\x1b[0mlast")
    assert len(item.reason) < 2000


def test_nothing_of_our_environment_is_handed_on(script, monkeypatch):
    monkeypatch.setenv("ANSAI_BUS__URL", "nats://secret")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")

    item = run(script("env | cut -d= -f1 | sort | tr '\\n' ' '"))

    names = set(item.reason.rpartition("output: ")[2].split())
    assert names - {"PWD", "SHLVL", "_", "OLDPWD"} == {"LC_ALL", "PATH"}


def test_standard_input_is_what_was_given_or_nothing(script):
    event = json.dumps({"mount": "/srv", "text": "x" * 70_000})

    assert run(script("wc -c"), stdin=event).reason.endswith(f"output: {len(event)}")
    assert run(script("wc -c")).reason.endswith("output: 0")


def test_a_command_that_reads_nothing_of_its_input_ends_well(script):
    assert run(script("exit 0"), stdin="x" * 200_000).outcome is Outcome.DONE


def test_it_runs_where_it_was_told(script, tmp_path):
    assert run(script("pwd"), directory=str(tmp_path)).reason.endswith(f"output: {tmp_path}")
    assert run(script("pwd")).reason.endswith("output: /")


def test_after_its_time_the_whole_group_is_ended(script, tmp_path):
    item = run(script(f"sleep 1000 & echo $! > {tmp_path}/child; wait"), timeout=0.5)

    assert item.outcome is Outcome.FAILED
    assert "did not end within 0.5 s and was killed" in item.reason
    assert not alive(int((tmp_path / "child").read_text()))


def test_who_ignores_sigterm_is_killed(script, tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "GRACE", 0.1)

    run(script(f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 1; done"), timeout=0.5)

    assert not alive(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("program", ["/nowhere/tool", "/etc", "/etc/passwd"])
def test_what_is_no_program_is_refused_and_nothing_was_run(program):
    item = run(program)

    assert item.outcome is Outcome.REFUSED
    assert item.reason.startswith(f"nothing was run: {program} is no program that can be run")


def test_what_the_kernel_cannot_execute_is_refused_too(script, tmp_path):
    program = script("")
    Path(program).write_bytes(b"\x7fELF nonsense")

    item = run(program)

    assert item.outcome is Outcome.REFUSED
    assert "Exec format error" in item.reason


def test_a_directory_that_is_none_is_refused(script, tmp_path):
    assert run(script("true"), directory=str(tmp_path / "none")).outcome is Outcome.REFUSED


def test_an_unknown_user_is_refused_with_the_command_that_adds_one(script):
    item = run(script("true"), user="nobody-of-ours")

    assert item.outcome is Outcome.REFUSED
    assert "there is no user nobody-of-ours on this host; adduser --system nobody-of-ours" in item.reason


@as_root
def test_with_another_user_it_has_that_users_rights_and_groups_only():
    item = run("/usr/bin/id", user="nobody")

    nobody = pwd.getpwnam("nobody")
    groups = {nobody.pw_gid, *os.getgrouplist("nobody", nobody.pw_gid)}
    told = item.reason.rpartition("output: ")[2]
    assert f"uid={nobody.pw_uid}(" in told
    assert {int(part.partition("(")[0]) for part in told.partition("groups=")[2].split(",")} == groups


@as_root
def test_another_user_can_read_its_input(tmp_path):
    assert run("/usr/bin/wc", "-c", user="nobody", stdin="12345").reason.endswith("output: 5")


def test_our_own_name_needs_no_root():
    assert run("/bin/true", user=pwd.getpwuid(os.geteuid()).pw_name).outcome is Outcome.DONE


def test_who_is_not_root_is_told_that_another_user_needs_it(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    trouble = trouble_with(Command(argv=("/bin/true",), timeout=1, user="nobody"))

    assert trouble is not None
    assert trouble.seen == "to run as the user nobody needs root, and this is user 1000"


@pytest.mark.parametrize(("status", "healthy"), [(0, True), (1, False)])
def test_a_check_says_healthy_or_not(script, status, healthy):
    assert check(script(f"exit {status}")) is healthy


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo broken >&2; exit 2", "ended with status 2, which is no answer .*: errors: broken"),
        ("kill -15 $$", "ended with signal SIGTERM, which is no answer"),
        ("sleep 1000", "did not end within 0.5 s and was killed"),
    ],
)
def test_any_other_end_of_a_check_is_unknown(script, body, words):
    with pytest.raises(ProbeError, match=words):
        check(script(body), timeout=0.5 if "sleep" in body else 30)


def test_a_check_that_cannot_be_started_is_unknown():
    with pytest.raises(ProbeError, match="/nowhere/check is no program that can be run"):
        check("/nowhere/check")


@pytest.mark.parametrize("body", ["exit 0", "exit 1"])
def test_when_a_command_ended_is_remembered_for_its_target_whether_it_worked_or_not(script, body):
    runs: dict = {}
    before = datetime.now(UTC)

    run(script(body), runs=runs)

    checks = CustomChecks(runs)
    ended = checks.ran_at("custom.x", TARGET)
    assert ended is not None
    assert before <= ended <= datetime.now(UTC)
    assert checks.ran_at("custom.x", "bytes:/other") is None
    assert checks.ran_at("custom.y", TARGET) is None


def test_what_was_refused_did_not_run(script):
    runs: dict = {}

    run("/nowhere/tool", runs=runs)

    assert runs == {}


# Python callables.


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A module that is importable here, and so in the child."""
    (tmp_path / "shop_actions.py").write_text(
        "import os, sys\n"
        "def tell(target, event):\n    return f\"{target} {event['percent']} {os.getcwd()}\"\n"
        "def refuse(target, event):\n    return False\n"
        "def quiet(target, event):\n    pass\n"
        "def broken(target, event):\n    raise ValueError('no shelf')\n"
        "def leave(target, event):\n    sys.exit(5)\n"
        "def path(target, event):\n    return ' '.join(map(repr, sys.path))\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), str(Path(commands.__file__).parents[2]))))


def call(name: str, **fields) -> ItemResult:
    return run(call=f"shop_actions:{name}", stdin='{"percent": 93.5}', **fields)


@pytest.mark.usefixtures("package")
def test_a_callable_gets_target_and_event_and_its_text_is_told(tmp_path):
    item = call("tell", directory=str(tmp_path))

    assert item.outcome is Outcome.DONE
    assert item.reason.endswith(f"output: {TARGET} 93.5 {tmp_path}")


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("name", "outcome", "words"),
    [
        ("quiet", Outcome.DONE, "ended with status 0: silent"),
        ("refuse", Outcome.FAILED, "ended with status 1"),
        ("broken", Outcome.FAILED, "shop_actions:broken: ValueError: no shelf"),
        ("leave", Outcome.FAILED, "ended with status 5"),
        ("missing", Outcome.FAILED, "AttributeError: module 'shop_actions' has no attribute 'missing'"),
    ],
)
def test_what_a_callable_does_decides_the_outcome(name, outcome, words):
    item = call(name)

    assert item.outcome is outcome
    assert words in item.reason


@pytest.mark.usefixtures("package")
def test_the_directory_of_a_callable_is_no_place_for_modules(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "json.py").write_text("raise SystemExit('taken over')")

    assert call("tell", directory=str(tmp_path / "work")).outcome is Outcome.DONE
    assert repr(str(tmp_path / "work")) not in call("path", directory=str(tmp_path / "work")).reason


def test_a_callable_that_is_not_there_fails_in_words():
    assert "ModuleNotFoundError: No module named 'no_such_package'" in run(call="no_such_package:x", stdin="{}").reason


# ── checks of a configuration ─────────────────────────────────────────────────────────────────────────────────────────


def checked(*argv: str, **fields):
    return CustomChecks({}).check(Command(argv=argv, **{"timeout": 30, **fields}))


def test_a_configuration_passes_with_status_0_and_fails_with_any_other(script):
    assert checked(script("exit 0")).passed
    for status in (1, 2, 255):
        assert not checked(script(f"exit {status}", name=f"status{status}")).passed


def test_a_check_says_why_in_the_line_before_the_one_that_only_says_that_it_failed(script):
    answer = checked(script("echo warming up; echo line 7: no such word >&2; echo; echo test failed >&2; exit 1"))

    assert answer.said == "line 7: no such word; test failed"


def test_a_silent_check_says_how_it_ended(script):
    assert checked(script("exit 3")).said == "status 3"
    assert checked(script("kill -9 $$")).said == "signal SIGKILL"


def test_a_program_without_a_path_is_one_of_the_systems_or_none():
    assert checked("true").passed
    assert checked("no-such-check") is None


def test_a_check_that_hangs_is_no_answer(script):
    with pytest.raises(ProbeError, match=r"did not end within 0\.2 s"):
        checked(script("sleep 1000"), timeout=0.2)
