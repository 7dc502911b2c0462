"""Layers of configuration: defaults, the file, ANSAI_ variables, options; and what is said about mistakes."""

import textwrap
from datetime import timedelta

import pytest

from infra.configuration import ConfigurationError, find, load, read
from infra.configuration.text import duration_text, size_text, to_plain, to_yaml
from schemas.remediation import Mode
from schemas.settings.root import Configuration

DESIGN = """
disk_monitoring:
  thresholds:
    warning: 80
    critical: 90
    emergency: 95
  auto_cleanup:
    logs_older_than: 30 days
    temp_files_older_than: 7 days
    package_cache: true
    docker_images: unused
    journal_size: 100M
"""


@pytest.fixture
def write(tmp_path):
    def written(text: str) -> str:
        path = tmp_path / "ansai.yaml"
        path.write_text(textwrap.dedent(text))
        return str(path)

    return written


@pytest.fixture
def problems(write):
    """The complaints about a file, its path shortened to its name."""

    def complained(text: str, **environment: str) -> list[str]:
        path = write(text)
        with pytest.raises(ConfigurationError) as refused:
            load(path, environment)
        return [problem.replace(path, "ansai.yaml") for problem in refused.value.problems]

    return complained


def test_the_file_of_the_design_is_valid_and_says_what_the_defaults_say(write):
    assert load(write(DESIGN), {}) == Configuration()


def test_without_a_file_the_defaults_are_in_force(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    loaded = read(None, {"HOME": str(tmp_path)})

    assert loaded.configuration.policy.mode is Mode.DRY_RUN
    assert loaded.file is None or loaded.file.startswith("/etc/")


def test_the_file_is_looked_for_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    of_user = tmp_path / "xdg" / "ansai" / "ansai.yaml"
    of_user.parent.mkdir(parents=True)
    of_user.write_text("")
    environment = {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}

    assert find(None, environment) == str(of_user)
    (tmp_path / "ansai.yaml").write_text("")
    assert find(None, environment) == "ansai.yaml"
    assert find(None, environment | {"ANSAI_CONFIG": "/named"}) == "/named"
    assert find("/given", environment | {"ANSAI_CONFIG": "/named"}) == "/given"


def test_a_named_file_that_is_missing_is_an_error():
    with pytest.raises(ConfigurationError, match=r"/nowhere/ansai\.yaml: can't be read: No such file"):
        load(None, {"ANSAI_CONFIG": "/nowhere/ansai.yaml"})


def test_variables_win_over_the_file_and_options_over_variables(write):
    path = write(
        "bus:\n  url: nats://file\n  replicas: 3\ndisk_monitoring:\n  thresholds:\n    warning: 70\n  target: 60\n"
    )
    environment = {"ANSAI_BUS__URL": "nats://variable", "ANSAI_DISK_MONITORING__THRESHOLDS__WARNING": "71"}

    by_variable = read(path, environment)
    by_option = read(path, environment, {"--bus": "nats://option", "--host": None})

    assert by_variable.configuration.bus.url == "nats://variable"
    assert by_variable.configuration.bus.replicas == 3
    assert by_variable.configuration.disk_monitoring.thresholds.warning == 71
    assert by_variable.configuration.disk_monitoring.target == 60
    assert by_variable.origin(("bus", "url")) == "ANSAI_BUS__URL"
    assert by_variable.origin(("bus", "replicas")) == f"{path}:3"
    assert by_variable.origin(("policy", "mode")) == "default"
    assert by_option.configuration.bus.url == "nats://option"
    assert by_option.origin(("bus", "url")) == "--bus"
    assert by_option.configuration.host is None


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("ANSAI_DISK_MONITORING__AUTO_CLEANUP__LOGS_OLDER_THAN", "false", False),
        ("ANSAI_DISK_MONITORING__AUTO_CLEANUP__LOGS_OLDER_THAN", "2 weeks", timedelta(weeks=2)),
        ("ANSAI_DISK_MONITORING__AUTO_CLEANUP__JOURNAL_SIZE", "1.5G", 3 * 2**29),
        ("ANSAI_DISK_MONITORING__AUTO_CLEANUP__JOURNAL_SIZE", "4096", 4096),
        ("ANSAI_DISK_MONITORING__AUTO_CLEANUP__EXCLUDE", "['*.db', keep]", ("*.db", "keep")),
        ("ANSAI_DISK_MONITORING__AUTO_CLEANUP__TEMP_DIRECTORIES", "{/scratch: 1 day}", {"/scratch": timedelta(days=1)}),
        ("ANSAI_HOST", "123", "123"),
        ("ANSAI_HOST", "no", "no"),
        ("ANSAI_HOST", "", None),
        ("ANSAI_POLICY__MODE", "auto", Mode.AUTO),
    ],
)
def test_a_variable_is_read_as_its_setting_wants_it(tmp_path, name, text, expected):
    empty = tmp_path / "empty.yaml"
    empty.touch()

    value = load(str(empty), {name: text})
    for part in name.removeprefix("ANSAI_").lower().split("__"):
        value = getattr(value, part)

    assert value == expected


