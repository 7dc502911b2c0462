"""Custom actions under the real engine, on a real nats-server, with real commands."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bus import subjects
from bus.jetstream import JetStreamBus, connect
from bus.port import StreamName
from functions import registry
from infra.hosts.function_host import FunctionHost
from infra.hosts.local import machine_of
from schemas.audit import AuditRecord, Step
from schemas.disk import DiskPressure
from schemas.envelope import Event
from schemas.facts.files import Resource
from schemas.health import Level
from schemas.remediation import Outcome
from schemas.settings.bus import BusSettings
from schemas.settings.root import Configuration
from schemas.trigger import Asked, Trigger
from tests.audit_trail import records_of
from tests.functions.core.tank import EAGER
from tests.servers import running_server

HOST = "web-1"
FUNCTION = "custom.clear"


class Shop:
    """A host with one custom action; the target is a file that holds `sick` until a command removes the word."""

    def __init__(self, directory: Path, bus: JetStreamBus, settings: BusSettings) -> None:
        self.directory = directory
        self.bus = bus
        self.settings = settings
        self.stack = contextlib.AsyncExitStack()
        self.patient = directory / "patient"
        self.patient.write_text("sick")
        self.log = directory / "log"
        self.log.touch()

    @property
    def target(self) -> str:
        return f"bytes:{self.patient}"

    def script(self, name: str, body: str) -> str:
        path = self.directory / name
        path.write_text(f'#!/bin/sh\necho {name} "$@" >> {self.log}\n{body}\n')
        path.chmod(0o755)
        return str(path)

    @property
    def ran(self) -> list[str]:
        """Every command with its arguments, the test's own directory left out."""
        return self.log.read_text().replace(f"{self.directory}/", "").splitlines()

    async def host(self, policy: dict[str, Any] | None = None, **fields: Any) -> None:
        action = {
            "name": "clear", "on": DiskPressure.type_name(), "targets": [f"bytes:{self.directory}/*"],
            "when": {"level": "critical"}, "risk": "reversible", **fields,
        }  # fmt: skip
        configuration = Configuration.model_validate(
            {
                "bus": self.settings,
                "custom_actions": [action],
                "policy": {
                    "mode": "auto",
                    "freeze_file": self.directory / "freeze",
                    "default": EAGER | (policy or {}),
                },
            }
        )
        remedy = registry.load(FUNCTION, configuration.custom_actions)
        bus = await connect(self.settings, name="test host")
        self.stack.push_async_callback(bus.close)
        machine = machine_of(configuration, HOST)
        host = FunctionHost([remedy], configuration, bus, bus, machine, directory=self.directory / "state")
        await host.start()
        self.stack.push_async_callback(host.stop)

    async def report(self, level: Level = Level.CRITICAL, target: str = "", **fields: Any) -> None:
        now, target = datetime.now(UTC), target or self.target
        given = {"mount": target.partition(":")[2], "resource": Resource.BYTES, "percent": 95, **fields}
        health = DiskPressure(target=target, level=level, reason="it fills up", observed_at=now, **given)
        event = Event[DiskPressure](
            source="/test", type=DiskPressure.type_name(), subject=target, time=now, data=health
        )
        await self.bus.publish(subjects.health(HOST, "disk", "pressure", target), event.body())

    async def ask(self, target: str) -> None:
        order = Trigger(target=target, mode=Asked.LIVE)
        await self.bus.publish(subjects.trigger(HOST, FUNCTION), order.model_dump_json().encode())

    async def records(self) -> list[AuditRecord]:
        return records_of([message async for message in self.bus.read(StreamName.AUDIT)])

    async def until(self, *steps: Step) -> list[AuditRecord]:
        """The records, as soon as each of these steps is among them."""
        async with asyncio.timeout(20):
            while True:
                records = await self.records()
                if {*steps} <= {record.step for record in records}:
                    return records
                await asyncio.sleep(0.02)


@pytest.fixture
async def shop(tmp_path) -> AsyncIterator[Shop]:
    async with running_server(tmp_path / "nats") as server:
        settings = BusSettings(url=server.url)
        bus = await connect(settings, name="test")
        (tmp_path / "shop").mkdir()
        made = Shop(tmp_path / "shop", bus, settings)
        try:
            yield made
        finally:
            await made.stack.aclose()
            await bus.close()


def steps(records: list[AuditRecord]) -> list[str]:
    return [record.step.value for record in records]


def one(records: list[AuditRecord], step: Step) -> AuditRecord:
    (found,) = [record for record in records if record.step is step]
    return found


def detail_of(records: list[AuditRecord]) -> str:
    """What is told of the first action that was carried out."""
    return next(record.result.detail for record in records if record.result is not None)


