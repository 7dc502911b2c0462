"""Trials: somebody is killed or stopped at a boundary, another goes on, and then everything that is left is judged."""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from bus import subjects
from bus.jetstream import JetStreamBus, connect
from bus.outbox import ApiRefusal
from bus.port import Bucket, Stored, StreamName
from infra.audit.findings import Problem
from infra.audit.keys import Keyring
from infra.audit.trust import Trust, local_keys
from infra.audit.verification import Verifier
from infra.hosts.function_host import process_name
from schemas.alert import Alert, AlertState, Severity
from schemas.audit import AuditRecord, AuditSegment, Step
from schemas.envelope import Event
from schemas.health import Level
from schemas.incident import Incident, IncidentState
from schemas.settings.bus import BusSettings
from tests.chaos import world
from tests.chaos.worker import SECOND, Job, order
from tests.functions.core.tank import TankHealth
from tests.servers import running_server

REPOSITORY = Path(__file__).parents[2]
WITHIN = 60.0
"""Seconds for anything that is waited for; so long only when it never comes."""
SIDE_BY_SIDE = 24
"""Trials at once on one server: most of their time they wait for a lease to run out."""
ENDED = {IncidentState.CLOSED, IncidentState.STUCK}


class Process:
    """One worker."""

    def __init__(self, job: Job) -> None:
        self.job = job
        loop = asyncio.get_running_loop()
        self._pid: asyncio.Future[int] = loop.create_future()
        self._code: asyncio.Future[int] = loop.create_future()

    def hear(self, said: dict[str, Any]) -> None:
        future, value = (self._pid, said["pid"]) if "pid" in said else (self._code, said["code"])
        if not future.done():
            future.set_result(value)

    @property
    def ended(self) -> bool:
        return self._code.done()

    async def pid(self) -> int:
        return await asyncio.shield(self._pid)

    async def code(self) -> int:
        """How it ended: negative for a signal."""
        async with asyncio.timeout(WITHIN):
            return await asyncio.shield(self._code)

    async def terminate(self) -> int:
        if not self.ended:
            with contextlib.suppress(ProcessLookupError):
                (await self._signal(signal.SIGTERM))
        return await self.code()

    async def ready(self) -> bool:
        """Whether it consumes."""
        return Path(self.job.directory, f"ready-{await self.pid()}").exists()

    async def resume(self) -> None:
        await self._signal(signal.SIGCONT)

    async def stopped(self) -> bool:
        """Whether every thread stands still."""
        tasks = list(Path(f"/proc/{await self.pid()}/task").glob("*/stat"))
        return bool(tasks) and all(task.read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)

    async def _signal(self, number: signal.Signals) -> None:
        os.kill(await self.pid(), number)


@dataclass(frozen=True)
class Trial:
    """One incident on a host of its own, and who dies on the way to its end."""

    scenario: str
    kills: tuple[str | int, ...]
    """boundaries, by name or number: the first worker dies at the first, the next at the second, the last at none"""
    seed: int = 0

    def chance(self) -> random.Random:
        """Of what the seed decides; seed 0 decides nothing."""
        return random.Random(f"{self.seed} {self.scenario} {self.kills}")


@dataclass
class Verdict:
    """What became of one trial."""

    trial: Trial
    host: str
    directory: Path
    killed_at: list[str]
    ended: str
    """how the incident ended: healed, stuck; anything else is lost"""
    double_effects: int = 0
    wrong: list[str] = field(default_factory=list)
    """what must not be, one sentence each"""

    @property
    def lost(self) -> bool:
        return self.ended not in {"healed", "stuck"}

    def explained(self) -> str:
        return f"{self.trial} on {self.host}, killed at {self.killed_at}: {self.ended}; {'; '.join(self.wrong)}"


