"""Signals to real processes: those that were meant and no others, and none that would kill by accident."""

import os
import signal
import time

import pytest

from functions.core.ports import ToolError
from infra.adapters import process_signals
from infra.adapters.process_signals import ProcessSignals
from infra.adapters.processes import Processes
from schemas.remediation import Outcome
from tests.infra.adapters.children import IDLE, TOUCHY, children
from tests.waiting import until

TOOLS = ProcessSignals()


@pytest.fixture
def start():
    with children() as start:
        yield start


def identity(child):
    found = Processes().identity(child.pid)
    assert found is not None
    return found


async def test_a_signal_with_a_handler_is_sent(start):
    child = start("import signal; signal.signal(signal.SIGUSR1, lambda *_: print('heard', flush=True));" + IDLE)

    result = TOOLS.signal(identity(child), "SIGUSR1")

    assert (result.name, result.outcome) == (f"process {child.pid}", Outcome.DONE)
    assert child.stdout.readline() == b"heard\n"
    assert child.poll() is None


def test_a_signal_without_a_handler_is_refused_and_the_process_lives(start):
    child = start(IDLE)

    result = TOOLS.signal(identity(child), "SIGUSR1")

    assert result.outcome is Outcome.REFUSED
    assert result.reason.startswith("it has no handler for SIGUSR1")
    assert child.poll() is None


@pytest.mark.parametrize("act", ["signal", "end", "collect_java"])
def test_a_number_that_went_to_another_process_is_left_alone(start, act):
    """Two processes can't be given one number at will: the start time of an earlier one says the same."""
    child = start("import signal; signal.signal(signal.SIGUSR1, print);" + IDLE)
    earlier = identity(child).model_copy(update={"started": identity(child).started - 1})

    result = getattr(TOOLS, act)(earlier, *{"signal": ("SIGUSR1",), "end": (5.0,), "collect_java": (5.0,)}[act])

    assert (result.outcome, result.reason) == (Outcome.SKIPPED, "it ended, and another process has its number")
    assert child.poll() is None


@pytest.mark.parametrize("reaped", [True, False])
def test_one_that_ended_is_skipped(start, reaped):
    child = start("import signal; signal.signal(signal.SIGUSR1, print);" + IDLE)
    planned = identity(child)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    if reaped:
        child.wait()

    for result in (TOOLS.signal(planned, "SIGUSR1"), TOOLS.end(planned, 5)):
        assert result.outcome is Outcome.SKIPPED
        assert "ended" in result.reason


def test_a_signal_that_is_none_is_an_error(start):
    with pytest.raises(ToolError, match=r"send SIGNONE to process \d+: this system has no such signal"):
        TOOLS.signal(identity(start(IDLE)), "SIGNONE")


def test_one_that_ends_on_sigterm_is_not_killed(start):
    child = start(IDLE)

    result = TOOLS.end(identity(child), 30)

    assert (result.outcome, result.reason) == (Outcome.DONE, "it ended on SIGTERM")
    assert child.wait(10) == -signal.SIGTERM


def test_its_own_clean_up_is_waited_for(start):
    child = start(
        "import signal, sys, time\ndef stop(*_):\n    time.sleep(0.3)\n    sys.exit(7)\n"
        f"signal.signal(signal.SIGTERM, stop); {IDLE}"
    )

    assert TOOLS.end(identity(child), 30).outcome is Outcome.DONE
    assert child.wait(10) == 7


def test_one_that_does_not_end_in_time_is_killed(start):
    child = start(TOUCHY)
    began = time.monotonic()

    result = TOOLS.end(identity(child), 0.2)

    assert (result.outcome, result.reason) == (Outcome.DONE, "it did not end within 0.2 s of SIGTERM and was killed")
    assert child.wait(10) == -signal.SIGKILL
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("pid", [1, os.getpid(), os.getppid()])
def test_neither_the_first_process_nor_we_are_ended(pid):
    planned = Processes().identity(pid)
    assert planned is not None

    assert TOOLS.end(planned, 0).outcome is Outcome.REFUSED


async def test_one_that_hangs_in_the_kernel_is_a_failure(start, monkeypatch):
    """It is made to look so: SIGKILL goes out, and its end is not waited for."""
    child = start(TOUCHY)
    monkeypatch.setattr(process_signals, "_ended", lambda *_: False)

    assert TOOLS.end(identity(child), 0).outcome is Outcome.FAILED
    await until(lambda: child.poll() is not None)


@pytest.mark.needs("root")
def test_a_process_of_others_is_an_error_that_says_what_to_do(start):
    ours = start(IDLE)
    script = (
        "import os\nfrom functions.core.ports import ToolError\n"
        "from infra.adapters.process_signals import ProcessSignals\n"
        "from schemas.facts.processes import ProcessIdentity\n"
        f"planned = ProcessIdentity(pid={ours.pid}, started={identity(ours).started})\nos.setuid(65534)\n"
        "try:\n    ProcessSignals().end(planned, 1)\nexcept ToolError as error:\n    print(error, flush=True)"
    )

    child = start(script)

    assert child.told == (
        f"end process {ours.pid}: Operation not permitted; run as root or as its user, on Linux 5.3 or later"
    )
    assert ours.poll() is None
