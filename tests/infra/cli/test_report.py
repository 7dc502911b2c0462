"""`ansai report` against a real nats-server: what was told, with fixed figures, and what is read on the host itself."""

import asyncio
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rich.console import Console

from bus import subjects
from infra.cli.report_memory import TREND
from infra.cli.report_sources import Done, Told
from infra.cli.report_view import DOMAINS, block, overview, views
from infra.hosts.local import LocalProbes
from schemas.audit import Step
from schemas.envelope import Event
from schemas.facts.instances import instance_of_processes
from schemas.health import Level
from schemas.remediation import Finding, Outcome
from tests.infra.cli.told import (
    HOST,
    LEAK,
    MIB,
    act,
    ago,
    failed,
    filling,
    host_memory,
    leaking,
    plan_with,
    steady,
    tell,
)

HERE = {"ANSAI_HOST": HOST, "TZ": "UTC"}
RESTART = "services.restart_failed"
THEN = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


def drawn(renderable, width: int) -> list[str]:
    console = Console(width=width, record=True, file=open("/dev/null", "w"), markup=False)  # noqa: SIM115
    with console.file:
        console.print(renderable)
        return lines(console.export_text())


async def test_a_leak_is_told_with_its_trend_its_forecast_and_what_was_done(server, bus, ansai_beside):
    for health in (steady(), leaking(), host_memory()):
        await tell(bus, health)
    await act(bus, Step.ACTED, "Restart app.service: done, 1 of 1", outcome=Outcome.DONE, at=THEN)

    shown = await ansai_beside("report", "memory", "--bus", server, "--host", HOST, TZ="UTC")

    assert shown.code == 0, shown.err
    assert lines(shown.out) == [
        "memory on web-1",
        "target       level  available        of  swap used  waiting  kills",
        "host:memory  ok       8.0 GiB  16.0 GiB    512 MiB      3 %      0",
        "",
        "target             level        held    limit  trend      an hour    limit in",
        "unit:app.service   critical  812 MiB  1.0 GiB  ▁▂▃▄▅▆▇█  +120 MiB  1 h 33 min",
        "unit:cron.service  ok        4.0 MiB  8.0 GiB  ▁▁▁▁▁▁▁▁",
        "",
        "unit:app.service critical since 03-01 12:00",
        "  reason    app.service holds 812 MiB and grows by 120 MiB an hour towards its limit of 1.0 GiB",
        "  now       812 MiB held, 840 MiB in use, 82 % of 1.0 GiB (/system.slice/app.service)",
        "  trend     exhausting, says the fast detector; its floor went from 310 MiB to 800 MiB within 4 h",
        "            ▁▁▁▁▂▂▂▂▃▃▃▃▄▄▄▄▅▅▅▅▆▆▆▆▇▇▇▇████  300 MiB to 796 MiB",
        "  slope     +120 MiB an hour, between 110 MiB and 131 MiB with 95 % confidence",
        "  forecast  at its limit in 1 h 33 min",
        "  done      03-01 12:30 memory.contain_leak acted: Restart app.service: done, 1 of 1",
    ]


async def test_a_failed_unit_is_told_with_its_restarts_and_its_last_result(server, bus, ansai_beside):
    await tell(bus, failed())
    healthy = {"level": Level.OK, "active": "active", "sub": "running", "result": "success", "restarts": 0}
    await tell(bus, failed(target="unit:cron.service", exit_status=0, findings=(), **healthy))
    await act(bus, Step.REFUSED, "window: it is not now", function=RESTART, target="unit:nginx.service", at=THEN)

    shown = await ansai_beside("report", "services", "--bus", server, **HERE)

    assert lines(shown.out) == [
        "services on web-1",
        "target              level     state    since  restarts  ended",
        "unit:cron.service   ok        running  03-01         0",
        "unit:nginx.service  critical  failed   03-01         5  exit-code 1",
        "",
        "unit:nginx.service critical since 03-01 12:00",
        "  reason    nginx.service failed: its main process ended with status 1",
        "  state     failed, enabled",
        "  restarts  5 by systemd since somebody started it, 3 of them lately",
        "  ended     exit-code 1",
        "  note      its unit file changed on disk and is not in force",
        "  done      03-01 12:30 services.restart_failed refused: window: it is not now",
    ]