class Range:
    """A server, a fork server for workers, and what is known of all hosts on it."""

    def __init__(self, url: str, bus: JetStreamBus, directory: Path, forks: asyncio.subprocess.Process) -> None:
        self.bus = bus
        self._url = url
        self._directory = directory
        self._forks = forks
        self._numbers = count(1)
        self._processes: dict[str, Process] = {}
        self._places = asyncio.Semaphore(SIDE_BY_SIDE)
        self.incidents: dict[str, Incident] = {}
        """host → its incident, as stored"""
        self.alerts: dict[str, list[Alert]] = {}
        self.changed = asyncio.Event()

    # Workers.

    def new_host(self, scenario: str) -> tuple[str, Path]:
        host = f"{scenario}-{next(self._numbers)}"
        return host, self._directory / host

    async def start(self, host: str, scenario: str, **failpoint: Any) -> Process:
        """A worker that is on its way up."""
        name = f"{host}/{next(self._numbers)}"
        job = Job(name, self._url, host, str(self._directory / host), scenario, **failpoint)
        process = self._processes[name] = Process(job)
        assert self._forks.stdin is not None
        self._forks.stdin.write(order(job))
        await self._forks.stdin.drain()
        return process

    async def hear_of_workers(self) -> None:
        assert self._forks.stdout is not None
        async for line in self._forks.stdout:
            said = json.loads(line)
            self._processes[said["job"]].hear(said)
            self.changed.set()

    # What the bus says.

    async def watch_incidents(self) -> None:
        async for entry in (await self.bus.bucket(Bucket.INCIDENTS)).watch():
            if entry is not None and not entry.deleted:
                incident = Incident.model_validate_json(entry.value)
                self.incidents[incident.host] = incident
                self.changed.set()

    async def watch_alerts(self) -> None:
        async for _, body in self.bus.listen("ansai.alert.>"):
            alert = Event[Alert].model_validate_json(body).data
            self.alerts.setdefault(alert.host, []).append(alert)
            self.changed.set()

    async def report(self, host: str, event: Event[TankHealth] | None = None) -> None:
        subject = subjects.health(host, "water", "level", world.TARGET)
        await self.bus.publish(subject, (event or full()).body())

    def over(self, host: str) -> bool:
        """The incident has ended, and people know."""
        incident = self.incidents.get(host)
        if incident is None or incident.state not in ENDED:
            return False
        wanted = AlertState.UNHEALED if incident.state is IncidentState.STUCK else AlertState.RESOLVED
        return any(alert.incident == incident.id and alert.state is wanted for alert in self.alerts.get(host, ()))

    async def settled(self, host: str) -> bool:
        """No health event waits for this host, nor is one unanswered."""
        durable = subjects.durable(f"{host}-{process_name([world.FUNCTION])}")
        try:
            info = await self.bus._outbox.api(f"CONSUMER.INFO.{StreamName.HEALTH.value}.{durable}")
        except ApiRefusal:
            return False
        return info["num_pending"] == 0 and info["num_ack_pending"] == 0

    async def end_of(self, process: Process) -> bool:
        """Wait until the worker is dead, or has nothing left to do; whether that came in time."""
        try:
            async with asyncio.timeout(WITHIN):
                while not process.ended:
                    self.changed.clear()
                    if await process.ready() and self.over(process.job.host) and await self.settled(process.job.host):
                        return True
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.1):
                            await self.changed.wait()
        except TimeoutError:
            return False
        return True

    # Trials.

    async def boundaries(self, scenario: str, first_at: str = "") -> list[str]:
        """What a worker reaches that nobody disturbs; or, after one that died at *first_at*, the next one."""
        host, directory = self.new_host(scenario)
        await self.report(host)
        if first_at:
            assert await (await self.start(host, scenario, at=first_at)).code() == -signal.SIGKILL
        process = await self.start(host, scenario)
        assert await self.end_of(process), (directory / "log").read_text()
        assert await process.terminate() == 0, (directory / "log").read_text()
        return (directory / "boundaries").read_text().splitlines()

    async def run(self, trials: Sequence[Trial]) -> list[Verdict]:
        """All of them, side by side, and judged."""
        verdicts = await asyncio.gather(*map(self._one, trials))
        await Judge(self.bus, verdicts).judge()
        return verdicts

    async def _one(self, trial: Trial) -> Verdict:
        async with self._places:
            host, directory = self.new_host(trial.scenario)
            chance, event = trial.chance(), full()
            await self.report(host, event)
            for kill in trial.kills:
                await self._disturb(trial, chance, host, event)
                process = await self.start(host, trial.scenario, **_failpoint(kill))
                await self.end_of(process)
                await process.terminate()
                if trial.seed:
                    await asyncio.sleep(chance.choice((0, 0.3, 1.2)))
            await self._disturb(trial, chance, host, event)
            process = await self.start(host, trial.scenario)
            in_time = await self.end_of(process)
            code = await process.terminate()
        verdict = Verdict(trial, host, directory, _signalled(directory), self._how_it_ended(host))
        if code != 0:
            verdict.wrong.append(f"the last worker ended with {code}")
        if not in_time:
            verdict.wrong.append(f"not at its end after {WITHIN:g} s")
            verdict.ended = "lost"
        return verdict

    async def _disturb(self, trial: Trial, chance: random.Random, host: str, event: Event[TankHealth]) -> None:
        """Copies of the event, and later ones."""
        if trial.seed:
            for copy in [event] * chance.randrange(3) + [full() for _ in range(chance.randrange(2))]:
                await self.report(host, copy)

    def _how_it_ended(self, host: str) -> str:
        incident = self.incidents.get(host)
        if incident is None:
            return "gone"
        return {IncidentState.CLOSED: "healed"}.get(incident.state, str(incident.state))


