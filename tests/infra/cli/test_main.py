"""The table of commands, the options of all commands, exit codes, and what is imported when."""

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from infra.cli.main import SECTIONS, LazyCommand, app, hoist

COMMANDS = [entry for section in SECTIONS.values() for entry in section]


def commands(group, path=()):
    """Every command with its path, groups entered."""
    for name, command in group.commands.items():
        real = command.real() if isinstance(command, LazyCommand) else command
        if hasattr(real, "commands"):
            yield from commands(real, (*path, name))
        else:
            yield (*path, name), real


EVERY_COMMAND = {" ".join(path): command for path, command in commands(typer.main.get_command(app))}


def imported_by(ansai_arguments: str, clean_environment, tmp_path) -> set[str]:
    code = (
        "import sys\nfrom infra.cli.main import main\n"
        f"try:\n    main({ansai_arguments.split()!r})\nexcept SystemExit as ended:\n"
        "    assert not ended.code, ended.code\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    return set(done.stderr.split())


def test_help_lists_every_command(ansai):
    shown = ansai("--help")

    assert shown.code == 0
    for entry in COMMANDS:
        assert f"\n  {entry.name} " in shown.out


def test_help_imports_nothing_heavy(clean_environment, tmp_path):
    modules = imported_by("--help", clean_environment, tmp_path)

    heavy = {
        "pydantic",
        "nats",
        "rich",
        "yaml",
        "psutil",
        "asyncio",
        "docker",
        "schemas",
        "bus",
        "collectors",
        "functions",
    }
    assert not modules & heavy
    assert not {name for name in modules if name.startswith("infra.cli.")} - {"infra.cli.main", "infra.cli.invocation"}


@pytest.mark.parametrize("arguments", ["config check", "version", "schemas export --check"])
def test_a_command_that_needs_no_bus_imports_no_client(arguments, clean_environment, tmp_path):
    assert not imported_by(arguments, clean_environment, tmp_path) & {"nats", "docker", "psutil", "isal"}


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_the_line_in_the_list_is_the_first_of_the_commands_own_help(entry):
    real = LazyCommand(entry).real()

    assert (real.help or "").split("\n")[0].rstrip(".").startswith(entry.help.split(",")[0].split(":")[0].rstrip("."))


@pytest.mark.parametrize("name", EVERY_COMMAND)
def test_every_command_has_help_with_an_example(name):
    shown = CliRunner().invoke(app, [*name.split(), "--help"])

    assert shown.exit_code == 0, shown.output
    words = " ".join(shown.output.split())
    assert f"ansai {name}" in words.partition("Example")[2], "the help shows no example of this command"


def test_every_command_that_lists_or_plans_can_answer_in_json():
    for name in EVERY_COMMAND:
        if name.split()[-1] in {"list", "show", "plan", "check", "doctor", "version", "watch", "trigger"}:
            assert any("--json" in parameter.opts for parameter in EVERY_COMMAND[name].params), name


@pytest.mark.parametrize(
    ("given", "hoisted"),
    [
        (["plan", "--config", "x"], ["--config", "x", "plan"]),
        (["plan", "--config=x", "--json"], ["--config=x", "plan", "--json"]),
        (
            ["--host", "a", "plan", "disk.free_space", "--bus", "b"],
            ["--host", "a", "--bus", "b", "plan", "disk.free_space"],
        ),
        (["run", "--", "--bus", "b"], ["run", "--", "--bus", "b"]),
        (["plan", "--config"], ["--config", "plan"]),
        ([], []),
    ],
)
def test_options_of_all_commands_may_stand_anywhere(given, hoisted):
    assert hoist(given) == hoisted


def test_an_option_behind_the_command_is_in_force(ansai):
    shown = ansai("config", "show", "--json", "--bus", "nats://elsewhere:1", "--host", "web-1")

    document = json.loads(shown.out)
    assert document["values"]["bus"]["url"] == "nats://elsewhere:1"
    assert document["origins"]["host"] == "--host"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["config", "check"], 0, ""),
        (["confi"], 2, "Did you mean 'config'?"),
        (["plan", "--nonsense"], 2, "No such option"),
        (["config", "check", "--log-format", "xml"], 2, "log-format"),
        (["config", "check", "--config", "/nowhere.yaml"], 78, "ansai: /nowhere.yaml: can't be read: No such file"),
        (["config", "check", "--bus", "http://x"], 78, "ansai: --bus: bus.url: 'http://x' is no NATS URL"),
        (["functions", "show", "disk.fre_space"], 1, "did you mean disk.free_space?"),
        (["collectors", "show", "x"], 1, "ansai: there is no collector 'x'"),
    ],
)
def test_the_exit_code_tells_what_went_wrong(ansai, arguments, code, said):
    ended = ansai(*arguments)

    assert ended.code == code
    assert said in " ".join(ended.err.split())
    assert "Traceback" not in ended.err


def test_every_problem_of_the_settings_is_one_line_and_stops_the_start(ansai, tmp_path):
    (tmp_path / "ansai.yaml").write_text("bus:\n  ulr: x\npolicy:\n  mode: off\n")

    for command in (["config", "check"], ["plan"], ["up"], ["run", "disk.free_space"], ["audit", "list"]):
        ended = ansai(*command)
        assert ended.code == 78
        assert ended.err.splitlines() == [
            "ansai: ansai.yaml:2: bus.ulr: unknown key; the nearest valid key is url",
            (
                "ansai: ansai.yaml:4: policy.mode: mode can't be off (YAML reads a bare off as false);"
                " to switch a function off write enabled: false"
            ),
        ]
        assert ended.out == ""


def test_the_settings_file_may_be_named_by_a_variable(ansai, tmp_path):
    named = tmp_path / "named.yaml"
    named.write_text("host: web-1\n")

    assert ansai("config", "check", ANSAI_CONFIG=str(named)).out == f"{named}: valid\n"


def test_an_unexpected_error_keeps_its_traceback(monkeypatch):
    def broken() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("infra.cli.version.installed", lambda package: broken())
    result = CliRunner().invoke(app, ["version"])

    assert isinstance(result.exception, ZeroDivisionError)
