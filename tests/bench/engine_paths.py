"""What the engine costs: closed gap, full incident with guard and signed audit, and the audit by itself.

    python -m tests.bench.engine_paths [--events 8000] [--incidents 1000] [--rounds 3]

Each against a bare nats-py loop with as many in flight. Closed gap: consume, validate, find nothing to do, acknowledge.
Incident: lease, incident, alert, guard, audit, one action, verification, report, by 16 functions in one process, each
with an audit chain of its own. The bare loop builds the same messages with the same models and does the same key-value
operations and publishes in the same order, its audit records chained by hash, each signed and appended behind the one
before, and nothing else; it has no guard, no fence, no recovery. Audit: records of 16 chains, nothing else. Each run
is a process of its own; runs alternate and medians are printed.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import logging
import resource
import shutil
import statistics
import sys
import tempfile
import time
import zlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import nats
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import KeyNotFoundError

from bus import subjects
from bus.jetstream import connect
from functions.core.plan import Plan, Rung
from functions.core.remedy import AnyRemedy
from infra.audit import form
from infra.hosts.function_host import FunctionHost, Machine
from infra.hosts.inbox import Inbox
from infra.hosts.story import BusStory
from schemas.alert import Alert, AlertState, Severity
from schemas.audit import ActionEvent, AuditRecord, Step
from schemas.envelope import Event, new_id
from schemas.fleet import Spent
from schemas.health import Level
from schemas.incident import Begun, Incident, IncidentState, Lease
from schemas.remediation import ActionResult, Gap, Mode, Outcome, Report, RungReport
from schemas.settings.bus import BusSettings
from schemas.settings.policy import Policy
from schemas.settings.root import Configuration
from tests.functions.core.tank import EAGER, Drain, TankHealth, Tanks, TankSettings, remedy
from tests.servers import nats_server

HOST = "bench"
WINDOW = 64
TARGETS = 50
"""Distinct targets of the closed-gap path: as many as a host has filesystems, services and certificates."""
EMITTERS = 16
STEPS = ("opened", "planned", "acting", "acted", "healed")
LEAST = {"closed": 0.8, "incident": 0.7, "audit": 1.0}
"""Ours, as a share of the bare loop's rate."""


class BenchConfiguration(Configuration):
    water_monitoring: TankSettings = TankSettings()


def event(target: str, level: Level = Level.CRITICAL) -> bytes:
    now = datetime.now(UTC)
    health = TankHealth(target=target, level=level, reason=f"{target} is {level}", observed_at=now)
    return Event[TankHealth](source="/bench", type=TankHealth.type_name(), subject=target, time=now, data=health).body()


async def offer(url: str, count: int, names: Callable[[int], str], signals: int) -> None:
    client = await nats.connect(url)
    stream = client.jetstream()
    for number in range(count):
        target, name = f"tank:{names(number)}", f"level{number % signals}" if signals > 1 else "level"
        body = event(target).replace(b"water.level.v1", f"water.{name}.v1".encode())
        await stream.publish_async(subjects.health(HOST, "water", name, target), body)
    await stream.publish_async_completed()
    await client.close()


async def pull(url: str, handle: Callable[[Any, Any, Msg], Awaitable[None]]) -> nats.NATS:
    """The best bare consumer: one long pull topped up at half the window, that many handlers in flight."""
    client = await nats.connect(url)
    stream = client.jetstream(publish_async_max_pending=8 * WINDOW)
    await stream.add_consumer("HEALTH", ConsumerConfig(durable_name="bare", ack_policy=AckPolicy.EXPLICIT))
    inbox, wanted, tasks = client.new_inbox(), 0, set()

    async def top_up() -> None:
        nonlocal wanted
        if wanted <= WINDOW // 2:
            count, wanted = WINDOW - wanted, WINDOW
            request = json.dumps({"batch": count, "expires": 30 * 10**9}).encode()
            await client.publish("$JS.API.CONSUMER.MSG.NEXT.HEALTH.bare", request, reply=inbox)

    async def one(message: Msg) -> None:
        nonlocal wanted
        await handle(client, stream, message)
        wanted -= 1
        await top_up()

    async def receive(message: Msg) -> None:
        if message.reply:
            task = asyncio.create_task(one(message))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    await client.subscribe(inbox, cb=receive)
    await top_up()
    return client


