"""How fast events go through the bus: ours against the best bare nats-py loop and FastStream, all in one run.

    python -m tests.bench.bus_pipeline [--events 8000] [--rounds 5]

Each run is a process of its own: take an event from a durable consumer, validate it with a pydantic model, publish an
action and an audit event with message ids, have both stored, acknowledge. Runs alternate and medians are printed,
since the machine is never quiet.
"""

import argparse
import asyncio
import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import nats

from bus.jetstream import connect
from bus.port import Message, StreamName, Subscription
from schemas.settings.bus import BusSettings
from tests.bench.bare import WINDOW, Done, Stop, bare, faststream
from tests.bench.event import ACTION_SUBJECT, AUDIT_SUBJECT, Event, outcomes, sample
from tests.servers import nats_server

FASTSTREAM_WAYS = ("pull", "pull-workers", "push")
CONTENDERS = ("bare", "ours", *(f"faststream {way}" for way in FASTSTREAM_WAYS))
LOOPS = ("asyncio", "uvloop")
RATE = 1000  # events a second offered when latency is measured
LEAST_OF_FASTSTREAM, LEAST_OF_BARE, MOST_OF_BARE_P99 = 3.0, 0.7, 3.0  # the targets


async def ours(url: str, durable: str, done: Done, *, replay: bool) -> Stop:
    bus = await connect(BusSettings(), name="bench", url=url)

    async def handle(message: Message) -> None:
        event = Event.model_validate_json(message.body)
        action, audit = outcomes(event)
        first = await bus.publish_soon(ACTION_SUBJECT, action, message_id=f"{event.id}-1-{durable}")
        second = await bus.publish_soon(AUDIT_SUBJECT, audit, message_id=f"{event.id}-2-{durable}")
        await first
        await second
        await message.ack()
        done(event)

    wanted = Subscription(StreamName.HEALTH, durable, ["ansai.health.bench.>"], window=WINDOW, replay=replay)
    await bus.consume(wanted, handle)
    return bus.close


async def start(contender: str, url: str, durable: str, done: Done, *, replay: bool) -> Stop:
    if contender == "bare":
        return await bare(url, durable, done, replay=replay)
    if contender == "ours":
        return await ours(url, durable, done, replay=replay)
    return await faststream(url, durable, done, replay=replay, way=contender.partition(" ")[2])


