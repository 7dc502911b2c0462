"""Function hosts as real processes that kill or stop themselves at a named boundary.

    python -m tests.chaos.worker

It imports everything once, then forks a process for each line of JSON (a `Job`) on its standard input, and says on its
standard output when that one runs and how it ended. At the end of its input it kills those that are left. A forked
process is as real as any other, and starts in a hundredth of the time.

A boundary is the moment before or after one call that somebody else could see: a message that is published or
answered, a value that is stored, the fence, a part of an effect. Nothing in the code under test knows of it.
"""

import asyncio
import contextlib
import ctypes
import gc
import importlib
import json
import logging
import os
import random
import select
import signal
import threading
from collections import Counter
from collections.abc import Awaitable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

import functions.core.engine
from bus import pull
from bus.jetstream import JetStreamBus, connect
from bus.port import Bucket, KeyValue
from infra.hosts import fence
from infra.hosts.function_host import FunctionHost, Machine
from schemas.settings.bus import BusSettings
from tests.chaos import world

Answer = TypeVar("Answer")

SECOND = timedelta(seconds=1)
"""What a lease and an unanswered message last; 30 s each in production."""
BUSY = timedelta(seconds=0.2)
"""Until somebody who found the target busy looks again; 5 s in production, scaled like the rest."""

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Job:
    """One process: a function host on *host*, which keeps everything below *directory*."""

    name: str
    url: str
    host: str
    directory: str
    scenario: str
    at: str = ""
    """the boundary at which it sends itself the signal"""
    number: int = 0
    """or the number of the boundary, counted from the start"""
    signal: int = signal.SIGKILL


class Boundaries:
    """Counts what is reached, and sends the signal where that was asked for."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._seen: Counter[str] = Counter()
        self.reached: list[str] = []

    def reach(self, point: str) -> None:
        """*point* is numbered: `audit acting before` is `audit acting #2 before` the second time."""
        what, _, when = point.rpartition(" ")
        self._seen[point] += 1
        name = f"{what} #{self._seen[point]} {when}"
        self.reached.append(name)
        if name == self._job.at or len(self.reached) == self._job.number:
            note = os.open(Path(self._job.directory, "signalled"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.write(note, f"{os.getpid()} {name}\n".encode())
            signal.pthread_kill(threading.get_ident(), self._job.signal)  # to this thread: it takes no further step

    async def around(self, what: str, call: Awaitable[Answer]) -> Answer:
        self.reach(f"{what} before")
        answer = await call
        self.reach(f"{what} after")
        return answer


class WatchedBucket:
    """A bucket whose writes are boundaries."""

    def __init__(self, name: Bucket, bucket: KeyValue, boundaries: Boundaries) -> None:
        self._name = name
        self._bucket = bucket
        self._around = boundaries.around

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bucket, name)

    async def create(self, key: str, value: bytes) -> int:
        return await self._around(self._what("create", key, value), self._bucket.create(key, value))

    async def update(self, key: str, value: bytes, revision: int) -> int:
        return await self._around(self._what("update", key, value), self._bucket.update(key, value, revision))

    async def delete(self, key: str, revision: int | None = None) -> None:
        await self._around(self._what("delete", key, b""), self._bucket.delete(key, revision))

    def _what(self, operation: str, key: str, value: bytes) -> str:
        if self._name is Bucket.INCIDENTS:
            incident = json.loads(value)
            begun = " begun" if incident["begun"] else ""
            return f"incident {operation} {incident['state']}{begun}"
        kind = f" {key.partition('.')[0]}" if self._name is Bucket.FLEET else ""
        return f"{self._name} {operation}{kind}"


class WatchedBus:
    """A bus whose publications are boundaries."""

    def __init__(self, bus: JetStreamBus, boundaries: Boundaries) -> None:
        self._bus = bus
        self._boundaries = boundaries

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    async def publish(self, subject: str, body: bytes, **options: Any) -> None:
        _, kind, *_, last = subject.split(".")
        what = f"publish {kind}{f' {last}' if kind in {'action', 'alert'} else ''}"
        await self._boundaries.around(what, self._bus.publish(subject, body, **options))

    async def append(self, subject: str, body: bytes, *, expected_last: int) -> int:
        steps = "+".join(record["step"] for record in json.loads(body)["data"]["records"])
        appending = self._bus.append(subject, body, expected_last=expected_last)
        return await self._boundaries.around(f"audit {steps}", appending)

    async def bucket(self, name: Bucket) -> KeyValue:
        return WatchedBucket(name, await self._bus.bucket(name), self._boundaries)  # type: ignore[return-value]


def watch_answers(boundaries: Boundaries) -> None:
    """What a consumer answers the server, and the fence: in this process only, where they are made."""

    def around_answer(name: str) -> None:
        answer = getattr(pull.JetStreamMessage, name)

        async def watched(self: Any, *arguments: Any) -> None:
            await boundaries.around(name, answer(self, *arguments))

        setattr(pull.JetStreamMessage, name, watched)

    for name in ("ack", "nak", "term"):
        around_answer(name)
    passing = fence.LocalFence.passing

    @contextlib.contextmanager
    def watched(self: fence.LocalFence, *arguments: Any, **named: Any) -> Iterator[None]:
        boundaries.reach("fence before")
        with passing(self, *arguments, **named):
            boundaries.reach("fence after")
            yield

    fence.LocalFence.passing = watched  # type: ignore[method-assign]


async def serve(job: Job) -> None:
    """Heal until SIGTERM."""
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    directory = Path(job.directory)
    boundaries = Boundaries(job)
    watch_answers(boundaries)
    functions.core.engine.BUSY = BUSY
    settings = BusSettings(url=job.url, lease_ttl=SECOND)
    bus = await connect(settings, name=job.name)
    watched = WatchedBus(bus, boundaries)
    scenario = world.SCENARIOS[job.scenario]
    place = world.World(directory / "tanks", reached=boundaries.reach, jammed=scenario.jammed)
    configuration = world.WaterConfiguration(
        bus=settings, policy=world.policy(group=job.host, freeze_file=directory / "freeze")
    )
    host = FunctionHost(
        [scenario.remedy], configuration, watched, watched, Machine(job.host, place, place),  # type: ignore[arg-type]
        ack_wait=SECOND, directory=directory / "state",
    )  # fmt: skip
    try:
        await host.start()
        (directory / f"ready-{os.getpid()}").touch()
        await terminated.wait()
    finally:
        await host.stop()
        await bus.close()
    (directory / "boundaries").write_text("\n".join(boundaries.reached))


def child(job: Job) -> None:
    """In the forked process; never returns."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        directory = Path(job.directory)
        (directory / "tanks").mkdir(parents=True, exist_ok=True)
        log = os.open(directory / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, nothing), (1, log), (2, log)):
            os.dup2(source, target)
        random.seed()
        logging.basicConfig(
            level=logging.INFO, format=f"%(asctime)s {os.getpid()} %(levelname)s %(name)s: %(message)s", force=True
        )
        asyncio.run(serve(job))
    except BaseException:
        logging.exception("the worker failed")
        os._exit(1)
    os._exit(0)


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