async def test_a_filling_disk_is_told_with_the_time_until_it_is_full(server, bus, ansai_beside):
    await tell(bus, filling())

    shown = await ansai_beside("report", "disk", "--bus", server, **HERE)

    assert lines(shown.out) == [
        "disk on web-1",
        "target      level        used  full   an hour  full in",
        "bytes:/var  warning  85.0 GiB  85 %  +1.0 GiB     15 h",
        "",
        "bytes:/var warning",
        "  reason    /var is 85 % full",
        "  now       85.0 GiB used, 15.0 GiB left, on /dev/sda2",
        "  trend     +1.0 GiB an hour over the last hour",
        "  forecast  full in 15 h",
    ]


async def test_only_the_newest_event_of_a_target_counts_and_what_is_old_says_so(server, bus, ansai_beside):
    for held in (2 * MIB, 3 * MIB, 4 * MIB):
        await tell(bus, steady(held=held), ago(minutes=130))

    shown = await ansai_beside("report", "memory", "--bus", server, **HERE)

    assert lines(shown.out)[1:] == [
        "target             level     held    limit  trend     an hour  limit in     told",
        "unit:cron.service  ok     4.0 MiB  8.0 GiB  ▁▁▁▁▁▁▁▁                     2 h ago",
    ]


async def test_every_domain_is_reported_by_default_and_an_empty_one_says_what_to_start(server, ansai_beside):
    shown = await ansai_beside("report", "--bus", server, **HERE)

    said = "No collector told of it within a day; start one with: ansai collect"
    assert shown.code == 0
    assert lines(shown.out) == [
        "disk on web-1", f"{said} disk.pressure", "",
        "memory on web-1", f"{said} memory.pressure memory.trend", "",
        "services on web-1", f"{said} services.state",
    ]  # fmt: skip
    assert json.loads((await ansai_beside("report", "--json", "--bus", server, **HERE)).out) == []


async def test_as_json_there_is_one_document_for_each_target(server, bus, ansai_beside):
    await tell(bus, leaking())
    await act(bus, Step.PLANNED, "1 rung", plan=plan_with(Finding(title="process 42 holds 700 MiB", amount=7e8)))
    for _ in range(3):
        await act(bus, Step.WOULD, "it would be restarted")

    shown = await ansai_beside("report", "memory", "--json", "--bus", server, **HERE)

    (document,) = json.loads(shown.out)
    assert (document["domain"], document["host"], document["target"]) == ("memory", HOST, "unit:app.service")
    assert document["signal"] == "memory.trend"
    assert document["health"]["per_hour"] == 120 * MIB
    assert 140 < document["age_seconds"] < 300
    assert [(done["step"], done["text"], done["times"]) for done in document["done"]] == [
        ("would", "it would be restarted", 3)
    ]
    assert document["findings"][0]["title"] == "process 42 holds 700 MiB"
    assert document["now"] is None
    assert document["problem"], "the unit of the event does not run here"


async def test_a_target_can_be_named_with_or_without_its_kind(server, bus, ansai_beside):
    for health in (steady(), leaking(), failed()):
        await tell(bus, health)

    for name in ("cron.service", "unit:cron.service"):
        shown = await ansai_beside("report", "--target", name, "--bus", server, **HERE)
        assert "unit:cron.service ok since 03-01 12:00" in lines(shown.out), "all its details, though it is well"
        assert "app.service" not in shown.out
        assert "nginx" not in shown.out
    missing = await ansai_beside("report", "memory", "--target", "gone.service", "--bus", server, **HERE)

    assert missing.code == 1
    assert missing.err == (
        "ansai: nothing was told of 'gone.service' on web-1 within a day;"
        " it was told of unit:app.service, unit:cron.service\n"
    )


async def test_what_was_done_is_told_also_of_a_target_that_is_gone(server, bus, ansai_beside):
    await act(bus, Step.HEALED, "it is healthy again", target="unit:gone.service", at=THEN)

    shown = await ansai_beside("report", "memory", "--bus", server, **HERE)

    assert lines(shown.out)[-2:] == [
        "unit:gone.service of which no collector told within a day",
        "  done  03-01 12:30 memory.contain_leak healed: it is healthy again",
    ]