async def throughput(contender: str, url: str, durable: str, events: int) -> dict[str, float]:
    """Consume what is stored; the first tenth warms up and is not counted."""
    finished = asyncio.Event()
    count, warm, begun, cpu = 0, events // 10, 0.0, 0.0

    def done(_: Event) -> None:
        nonlocal count, begun, cpu
        count += 1
        if count == warm:
            begun, cpu = time.perf_counter(), time.process_time()
        if count == events:
            finished.set()

    stop = await start(contender, url, durable, done, replay=True)
    await finished.wait()
    elapsed, used = time.perf_counter() - begun, time.process_time() - cpu
    await stop()
    counted = events - warm
    return {
        "rate": counted / elapsed,
        "cpu": used / counted * 1e6,
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


async def latency(contender: str, url: str, durable: str, events: int) -> dict[str, float]:
    """From the publish until both events are stored, events coming at RATE from another process."""
    finished = asyncio.Event()
    took: list[float] = []

    def done(event: Event) -> None:
        took.append((time.time_ns() - event.sent) / 1e6)
        if len(took) == events:
            finished.set()

    stop = await start(contender, url, durable, done, replay=False)
    print("ready", flush=True)
    await finished.wait()
    await stop()
    measured = sorted(took[events // 10 :])
    return {"p50": statistics.median(measured), "p99": measured[int(len(measured) * 0.99)]}


async def offer(url: str, count: int, rate: float | None) -> None:
    """Store *count* events, each under a subject of its own, as fast as possible or at *rate* a second."""
    client = await nats.connect(url)
    stream = client.jetstream()
    begun = time.perf_counter()
    for number in range(count):
        if rate is not None and (ahead := number / rate - (time.perf_counter() - begun)) > 0:
            await asyncio.sleep(ahead)
        subject = f"ansai.health.bench.disk.pressure.{number:016x}"
        await stream.publish_async(subject, sample(number))
    await stream.publish_async_completed()
    await client.close()


async def check_stored(url: str, events: int) -> None:
    """A contender that did not store both events of each does not count."""
    client = await nats.connect(url)
    for name in ("ACTION", "AUDIT"):
        info = await client.jetstream().stream_info(name)
        assert info.state.messages == events, f"{name} holds {info.state.messages} of {events}"
    await client.close()


async def worker(*arguments: str, url: str, events: int) -> dict[str, float]:
    """One measurement in a process of its own; a latency worker is offered its events when it is ready."""
    command = [
        sys.executable,
        "-m",
        "tests.bench.bus_pipeline",
        "--worker",
        *arguments,
        "--url",
        url,
        "--events",
        str(events),
    ]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(120):
            line = await process.stdout.readline()
            if line == b"ready\n":
                await offer(url, events, RATE)
                line = await process.stdout.readline()
            result: dict[str, float] = json.loads(line)
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return result


def median(results: list[dict[str, float]], key: str) -> float:
    return statistics.median(result[key] for result in results)


async def bench(events: int, rounds: int, only: list[str]) -> int:
    contenders = [contender for contender in CONTENDERS if not only or contender in only]
    speeds: dict[tuple[str, str], list[dict[str, float]]] = {}
    delays: dict[tuple[str, str], list[dict[str, float]]] = {}
    for number in range(rounds):
        for loop in LOOPS:
            for contender in contenders:
                key, durable = (contender, loop), f"r{number}-{loop}-{contender.replace(' ', '-')}"
                with tempfile.TemporaryDirectory() as directory:
                    async with nats_server(Path(directory)) as url:
                        await (await connect(BusSettings(), name="bench", url=url)).close()
                        await offer(url, events, None)
                        result = await worker("throughput", contender, loop, durable, url=url, events=events)
                        await check_stored(url, events)
                        speeds.setdefault(key, []).append(result)
                        if not contender.startswith("faststream"):
                            result = await worker("latency", contender, loop, f"l-{durable}", url=url, events=3 * RATE)
                            delays.setdefault(key, []).append(result)
                print(f"  round {number + 1}: {contender} on {loop}: {speeds[key][-1]['rate']:.0f}/s", file=sys.stderr)
    return report(speeds, delays, rounds)


def report(
    speeds: dict[tuple[str, str], list[dict[str, float]]],
    delays: dict[tuple[str, str], list[dict[str, float]]],
    rounds: int,
) -> int:
    print(
        f"\nmedians of {rounds} rounds\n"
        f"{'contender':<24}{'loop':<9}{'events/s':>9}{'µs CPU':>8}{'p50 ms':>9}{'p99 ms':>9}"
    )
    for (contender, loop), results in sorted(speeds.items()):
        late = delays.get((contender, loop))
        tail = f"{median(late, 'p50'):>9.2f}{median(late, 'p99'):>9.2f}" if late else ""
        print(f"{contender:<24}{loop:<9}{median(results, 'rate'):>9.0f}{median(results, 'cpu'):>8.0f}{tail}")
    missed = 0
    best_framework = max(
        (median(r, "rate") for (c, _), r in speeds.items() if c.startswith("faststream")), default=None
    )
    print()
    for loop in LOOPS:
        ours_rate = median(speeds["ours", loop], "rate")
        if best_framework is not None:
            missed += tell(
                f"{loop}: ours / FastStream's best on any loop", ours_rate / best_framework, LEAST_OF_FASTSTREAM
            )
        if ("bare", loop) in speeds:
            missed += tell(f"{loop}: ours / bare", ours_rate / median(speeds["bare", loop], "rate"), LEAST_OF_BARE)
            p99 = median(delays["ours", loop], "p99") / median(delays["bare", loop], "p99")
            missed += tell(f"{loop}: p99 at {RATE}/s, ours / bare", p99, MOST_OF_BARE_P99, at_most=True)
    return 1 if missed else 0


def tell(what: str, ratio: float, target: float, *, at_most: bool = False) -> bool:
    """Print one ratio; return whether it misses its target."""
    missed = ratio > target if at_most else ratio < target
    print(f"{what:<48}{ratio:>7.2f}   target {'≤' if at_most else '≥'} {target:g}   {'MISSED' if missed else 'held'}")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", default=[], choices=CONTENDERS)
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is None:
        return asyncio.run(bench(arguments.events, arguments.rounds, arguments.only))
    kind, contender, loop, durable = arguments.worker
    measure = (throughput if kind == "throughput" else latency)(contender, arguments.url, durable, arguments.events)
    if loop == "uvloop":
        import uvloop  # only where it is asked for: the bus itself does not need it

        result = uvloop.run(measure)
    else:
        result = asyncio.run(measure)
    print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