class Nursery:
    """Forks, and tells of deaths."""

    def __init__(self) -> None:
        self._jobs: dict[int, str] = {}

    def begin(self, line: str) -> None:
        job = Job(**json.loads(line))
        pid = os.fork()
        if pid == 0:
            child(job)
        self._jobs[pid] = job.name
        say(job=job.name, pid=pid)

    def bury(self) -> None:
        while self._jobs:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            say(job=self._jobs.pop(pid), code=os.waitstatus_to_exitcode(status))

    def end(self) -> None:
        for pid in self._jobs:
            os.kill(pid, signal.SIGKILL)
        while self._jobs:
            pid, _ = os.wait()
            del self._jobs[pid]


def prepare() -> None:
    """What each process would do for itself at its start: import what is imported late, and build the models."""
    for name in ("cryptography.hazmat.primitives.asymmetric.ed25519", "nats.js"):
        importlib.import_module(name)
    waiting = BaseModel.__subclasses__()
    while waiting:
        model = waiting.pop()
        waiting += model.__subclasses__()
        model.model_rebuild()
    gc.freeze()


def main() -> None:
    prepare()
    nursery = Nursery()
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    os.set_blocking(theirs, False)
    signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    buffered = b""
    while True:
        readable, _, _ = select.select([0, ours], [], [])
        if ours in readable:
            os.read(ours, 4096)
            nursery.bury()
        if 0 in readable:
            read = os.read(0, 65536)
            if not read:
                break
            *lines, buffered = (buffered + read).split(b"\n")
            for line in lines:
                nursery.begin(line.decode())
    nursery.end()


def order(job: Job) -> bytes:
    """The line that asks for it."""
    return json.dumps(asdict(job)).encode() + b"\n"


if __name__ == "__main__":
    main()