def test_a_variable_may_hold_a_whole_section_and_another_one_of_its_keys(write):
    path = write("bus:\n  replicas: 3\n  url: nats://file\n")

    loaded = read(path, {"ANSAI_BUS": "{url: nats://all, publish_window: 7}", "ANSAI_BUS__PUBLISH_WINDOW": "8"})

    assert (loaded.configuration.bus.url, loaded.configuration.bus.publish_window) == ("nats://all", 8)
    assert loaded.configuration.bus.replicas == 3
    assert loaded.origin(("bus", "url")) == "ANSAI_BUS"
    assert loaded.origin(("bus", "publish_window")) == "ANSAI_BUS__PUBLISH_WINDOW"
    assert loaded.origin(("bus", "replicas")) == f"{path}:2"


def test_policies_of_functions_are_merged_by_name_but_other_mappings_replaced(write):
    path = write(
        """
        policy:
          functions:
            disk.free_space: {mode: auto, cooldown: 1 h}
        disk_monitoring:
          auto_cleanup:
            temp_directories: {/tmp: null, /var/tmp: 9 days}
        """
    )
    environment = {
        "ANSAI_POLICY__FUNCTIONS": "{disk.free_space: {cooldown: 2 h}}",
        "ANSAI_DISK_MONITORING__AUTO_CLEANUP__TEMP_DIRECTORIES": "{/tmp: 3 days}",
    }

    loaded = read(path, environment)

    policy = loaded.configuration.policy.functions["disk.free_space"]
    assert (policy.mode, policy.cooldown) == (Mode.AUTO, timedelta(hours=2))
    assert loaded.configuration.disk_monitoring.auto_cleanup.temp_directories == {"/tmp": timedelta(days=3)}
    key = ("disk_monitoring", "auto_cleanup", "temp_directories")
    assert not any(
        other[: len(key)] == key and len(other) > len(key) and ":" in origin for other, origin in loaded.origins.items()
    )


def test_variables_that_are_no_settings_are_left_alone(write):
    load(
        write(""),
        {"ANSAI_CONFIG": "/elsewhere", "ANSAI_TEST_INSTALL": "1", "ANSAI_TEST_REQUIRE": "all", "PATH": "/bin"},
    )


def test_each_mistake_is_one_line_with_file_line_key_and_the_nearest_valid_key(problems):
    assert problems(
        """\
        disk_monitoring:
          thresholds:
            warnin: 80
          auto_cleanup:
            logs_older_than: 30
            temp_files_older_than: 0 days
            docker_images: all
          every: -5 s
        policy:
          mode: off
          functions:
            disk.free_space:
              mode: aut
        polcy: {}
        emergency: 3
        """
    ) == [
        "ansai.yaml:3: disk_monitoring.thresholds.warnin: unknown key; the nearest valid key is warning",
        (
            "ansai.yaml:5: disk_monitoring.auto_cleanup.logs_older_than: 30 has no unit; write, for example,"
            " 30 days or 30 s (or false)"
        ),
        (
            "ansai.yaml:6: disk_monitoring.auto_cleanup.temp_files_older_than: must be longer than 0; got '0 days'"
            " (or false)"
        ),
        "ansai.yaml:7: disk_monitoring.auto_cleanup.docker_images: must be 'unused', 'dangling' or false; got 'all'",
        "ansai.yaml:8: disk_monitoring.every: '-5 s' is no duration; write, for example, 30 days, 5 min or 1h 30m",
        (
            "ansai.yaml:10: policy.mode: mode can't be off (YAML reads a bare off as false);"
            " to switch a function off write enabled: false"
        ),
        (
            "ansai.yaml:13: policy.functions.disk.free_space.mode: must be 'observe', 'dry_run', 'approve' or 'auto';"
            " got 'aut'"
        ),
        "ansai.yaml:14: polcy: unknown key; the nearest valid key is policy",
        "ansai.yaml:15: emergency: unknown key here; it belongs to disk_monitoring.thresholds.emergency",
    ]


def test_a_policy_for_a_function_that_does_not_exist_is_refused(problems):
    assert problems("policy:\n  functions:\n    disk.fre_space: {mode: auto}\n") == [
        "ansai.yaml:3: policy.functions.disk.fre_space: there is no such function; the nearest is disk.free_space"
    ]