async def test_a_matching_event_runs_the_command_and_the_check_closes_it(shop):
    check = shop.script("check", f"grep -q well {shop.patient}")
    clear = shop.script("clear", f"echo well > {shop.patient}; echo cleared")
    await shop.host(run=[clear, "{target_name}", "{percent}"], verify=[check, "{target}"])

    await shop.report()
    records = await shop.until(Step.HEALED)

    assert [line for line in shop.ran if line.startswith("clear")] == ["clear patient 95.0"]
    assert "check bytes:patient" in shop.ran
    assert detail_of(records).endswith(f"clear {shop.patient} 95.0 ended with status 0: output: cleared")


async def test_the_shipped_mode_only_foretells_it(shop):
    clear = shop.script("clear", "true")
    await shop.host({"mode": "dry_run"}, run=[clear, "{target}"])

    await shop.report()
    records = await shop.until(Step.WOULD)

    assert shop.ran == []
    assert one(records, Step.PLANNED).plan.rungs[0].actions[0].title == f"Run {clear} {shop.target} for {shop.target}"


async def test_without_a_check_the_truth_is_unknown_until_an_event_from_afterwards(shop):
    clear = shop.script("clear", "true")
    await shop.host(run=[clear])

    await shop.report()
    records = await shop.until(Step.UNHEALED)
    assert one(records, Step.UNHEALED).outcome is Outcome.INCONCLUSIVE
    assert Step.HEALED not in {record.step for record in records}

    await shop.report(Level.WARNING)
    await shop.until(Step.HEALED)
    assert shop.ran == ["clear"]


async def test_a_failed_command_is_taken_back_by_the_declared_one(shop):
    check = shop.script("check", f"grep -q well {shop.patient}")
    clear = shop.script("clear", "echo 'no room' >&2; exit 3")
    undo = shop.script("undo", "true")
    await shop.host(run=[clear], verify=[check], undo=[undo, "{target_name}"])

    await shop.report()
    records = await shop.until(Step.UNDONE, Step.UNHEALED)

    assert [line for line in shop.ran if not line.startswith("check")] == ["clear", "undo patient"]
    assert "ended with status 3: errors: no room" in detail_of(records)


async def test_a_command_that_cannot_be_started_is_not_taken_back(shop):
    undo = shop.script("undo", "true")
    await shop.host(run=["/nowhere/clear"], undo=[undo])

    await shop.report()
    records = await shop.until(Step.FAILED, Step.UNHEALED)

    assert shop.ran == []
    assert "undoing" not in steps(records)
    assert "nothing was run: /nowhere/clear is no program" in detail_of(records)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mount": "--recursive"}, "{mount} begins with a dash"),
        ({"mount": "/srv/a\nb"}, "{mount} holds control characters"),
    ],
)
async def test_a_hostile_value_is_refused_and_nothing_is_run(shop, fields, words):
    clear = shop.script("clear", "true")
    await shop.host(run=[clear, "{mount}"])

    await shop.report(**fields)
    records = await shop.until(Step.REFUSED)

    assert words in one(records, Step.REFUSED).text
    assert shop.ran == []


async def test_a_target_that_climbs_out_of_the_globs_is_refused(shop):
    clear = shop.script("clear", "true")
    await shop.host(run=[clear, "{target_name}"])

    await shop.report(target=f"bytes:{shop.directory}/../../etc")
    records = await shop.until(Step.REFUSED)

    assert "has . or .. in its path" in one(records, Step.REFUSED).text
    assert shop.ran == []


async def test_events_that_do_not_concern_it_leave_no_trace(shop):
    clear = shop.script("clear", "true")
    await shop.host(run=[clear], when={"level": "critical", "percent": {"at_least": 99}})

    await shop.report()
    await shop.report(target="bytes:/elsewhere", percent=99)
    await shop.report(percent=99)
    records = await shop.until(Step.UNHEALED)

    assert {record.target for record in records} == {shop.target}
    assert shop.ran == ["clear"]


async def test_an_order_of_a_person_runs_it_where_a_check_says_how_things_are(shop):
    check = shop.script("check", f"grep -q well {shop.patient}")
    clear = shop.script("clear", f"echo well > {shop.patient}")
    await shop.host(run=[clear, "{target_name}"], verify=[check])

    await shop.ask(shop.target)
    await shop.until(Step.HEALED)

    assert [line for line in shop.ran if line.startswith("clear")] == ["clear patient"]


async def test_an_order_for_what_the_globs_do_not_permit_is_refused(shop):
    clear = shop.script("clear", "true")
    await shop.host(run=[clear], verify=[shop.script("check", "exit 1")])

    await shop.ask("bytes:/etc")
    records = await shop.until(Step.REFUSED)

    assert "no such target" in one(records, Step.REFUSED).text
    assert shop.ran == []


async def test_the_event_reaches_the_command_as_json(shop):
    clear = shop.script("clear", f"cat > {shop.directory}/got; echo well > {shop.patient}")
    await shop.host(run=[clear], input="event", verify=[shop.script("check", f"grep -q well {shop.patient}")])

    await shop.report()
    await shop.until(Step.HEALED)

    document = json.loads((shop.directory / "got").read_text())
    assert (document["target"], document["percent"]) == (shop.target, 95)