class Count:
    """Counts from the end of the warm-up to the last event."""

    def __init__(self, events: int) -> None:
        self.events, self.warm, self.seen = events, events // 10, 0
        self.began = self.cpu = 0.0
        self.finished = asyncio.Event()

    def one(self) -> None:
        self.seen += 1
        if self.seen == self.warm:
            self.began, self.cpu = time.perf_counter(), time.process_time()
        if self.seen == self.events:
            self.finished.set()

    async def result(self) -> dict[str, float]:
        await self.finished.wait()
        elapsed, used, counted = (
            time.perf_counter() - self.began,
            time.process_time() - self.cpu,
            self.events - self.warm,
        )
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"rate": counted / elapsed, "cpu": used / counted * 1e6, "rss": memory}


async def bare_closed(url: str, events: int) -> dict[str, float]:
    count, model = Count(events), Event[TankHealth]

    async def handle(client: Any, stream: Any, message: Msg) -> None:
        model.model_validate_json(message.data)
        await message.ack()
        count.one()

    client = await pull(url, handle)
    result = await count.result()
    await client.close()
    return result


async def bare_incident(url: str, events: int) -> dict[str, float]:
    """The operations of one healed incident as the engine does them, with the same messages, and nothing else."""
    count, model, messages = Count(events), Event[TankHealth], Messages()
    chains = [BareChain(number) for number in range(EMITTERS)]
    buckets: dict[str, Any] = {}

    async def handle(client: Any, stream: Any, message: Msg) -> None:
        event = model.model_validate_json(message.data)
        incidents = buckets.get("incidents") or buckets.setdefault("incidents", await stream.key_value("incidents"))
        leases = buckets.get("leases") or buckets.setdefault("leases", await stream.key_value("leases"))
        fleet = buckets.get("fleet") or buckets.setdefault("fleet", await stream.key_value("fleet"))
        key, told = subjects.state_key(HOST, "water.drain", event.data.target), []

        chain = chains[zlib.crc32(event.data.target.encode()) % EMITTERS]

        async def audit(step: str) -> None:
            await chain.append(stream, messages.record(event, step))

        async def tell(step: str) -> None:
            subject = subjects.action(HOST, "water.drain", step)
            headers = {"Nats-Msg-Id": f"{event.id}-{step}"}
            told.append(await stream.publish_async(subject, messages.action(event, step), headers=headers))

        async def alert(severity: str) -> None:
            subject = subjects.alert(HOST, "water.drain", severity)
            headers = {"Nats-Msg-Id": f"{event.id}{severity}"}
            await stream.publish(subject, messages.alert(event, severity), headers=headers)

        lease = await leases.create(key, messages.lease())
        with contextlib.suppress(KeyNotFoundError):
            await incidents.get(key)
        await audit("opened")
        await alert("critical")
        revision = await incidents.create(key, messages.incident(event, "open"))
        await chain.spend(fleet)
        await audit("planned")
        await tell("planned")
        await audit("acting")
        revision = await incidents.update(key, messages.incident(event, "acting"), revision)
        await tell("acting")
        await audit("acted")
        await tell("acted")
        await audit("healed")
        await incidents.update(key, messages.incident(event, "closed"), revision)
        await alert("info")
        await tell("healed")
        await leases.delete(key, last=lease)
        await asyncio.gather(*told)
        await message.ack()
        count.one()

    client = await pull(url, handle)
    result = await count.result()
    await client.close()
    return result