async def test_another_hosts_events_are_not_ours(server, bus, ansai_beside):
    await tell(bus, leaking(), host="web-2")

    ours = await ansai_beside("report", "memory", "--bus", server, **HERE)
    assert "No collector told" in ours.out
    other = await ansai_beside("report", "memory", "--bus", server, "--host", "web-2", **HERE)
    assert "memory on web-2" in other.out
    assert "looked" not in other.out, "what runs here says nothing of web-2"


async def test_hostile_text_and_what_is_no_event_reach_no_terminal(server, bus, ansai_beside):
    subject = subjects.health(HOST, "memory", "trend", "unit:evil.service")
    event = Event[type(leaking())](source="/test", type="ansai.health.memory.trend.v1", data=leaking())
    body = json.loads(event.body())
    evil = "\x1b[2J\x1b]0;owned\x07"
    body["data"] |= {"target": f"unit:{evil}", "reason": evil, "limit_at": "/x\\x1b[2J", "instance": evil}
    await bus.publish(subject, json.dumps(body).encode(), message_id="1")
    await bus.publish(subject[:-1] + "_", b"\x1b[31mnonsense", message_id="2")
    await act(bus, Step.ACTED, evil, target=f"unit:{evil}", action=None)

    shown = await ansai_beside("report", "memory", "--bus", server, "--since", "1 day", **HERE, NO_COLOR="")

    assert shown.code == 0, shown.err
    assert "\x1b" not in shown.out + shown.err
    assert "\x07" not in shown.out + shown.err
    assert r"unit:\x1b[2J\x1b]0;owned\x07" in shown.out
    assert "can't be read and is left out" in shown.err


async def test_output_that_goes_into_a_pipe_has_no_colour(server, bus, ansai_beside):
    await tell(bus, leaking())

    shown = await ansai_beside("report", "--bus", server, **HERE, NO_COLOR="", TERM="xterm-256color")

    assert "critical" in shown.out
    assert "\x1b" not in shown.out


def test_a_wrong_domain_is_one_line_with_the_nearest(ansai):
    ended = ansai("report", "memroy")

    assert (ended.code, ended.err) == (1, "ansai: there is no report about 'memroy'; did you mean memory?\n")


@pytest.mark.parametrize("domain", DOMAINS)
def test_each_view_is_of_its_domain(domain):
    assert {view.model.domain for view in views(domain)} == {domain}


# How it looks in a narrow and in a wide terminal.


def told_of(health, *done: Done) -> Told:
    event = Event(source="/test", type="x", data=health, time=ago(seconds=150))
    return Told(health.target, event, done)


DONE = Done(THEN, LEAK, "unit:app.service", Step.ACTED, "Restart app.service: done", "c1")


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_and_its_details_fit_the_terminal(width, monkeypatch):
    told = [told_of(leaking(), DONE), told_of(steady())]

    table = drawn(overview(TREND, told, datetime.now(UTC)), width)
    details = drawn(block(TREND, told[0]), width)

    assert [line.split()[0] for line in table] == ["target", "unit:app.service", "unit:cron.service"]
    assert all("▁" in line for line in table[1:])
    assert max(map(len, [*table, *details])) <= width
    assert all(line.startswith("  ") for line in details[1:])
    assert len(details) == (11 if width == 80 else 8)


def test_what_was_done_often_is_counted_and_the_oldest_left_out():
    done = [replace(DONE, step=Step.WOULD, times=4), *[replace(DONE, text=f"number {each}") for each in range(9)]]

    text = "\n".join(drawn(block(TREND, told_of(leaking(), *done)), 120))

    assert "4 earlier ones; all of them: --json" in text
    assert "number 2" not in text
    assert "number 8" in text


# On the host itself.

HOLDER = "import sys\nheld = bytearray(40 << 20)\nprint('held', flush=True)\nsys.stdin.read()\n"


