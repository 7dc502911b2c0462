"""Each check says what was seen, and how to mend it."""

from infra import doctor
from infra.doctor import Health
from schemas.settings.bus import BusSettings, EmbeddedServer


def test_an_old_python_fails():
    assert doctor.python((3, 10)).health is Health.FAILED
    assert doctor.python((3, 12)).health is Health.OK


def test_a_missing_extra_names_the_command_that_brings_it():
    checks = {check.name: check for check in doctor.packages(lambda module: module not in {"isal", "docker"})}

    assert checks["packages"].health is Health.OK
    assert checks["extra logs"].health is Health.WARNING
    assert checks["extra containers"].fix == "pip install 'ansai[containers]'"


def test_a_missing_required_package_fails():
    assert next(doctor.packages(lambda module: module != "yaml")).health is Health.FAILED


def test_a_host_name_that_is_no_token_fails():
    assert doctor.name_of("web-1.example.org").seen == "web-1.example.org, in subjects web-1-example-org"
    assert doctor.name_of("web 1").health is Health.FAILED


def test_a_tool_is_missed_only_where_the_host_wants_it(tmp_path):
    (tmp_path / "etc" / "logrotate.d").mkdir(parents=True)

    checks = {check.name: check for check in doctor.tools(lambda tool: None, str(tmp_path))}

    assert checks["logrotate"].health is Health.WARNING
    assert checks["logrotate"].fix == "apt-get install logrotate"
    assert checks["apt-get"].health is Health.OK


def test_a_tool_that_is_there_is_named_with_its_path():
    assert {check.seen for check in doctor.tools(lambda tool: f"/bin/{tool}")} == {
        "/bin/apt-get", "/bin/journalctl", "/bin/logrotate",
    }  # fmt: skip


def test_the_state_directory_is_looked_at_without_making_it(tmp_path):
    wanted = tmp_path / "a" / "b"

    assert doctor.state_directory(wanted).health is Health.OK
    assert not wanted.exists()


def test_a_state_directory_below_a_file_fails(tmp_path):
    (tmp_path / "file").touch()

    assert doctor.state_directory(tmp_path / "file" / "below").health is Health.FAILED


def test_a_bus_that_does_not_answer_fails(tmp_path):
    settings = BusSettings(
        url="nats://127.0.0.1:1", connect_deadline="300 ms", embedded=EmbeddedServer(directory=tmp_path)
    )

    check = doctor.bus(settings)

    assert check.health is Health.FAILED
    assert "127.0.0.1:1" in check.seen


def test_without_a_socket_there_is_no_container_engine(tmp_path):
    assert doctor.containers(str(tmp_path / "none.sock")).health is Health.OK


def test_privileges_are_tried_not_guessed(tmp_path):
    open_files = tmp_path / "1" / "fd"
    hidden = doctor.privileges(str(tmp_path))
    open_files.mkdir(parents=True)
    (open_files / "0").symlink_to("/dev/null")

    assert hidden.health is Health.WARNING
    assert "hidepid" in hidden.seen
    assert doctor.privileges(str(tmp_path)).health is Health.OK


def test_the_clock_is_asked_of_the_kernel():
    check = doctor.clock()

    assert check.health in {Health.OK, Health.WARNING}
    assert (check.health is Health.OK) == (not check.fix)