class BareChain:
    """One audit chain, one signed message for each record, in the form of `infra.audit.form`."""

    def __init__(self, number: int) -> None:
        self.emitter, self.sequence, self.head, self.last = f"bare{number}", 0, "", 0
        self.subject = subjects.audit(HOST, "water.drain", self.emitter)
        self.key = Ed25519PrivateKey.generate()
        self.lock = asyncio.Lock()
        self.spent, self.revision, self.spending = Spent(), 0, asyncio.Lock()

    async def spend(self, fleet: Any) -> None:
        """One attempt from a budget that nobody else writes, judged upon the revision that was read."""
        async with self.spending:
            minute = int(time.time()) // 60
            counts = dict(self.spent.attempts.get("water.drain", {}))
            if counts.get(minute, 0) >= EAGER["budget"]["per_function"]:
                raise AssertionError("the budget is spent")
            counts[minute] = counts.get(minute, 0) + 1
            self.spent = Spent(attempts={"water.drain": counts})
            self.revision = await fleet.put(f"spent.{self.emitter}", self.spent.model_dump_json().encode())

    async def append(self, stream: Any, fields: dict[str, Any]) -> None:
        async with self.lock:
            number = self.sequence + 1
            record = AuditRecord(
                emitter=self.emitter, sequence=number, previous=self.head, at=datetime.now(UTC), **fields
            )
            text = form.canonical(json.loads(record.model_dump_json(exclude_defaults=True)))
            segment = {
                "emitter": self.emitter, "host": HOST, "function": "water.drain", "first": number, "last": number,
                "previous": self.head, "head": form.digest(text), "at": datetime.now(UTC).isoformat(), "boot": "bare",
                "key": "bare",
            }  # fmt: skip
            signature = self.key.sign(form.signed_segment(segment)).hex()
            head = json.dumps({**segment, "signature": signature})[:-1].encode()
            body = b"".join((
                json.dumps({"specversion": "1.0", "id": new_id(), "source": "/bench", "type": "ansai.audit.v1",
                            "correlationid": fields["correlation"]})[:-1].encode(),
                b',"data":', head, b',"records":[', text, b"]}}",
            ))  # fmt: skip
            headers = {"Nats-Expected-Last-Subject-Sequence": str(self.last)}
            self.last = (await stream.publish(self.subject, body, headers=headers)).seq
            self.sequence, self.head = number, segment["head"]


class Messages:
    """What the incident path publishes and stores, built by the models of `schemas/` from ready-made parts."""

    def __init__(self) -> None:
        self.action_summary = Drain(tank="0", litres=9, name="0").told
        plan = Plan(rungs=(Rung(name="drain", title="Drain", actions=(Drain(tank="0", litres=9, name="0"),)),))
        self.gap = Gap(amount=5, unit="litres")
        self.plan = plan.summary("water.drain", "tank:0", self.gap)
        self.result = ActionResult(outcome=Outcome.DONE, done=1, freed={"litres": 9})
        action = {"action": "drain", "tank": "0", "litres": 9, "name": "0", "exact_estimate": True}
        self.begun = Begun(plan_hash=plan.hash, rung="drain", position=0, at=datetime.now(UTC), action=action)
        row = RungReport(rung="drain", title="Drain", candidates=1, planned={"litres": 9}, done=1, freed={"litres": 9},
                         measured={"litres": 9}, outcome=Outcome.DONE)  # fmt: skip
        self.report = Report(function="water.drain", host=HOST, target="tank:0", mode=Mode.AUTO, incident=new_id(),
                             outcome=Outcome.DONE, began=datetime.now(UTC), ended=datetime.now(UTC),
                             gap_before=self.gap, gap_after=self.gap, before={"water": 15}, after={"water": 6},
                             rungs=(row,))  # fmt: skip

    def parts(self, step: str) -> dict[str, Any]:
        return {
            "planned": {"plan": self.plan, "plan_hash": self.plan.hash, "gap": self.gap},
            "acting": {"rung": "drain", "action": self.action_summary},
            "acted": {"rung": "drain", "action": self.action_summary, "result": self.result, "outcome": Outcome.DONE},
            "healed": {"report": self.report, "gap": self.gap, "plan_hash": self.plan.hash, "outcome": Outcome.DONE},
        }.get(step, {"gap": self.gap})

    def record(self, event: Event[TankHealth], step: str) -> dict[str, Any]:
        return {
            "host": HOST, "function": "water.drain", "step": Step(step), "target": event.data.target, "incident": "i",
            "mode": Mode.AUTO, "text": event.data.reason, "correlation": event.correlationid, **self.parts(step),
        }  # fmt: skip

    def action(self, event: Event[TankHealth], step: str) -> bytes:
        told = ActionEvent(
            host=HOST, function="water.drain", target=event.data.target, incident="i", step=Step(step), mode=Mode.AUTO,
            text=event.data.reason, **self.parts(step),
        )  # fmt: skip
        return Event[ActionEvent](**self.envelope(event, "ansai.action.v1"), data=told).body()

    def alert(self, event: Event[TankHealth], severity: str) -> bytes:
        told = Alert(
            host=HOST, function="water.drain", target=event.data.target, incident="i", severity=Severity(severity),
            state=AlertState.OPENED, title=event.data.reason, at=datetime.now(UTC),
            report=self.report if severity == "info" else None,
        )  # fmt: skip
        return Event[Alert](**self.envelope(event, "ansai.alert.v1"), data=told).body()

    def envelope(self, event: Event[TankHealth], kind: str) -> dict[str, Any]:
        return {"source": "/bench", "type": kind, "subject": event.data.target, "correlationid": event.correlationid}

    def incident(self, event: Event[TankHealth], state: str) -> bytes:
        now = datetime.now(UTC)
        incident = Incident(
            correlation=event.correlationid, host=HOST, function="water.drain", target=event.data.target,
            state=IncidentState(state), opened_at=now, changed_at=now, gap=self.gap,
            begun=self.begun if state == "acting" else None,
        )  # fmt: skip
        return incident.model_dump_json().encode()

    def lease(self) -> bytes:
        return Lease(holder="bare", acquired_at=datetime.now(UTC)).model_dump_json().encode()