def steady(boundaries: Sequence[str]) -> list[str]:
    """Those that every run reaches: how often a lease is renewed depends on how busy the machine is."""
    return [name for name in boundaries if not name.startswith("leases update")]


def distinct(boundaries: Sequence[str]) -> list[str]:
    """Leave out the moment after one call where the next call follows at once: nobody can tell the two apart.

    And what only followers see: a process that dies there has done neither more nor less.
    """
    seen = [name for name in boundaries if not name.startswith("publish action")]
    return [
        name
        for name, after in zip(seen, [*seen[1:], ""], strict=True)
        if not (name.endswith("after") and after.endswith("before"))
    ]


def full() -> Event[TankHealth]:
    now = datetime.now(UTC)
    health = TankHealth(target=world.TARGET, level=Level.CRITICAL, reason="the tank is full", observed_at=now)
    return Event[TankHealth](source="/test", type=TankHealth.type_name(), subject=world.TARGET, time=now, data=health)


def _failpoint(kill: str | int) -> dict[str, Any]:
    return {"at": kill} if isinstance(kill, str) else {"number": kill}


def _signalled(directory: Path) -> list[str]:
    try:
        return [line.partition(" ")[2] for line in (directory / "signalled").read_text().splitlines()]
    except FileNotFoundError:
        return []


@dataclass(frozen=True)
class Written:
    """An audit record, and when the server had it."""

    stored_at: datetime
    record: AuditRecord


class Judge:
    """Looks at everything that is left on the bus and on disk."""

    def __init__(self, bus: JetStreamBus, verdicts: Sequence[Verdict]) -> None:
        self._bus = bus
        self._verdicts = {verdict.host: verdict for verdict in verdicts}

    async def judge(self) -> None:
        trail = [stored async for stored in self._bus.read(StreamName.AUDIT)]
        checkpoints = [stored async for stored in self._bus.read(StreamName.CHECKPOINT)]
        alerts = [
            Event[Alert].model_validate_json(stored.body).data async for stored in self._bus.read(StreamName.ALERT)
        ]
        self._chains(trail, checkpoints)
        stories: dict[str, list[Written]] = {host: [] for host in self._verdicts}
        for stored in trail:
            segment = Event[AuditSegment].model_validate_json(stored.body).data
            if segment.host in stories:
                stories[segment.host] += [Written(stored.stored_at, record) for record in segment.records]
        for host, verdict in self._verdicts.items():
            effects = world.read(verdict.directory / "tanks" / world.TARGET.partition(":")[2])
            verdict.double_effects = world.double_effects(effects)
            verdict.wrong += [
                *_unplanned(stories[host]),
                *_unaudited(stories[host], effects),
                *_end(verdict, stories[host], effects, [alert for alert in alerts if alert.host == host]),
            ]
            if verdict.double_effects:
                verdict.wrong.append(f"{verdict.double_effects} double effects")

    def _chains(self, trail: Sequence[Stored], checkpoints: Sequence[Stored]) -> None:
        """One verification of the whole stream; what is wrong with a chain is wrong with its host."""
        trust = Trust()
        for host, verdict in self._verdicts.items():
            trust = trust.joined(local_keys(host, Keyring(verdict.directory / "state" / "audit" / "keys")))
        verifier = Verifier(trust)
        for checkpoint in checkpoints:
            verifier.checkpoint(checkpoint)
        for message in trail:
            verifier.message(message)
        for problem in verifier.result().problems:
            self._found(problem)

    def _found(self, problem: Problem) -> None:
        verdict = self._verdicts.get(problem.chain.partition(".")[0])
        if verdict is not None:
            verdict.wrong.append(f"{CHAIN}: {problem.kind} at {problem.place}: {problem.text}")


