"""The mark `needs`, and what was not run: told at the end, or a failure where nothing may be left out.

And the machines that tests of several domains share: a real systemd, a group whose memory may be limited.
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator

import pytest

from tests import cgroups, components
from tests.programs import leaking
from tests.systemd import Machine, systemd


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        unknown = {name for mark in item.iter_markers("needs") for name in mark.args} - components.COMPONENTS.keys()
        if unknown:
            raise pytest.UsageError(f"{item.nodeid} needs {', '.join(sorted(unknown))}: not in tests/components.py")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    components.need(*(name for mark in item.iter_markers("needs") for name in mark.args))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not hasattr(report, "wasxfail"):
        fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    fail_if_skipped(report)
    return report


def fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """However it was skipped."""
    if report.skipped and components.all_required():
        report.outcome = "failed"
        report.longrepr = f"not run, but ANSAI_TEST_REQUIRE=all: {reason(report)}"


def reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    said = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return said.removeprefix("Skipped: ")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    not_run = Counter(reason(report) for report in terminalreporter.getreports("skipped"))
    if not_run:
        terminalreporter.section("not run")
    for text, count in not_run.most_common():
        terminalreporter.write_line(f"{count:>4} × {text}")


@pytest.fixture(scope="session")
def systemd_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with systemd(tmp_path_factory.getbasetemp()) as machine:
        yield machine


@pytest.fixture
def machine(systemd_machine: Machine) -> Iterator[Machine]:
    """A real systemd without units of another test; `tmp_path` is the same inside and outside."""
    yield systemd_machine
    systemd_machine.clear()


@pytest.fixture
def memory_cgroup() -> Iterator[cgroups.MemoryCgroup]:
    """A group of its own, without a limit so far."""
    components.need("memory limit")
    with cgroups.memory_cgroup() as group:
        yield group


@pytest.fixture
def leak(memory_cgroup: cgroups.MemoryCgroup) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """leak("--shape", …): `tests/programs/leaking.py` in the test's group, in which it is killed at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> "subprocess.Popen[bytes]":
        started.append(memory_cgroup.start(sys.executable, leaking.__file__, *arguments, stderr=subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
