"""How a service ended, in words that say where to look."""

import subprocess

import pytest

from schemas.facts.endings import EXIT_STATUSES, ending
from schemas.facts.units import Unit


def failed(**facts) -> Unit:
    return Unit(**{"name": "app.service", "active": "failed", "result": "exit-code", "exit_code": 1, **facts})


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"exit_status": 3}, "its main process ended with status 3"),
        ({"exit_status": 203}, "it could not be started, status 203/EXEC: its program can't be executed"),
        ({"exit_status": 217}, "status 217/USER: its User= doesn't exist"),
        ({"result": "signal", "exit_code": 2, "exit_status": 9}, "its main process was ended by SIGKILL"),
        ({"result": "signal", "exit_code": 2, "exit_status": 11}, "its main process was ended by SIGSEGV"),
        ({"result": "core-dump", "exit_code": 3, "exit_status": 6}, "ended by SIGABRT and left a core dump"),
        ({"result": "signal", "exit_code": 2, "exit_status": 203}, "ended by signal 203"),
        ({"result": "oom-kill", "exit_code": 2, "exit_status": 9}, "the kernel killed it because memory ran out"),
        ({"result": "watchdog"}, "it did not answer the watchdog in time"),
        ({"result": "timeout"}, "longer than TimeoutStartSec= or TimeoutStopSec= permit"),
        ({"result": "exit-code", "exit_status": 0}, "what is run before or after it, failed (exit-code)"),
        ({"result": "start-limit-hit", "restarts": 5}, "started it again 5 times and gave up, 5 in 10 s is its limit"),
        (
            {"exit_status": 3, "restart_policy": "always", "restarts": 5},
            "ended with status 3; systemd started it again 5 times and gave up",
        ),
    ],
)
def test_each_way_to_end_is_told(facts, words):
    assert words in ending(failed(**facts))


@pytest.mark.parametrize(
    "facts",
    [{"restart_policy": "no"}, {"start_limit_burst": 0}, {"start_limit_interval": 0}, {"restarts": 4},
     {"active": "active"}],
)  # fmt: skip
def test_it_is_not_out_of_starts_where_systemd_counts_none_or_would_not_have_tried(facts):
    tried = {"restart_policy": "always", "restarts": 5, "exit_status": 1}
    assert failed(**tried).out_of_starts
    assert not failed(**tried | facts).out_of_starts


@pytest.mark.needs("systemd")
def test_the_names_of_statuses_are_those_that_systemd_knows():
    told = subprocess.run(["systemd-analyze", "exit-status"], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in told.splitlines()[1:]]
    known = {int(row[1]): row[0] for row in rows if len(row) == 3 and row[2] == "systemd"}
    ours = {number: name for number, (name, _) in EXIT_STATUSES.items()}
    assert ours == {number: name for number, name in known.items() if number != 255}  # which programs use as well