def test_thresholds_out_of_order_name_the_section_and_the_figures(problems):
    (problem,) = problems("disk_monitoring:\n  thresholds:\n    warning: 95\n    critical: 90\n    emergency: 99\n")

    assert problem.startswith(
        "ansai.yaml:2: disk_monitoring.thresholds: thresholds must rise: warning 95 < critical 90"
    )


def test_a_target_above_warning_is_refused(problems):
    (problem,) = problems("disk_monitoring:\n  target: 85\n")

    assert problem.startswith("ansai.yaml:1: disk_monitoring: target 85 must be below thresholds.warning 80")


def test_a_variable_that_breaks_a_section_of_the_file_is_named_beside_it(problems):
    (problem,) = problems(
        "disk_monitoring:\n  thresholds:\n    critical: 91\n", ANSAI_DISK_MONITORING__THRESHOLDS__WARNING="94"
    )

    assert problem.startswith(
        "ansai.yaml:2, ANSAI_DISK_MONITORING__THRESHOLDS__WARNING: disk_monitoring.thresholds: thresholds must rise"
    )


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"ANSAI_BUS__ULR": "nats://x"}, "ANSAI_BUS__ULR: bus.ulr: unknown key; the nearest valid key is url"),
        (
            {"ANSAI_BUS_URL": "nats://x"},
            "ANSAI_BUS_URL: sections and keys are joined by two underscores: ANSAI_BUS__URL",
        ),
        ({"ANSAI_DISK_MONITORING_TARGET": "3"}, "joined by two underscores: ANSAI_DISK_MONITORING__TARGET"),
        ({"ANSAI_BUSS__URL": "nats://x"}, "ANSAI_BUSS__URL: buss is no section; there are host, bus, logging"),
        ({"ANSAI_BUS__URL": "http://x"}, "ANSAI_BUS__URL: bus.url: 'http://x' is no NATS URL"),
        ({"ANSAI_POLICY__MODE": "off"}, "ANSAI_POLICY__MODE: policy.mode: mode can't be off"),
        ({"ANSAI_BUS__REPLICAS": "[1"}, "ANSAI_BUS__REPLICAS: '[1' is no valid YAML"),
    ],
)
def test_a_mistaken_variable_is_named(write, variables, complaint):
    with pytest.raises(ConfigurationError) as refused:
        load(write(""), variables)

    assert complaint in str(refused.value)


def test_a_section_that_is_no_mapping_is_refused(problems):
    (problem,) = problems("bus: nats://10.0.0.5\n")

    assert problem.startswith("ansai.yaml:1: bus: ")


def test_what_is_shown_is_a_valid_file_that_means_the_same(write, tmp_path):
    path = write(DESIGN + "policy:\n  functions:\n    disk.free_space: {mode: auto}\n")
    loaded = read(path, {"ANSAI_BUS__LEASE_TTL": "90 s"}, {"--bus": "nats://a:1,nats://b:1"})

    shown = tmp_path / "shown.yaml"
    shown.write_text(to_yaml(loaded))

    assert load(str(shown), {}) == loaded.configuration


def test_what_is_shown_names_the_origin_of_each_value(write):
    path = write("bus:\n  replicas: 3\n")
    lines = {
        line.split("#")[0].strip(): line.rpartition("# ")[2]
        for line in to_yaml(read(path, {"ANSAI_HOST": "web-1"})).splitlines()
    }

    assert lines["replicas: 3"] == f"{path}:2"
    assert lines["host: web-1"] == "ANSAI_HOST"
    assert lines["journal_size: 100M"] == "default"
    assert lines["plan_ttl: 1 day"] == "default"


def test_what_is_shown_to_programs_has_an_origin_for_every_value(write):
    document = to_plain(read(write("policy:\n  functions:\n    disk.free_space: {mode: auto}\n"), {}))

    assert document["values"]["policy"]["functions"]["disk.free_space"]["mode"] == "auto"
    assert document["origins"]["policy.functions.disk.free_space.mode"].endswith("ansai.yaml:3")
    assert document["origins"]["policy.functions.disk.free_space.cooldown"] == "default"
    assert document["origins"]["disk_monitoring.auto_cleanup.journal_size"] == "default"


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(days=30), "30 days"),
        (timedelta(days=1), "1 day"),
        (timedelta(minutes=90), "1 h 30 min"),
        (timedelta(days=1, seconds=1), "1 d 1 s"),
        (timedelta(milliseconds=250), "250 ms"),
        (timedelta(0), "0 s"),
    ],
)
def test_durations_are_written_exactly(duration, text):
    assert duration_text(duration) == text


@pytest.mark.parametrize(("size", "text"), [(100 * 2**20, "100M"), (2**40, "1T"), (1025, 1025), (0, 0), (1536, 1536)])
def test_sizes_are_written_exactly(size, text):
    assert size_text(size) == text