CHAIN = "the chain does not verify"


def _unplanned(story: Sequence[Written]) -> list[str]:
    """Each `acting` stands behind the `planned` of its own process that holds it."""
    wrong = []
    planned: dict[str, list[str]] = {}
    for each in story:
        record = each.record
        if record.step is Step.PLANNED and record.plan is not None:
            planned[record.emitter] = [action.title for rung in record.plan.rungs for action in rung.actions]
        elif record.step is Step.ACTING:
            assert record.action is not None
            assert record.position is not None
            plan = planned.get(record.emitter, [])
            if record.position >= len(plan) or plan[record.position] != record.action.title:
                wrong.append(f"record {record.sequence} acts ({record.action.title}) without a plan that says so")
    return wrong


def _unaudited(story: Sequence[Written], effects: Sequence[world.Effect]) -> list[str]:
    """Each effect stands behind an announcement, stored before, by the process that had it."""
    pids = {each.record.emitter: each.record.data["pid"] for each in story if each.record.step is Step.BEGAN}
    steps = {Step.ACTING: False, Step.UNDOING: True}
    announced = {
        (pids[each.record.emitter], name, steps[each.record.step]): each.stored_at.timestamp()
        for each in reversed(story)
        if each.record.step in steps
        for name in each.record.items
    }
    wrong = []
    for effect in effects:
        at = announced.get((effect.pid, effect.name, effect.undone))
        if at is None or at > effect.at:
            wrong.append(f"{effect} was not audited before")
    return wrong


def _end(
    verdict: Verdict, story: Sequence[Written], effects: Sequence[world.Effect], alerts: Sequence[Alert]
) -> list[str]:
    """The incident ended in a way that may be, the world is as it says, and people were told."""
    wrong = []
    steps = Counter(each.record.step for each in story)
    there = world.in_effect(effects)
    whole = all(there[name, part] == 1 for name in world.NAMES for part in range(1, world.PARTS + 1))
    states = {alert.state: alert.severity for alert in alerts}
    incidents = {each.record.incident for each in story if each.record.incident}
    if len(incidents) > 1:
        wrong.append(f"{len(incidents)} incidents where there was one")
    if verdict.ended == "healed":
        if not whole:
            wrong.append(f"healed, with {dict(there)} in effect")
        if not steps[Step.HEALED]:
            wrong.append("healed without a record that says so")
        if AlertState.RESOLVED not in states:
            wrong.append("healed, and nobody was told")
    elif verdict.ended == "stuck":
        if not steps[Step.STUCK]:
            wrong.append("stuck without a record that says so")
        if states.get(AlertState.UNHEALED) is not Severity.CRITICAL:
            wrong.append("stuck, and nobody was called")
        if verdict.trial.scenario in {"reversible", "repeatable"}:
            wrong.append("stuck, where going on was safe")
        if verdict.trial.scenario == "failing" and any(len(parts) != world.PARTS for parts in _parts(there)):
            wrong.append(f"taken back by halves: {dict(there)} in effect")
    if AlertState.OPENED not in states:
        wrong.append("nobody was told that it was opened")
    return wrong


def _parts(there: Mapping[tuple[str, int], int]) -> list[set[int]]:
    """Of each effect that is there at all."""
    found: dict[str, set[int]] = {}
    for name, part in there:
        found.setdefault(name, set()).add(part)
    return list(found.values())


@contextlib.asynccontextmanager
async def firing_range(directory: Path) -> AsyncIterator[Range]:
    """A server and a fork server; everything is ended at the end."""
    async with running_server(directory / "nats") as server, contextlib.AsyncExitStack() as stack:
        bus = await connect(BusSettings(url=server.url, lease_ttl=SECOND), name="trials")
        stack.push_async_callback(bus.close)
        forks = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.chaos.worker", cwd=REPOSITORY,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        stack.push_async_callback(_end_forks, forks)
        made = Range(server.url, bus, directory / "hosts", forks)
        watches = [made.hear_of_workers(), made.watch_incidents(), made.watch_alerts()]
        tasks = [asyncio.create_task(watch) for watch in watches]
        stack.push_async_callback(_cancel, tasks)
        yield made


async def _end_forks(forks: asyncio.subprocess.Process) -> None:
    assert forks.stdin is not None
    forks.stdin.close()
    await forks.wait()


async def _cancel(tasks: Sequence["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