@pytest.fixture
async def worker():
    """A process of our own that holds 40 MiB, and the words in its arguments."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, "worker-of-the-report-test", stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert await process.stdout.readline() == b"held\n"
    yield process
    process.stdin.close()
    await process.wait()


@pytest.fixture
def matched():
    match = {"worker": {"command": "worker-of-the-report-test"}}
    return HERE | {"ANSAI_MEMORY_MONITORING__PROCESSES": json.dumps(match)}


def of_worker(worker, **changes):
    identity = LocalProbes().processes.identity(worker.pid)
    return leaking(target="process:worker", instance=instance_of_processes([identity]), **changes)


async def test_on_the_host_itself_the_largest_processes_and_mappings_are_read(
    server, bus, ansai_beside, worker, matched
):
    await tell(bus, of_worker(worker))

    shown = await ansai_beside("report", "memory", "--bus", server, **matched)
    (document,) = json.loads((await ansai_beside("report", "memory", "--json", "--bus", server, **matched)).out)

    (process,) = document["now"]["processes"]
    assert process["identity"]["pid"] == worker.pid
    assert process["memory"] >= 40 * MIB
    assert document["now"]["mappings"][0]["memory"] >= 40 * MIB
    assert f"process {worker.pid}: " in next(line for line in lines(shown.out) if line.startswith("  largest"))
    assert f"  of {worker.pid}" in shown.out


async def test_another_run_of_a_service_is_not_mixed_up_with_the_one_that_was_told_of(
    server, bus, ansai_beside, worker, matched
):
    await tell(bus, of_worker(worker).model_copy(update={"instance": "1@2"}))

    shown = await ansai_beside("report", "memory", "--bus", server, **matched)

    assert "  looked    it was restarted since it was told of" in lines(shown.out)


# The plan knows what collectors said.


async def test_without_a_bus_a_plan_says_that_no_trend_is_known(ansai_beside, worker, matched):
    shown = await ansai_beside("plan", LEAK, **matched)

    assert shown.code == 0
    heading, _, line, why, _, total = lines(shown.out)
    assert heading.startswith("memory.contain_leak on web-1")
    assert line.startswith("process:worker  ")
    assert "unknown" in line
    assert why == "  nothing was heard of how process:worker grows; does the collector memory.trend run?"
    assert total == "1 targets, nothing presses, 1 unknown. Nothing was changed."
    assert shown.err.startswith("What collectors said of late is not known: no bus:")


async def test_a_bus_that_does_not_answer_holds_a_plan_up_for_moments_only(ansai_beside, worker, matched):
    async with asyncio.timeout(15):
        shown = await ansai_beside("plan", LEAK, "--bus", "nats://127.0.0.1:1", **matched)

    assert shown.code == 0
    assert "nothing was heard of how process:worker grows" in shown.out
    assert "127.0.0.1:1" in shown.err


async def test_with_a_bus_a_plan_measures_against_the_trend_that_was_told(server, bus, ansai_beside, worker, matched):
    await tell(bus, of_worker(worker, floor_start=10 * MIB, floor_now=40 * MIB, observed_at=ago(seconds=5)))

    shown = await ansai_beside("plan", LEAK, "--bus", server, **matched)
    (document,) = json.loads((await ansai_beside("plan", LEAK, "--json", "--bus", server, **matched)).out)

    assert document["gap"]["amount"] > 20 * MIB
    line, why = lines(shown.out)[2:4]
    assert "critical" in line
    assert why.strip() == "app.service holds 812 MiB and grows by 120 MiB an hour towards its limit of 1.0 GiB"
    assert lines(shown.out)[-1] == "1 targets, 1 above target. Nothing was changed."


async def test_a_service_that_is_well_is_one_line_of_a_plan(server, bus, ansai_beside, worker, matched):
    well = of_worker(worker).model_copy(
        update={"level": Level.OK, "trend": steady().trend, "per_hour": 0.0, "seconds_to_limit": None}
    )
    await tell(bus, well.model_copy(update={"observed_at": ago(seconds=5), "series_since": ago(days=3)}))

    shown = await ansai_beside("plan", LEAK, "--bus", server, **matched)

    assert len(lines(shown.out)) == 5
    assert lines(shown.out)[2].endswith("not needed now")