async def ours(url: str, events: int, tanks: Tanks, treatments: list[AnyRemedy]) -> dict[str, float]:
    count = Count(events)
    settings = BusSettings(url=url)
    bus = await connect(settings, name="bench")
    directory = state_in_memory()
    policy = Policy.model_validate({"mode": "auto", "freeze_file": directory / "freeze", "default": EAGER})
    configuration = BenchConfiguration(bus=settings, policy=policy)
    machine = Machine(HOST, tanks, tanks)  # type: ignore[arg-type]
    host = FunctionHost(treatments, configuration, bus, bus, machine, directory=directory)
    answer = Inbox._answer
    settles = Inbox.settles

    async def counted(self: Inbox, *arguments: Any) -> None:
        await answer(self, *arguments)
        count.one()

    def counted_settles(self: Inbox, message: Any) -> bool:
        settled = settles(self, message)
        if settled:
            count.one()
        return settled

    Inbox._answer = counted  # type: ignore[method-assign]
    Inbox.settles = counted_settles  # type: ignore[method-assign]
    await host.start()
    result = await count.result()
    await host.stop()
    await bus.close()
    shutil.rmtree(directory)
    return result


def state_in_memory() -> Path:
    """Each target here is a new one, whose fence file is created; on a disk that would measure the filesystem."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))


async def ours_closed(url: str, events: int) -> dict[str, float]:
    tanks = Tanks(**{str(number): 5 for number in range(TARGETS)})
    return await ours(url, events, tanks, [remedy((Drain(tank="0", litres=1, name="x"),))])


async def ours_incident(url: str, events: int) -> dict[str, float]:
    """Every target is drained by one action; 16 functions share the targets among them."""
    tanks = Tanks(**{str(number): 15 for number in range(events)})

    def plan(case: Any, seen: Any, found: Any) -> Plan:
        name = case.target.partition(":")[2]
        return Plan(rungs=(Rung(name="drain", title="Drain", actions=(Drain(tank=name, litres=9, name=name),)),))

    drains = [
        dataclasses.replace(remedy(), name=f"water.drain{number}", plan=plan, listens=(signal(number),))
        for number in range(EMITTERS)
    ]
    return await ours(url, events, tanks, drains)


def signal(number: int) -> type[TankHealth]:
    """A health model of its own for each function."""
    return type(
        f"TankHealth{number}", (TankHealth,), {"signal": f"level{number}", "__annotations__": {"signal": ClassVar[str]}}
    )


async def bare_audit(url: str, events: int) -> dict[str, float]:
    client = await nats.connect(url)
    stream, messages, count = client.jetstream(), Messages(), Count(events)
    chains = [BareChain(number) for number in range(EMITTERS)]
    health = Event[TankHealth].model_validate_json(event("tank:0"))

    async def one(number: int) -> None:
        await chains[number % EMITTERS].append(stream, messages.record(health, STEPS[number // EMITTERS % len(STEPS)]))
        count.one()

    await in_flight(one, events)
    result = await count.result()
    await client.close()
    return result


async def ours_audit(url: str, events: int) -> dict[str, float]:
    bus, messages, count = await connect(BusSettings(url=url), name="bench"), Messages(), Count(events)
    directory = state_in_memory()
    story = BusStory(bus, bus, HOST, new_id(), state=directory)
    await story.start()
    health = Event[TankHealth].model_validate_json(event("tank:0"))

    async def one(number: int) -> None:
        fields = messages.record(health, STEPS[number // EMITTERS % len(STEPS)])
        fields["function"] = f"water.drain{number % EMITTERS}"
        await story.audit(fields.pop("correlation"), **fields)
        count.one()

    await in_flight(one, events)
    result = await count.result()
    await story.stop()
    await bus.close()
    shutil.rmtree(directory)
    return result


async def in_flight(one: Callable[[int], Awaitable[None]], count: int) -> None:
    """Call *one* with 0 … count - 1, as many at once as the window holds."""
    numbers = iter(range(count))

    async def take() -> None:
        for number in numbers:
            await one(number)

    await asyncio.gather(*(take() for _ in range(WINDOW)))


CONTENDERS: dict[str, Callable[[str, int], Awaitable[dict[str, float]]]] = {
    "closed bare": bare_closed, "closed ours": ours_closed,
    "incident bare": bare_incident, "incident ours": ours_incident,
    "audit bare": bare_audit, "audit ours": ours_audit,
}  # fmt: skip


async def measure(contender: str, events: int) -> dict[str, float]:
    names = (lambda number: str(number % TARGETS)) if contender.startswith("closed") else str
    with tempfile.TemporaryDirectory() as directory:
        async with nats_server(Path(directory)) as url:
            await (await connect(BusSettings(), name="bench", url=url)).close()
            if contender.startswith("closed"):  # 100 of a subject are kept
                await _keep_all(url)
            if not contender.startswith("audit"):
                await offer(url, events, names, EMITTERS if contender == "incident ours" else 1)
            command = [
                sys.executable,
                "-m",
                "tests.bench.engine_paths",
                "--worker",
                contender,
                "--url",
                url,
                "--events",
                str(events),
            ]
            process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            assert process.stdout is not None
            output = await asyncio.wait_for(process.stdout.read(), 300)
            await process.wait()
            result: dict[str, float] = json.loads(output)
            return result


async def _keep_all(url: str) -> None:
    client = await nats.connect(url)
    stream = client.jetstream()
    config = (await stream.stream_info("HEALTH")).config
    await stream.update_stream(config, max_msgs_per_subject=-1)
    await client.close()


async def bench(events: int, incidents: int, rounds: int, paths: list[str]) -> int:
    results: dict[str, list[dict[str, float]]] = {}
    for number in range(rounds):
        for contender in (each for each in CONTENDERS if each.split()[0] in paths):
            count = incidents if contender.startswith("incident") else events
            results.setdefault(contender, []).append(await measure(contender, count))
            print(f"  round {number + 1}: {contender}: {results[contender][-1]['rate']:.0f}/s", file=sys.stderr)
    print(f"\nmedians of {rounds} rounds\n{'path':<18}{'events/s':>10}{'µs CPU':>9}{'MB':>7}")
    middle = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in results.items()
    }
    for name, run in middle.items():
        print(f"{name:<18}{run['rate']:>10.0f}{run['cpu']:>9.0f}{run['rss'] / 1024:>7.0f}")
    missed = False
    for path, target in ((path, LEAST[path]) for path in paths):
        ratio = middle[f"{path} ours"]["rate"] / middle[f"{path} bare"]["rate"]
        missed |= ratio < target
        print(f"{path}: ours / bare {ratio:.2f}   target ≥ {target:g}   {'MISSED' if ratio < target else 'held'}")
    return int(missed)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=8000)
    parser.add_argument("--incidents", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--paths", nargs="+", choices=LEAST, default=list(LEAST))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.worker is None:
        return asyncio.run(bench(arguments.events, arguments.incidents, arguments.rounds, arguments.paths))
    logging.disable()  # how fast the terminal or the journal takes its lines is not ours to measure
    print(json.dumps(asyncio.run(CONTENDERS[arguments.worker](arguments.url, arguments.events))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
