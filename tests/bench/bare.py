"""The best loop that nats-py alone allows, and FastStream at its best: what the bus is measured against."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import nats
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from tests.bench.event import ACTION_SUBJECT, AUDIT_SUBJECT, STREAM, Event, outcomes

WINDOW = 64

Done = Callable[[Event], None]
Stop = Callable[[], Awaitable[None]]


async def bare(url: str, durable: str, done: Done, *, replay: bool) -> Stop:
    """One long pull request topped up at half the window, 64 events in flight, publish_async, message ids."""
    client = await nats.connect(url)
    stream = client.jetstream(publish_async_max_pending=2 * WINDOW)
    policy = DeliverPolicy.ALL if replay else DeliverPolicy.NEW
    config = ConsumerConfig(durable_name=durable, ack_policy=AckPolicy.EXPLICIT, deliver_policy=policy)
    await stream.add_consumer(STREAM, config)
    request_subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{durable}"
    inbox = client.new_inbox()
    wanted, tasks = 0, set()

    async def pull() -> None:
        nonlocal wanted
        if wanted <= WINDOW // 2:
            count, wanted = WINDOW - wanted, WINDOW
            request = json.dumps({"batch": count, "expires": 30 * 10**9}).encode()
            await client.publish(request_subject, request, reply=inbox)

    async def handle(message: Msg) -> None:
        nonlocal wanted
        event = Event.model_validate_json(message.data)
        action, audit = outcomes(event)
        first = await stream.publish_async(ACTION_SUBJECT, action, headers={"Nats-Msg-Id": f"{event.id}-1-{durable}"})
        second = await stream.publish_async(AUDIT_SUBJECT, audit, headers={"Nats-Msg-Id": f"{event.id}-2-{durable}"})
        await first
        await second
        await message.ack()
        done(event)
        wanted -= 1
        await pull()

    async def receive(message: Msg) -> None:
        if message.reply:
            task = asyncio.create_task(handle(message))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    await client.subscribe(inbox, cb=receive)
    await pull()
    return client.close


async def faststream(url: str, durable: str, done: Done, *, replay: bool, way: str) -> Stop:
    """FastStream by pulling batches of 100, or by pushing to 64 workers."""
    from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub

    broker = NatsBroker(url, logger=None)
    stream = JStream(name=STREAM, declare=False)
    policy = DeliverPolicy.ALL if replay else DeliverPolicy.NEW
    options = {"stream": stream, "durable": durable, "deliver_policy": policy}
    if way == "pull":
        options["pull_sub"] = PullSub(batch_size=100, timeout=5)
    elif way == "pull-workers":
        options |= {"pull_sub": PullSub(batch_size=100, timeout=5), "max_workers": WINDOW}
    else:
        options |= {"max_workers": WINDOW}

    @broker.subscriber("ansai.health.bench.>", **options)
    async def handle(event: Event, message: NatsMessage) -> None:
        action, audit = outcomes(event)
        await asyncio.gather(
            broker.publish(action, ACTION_SUBJECT, stream="ACTION", headers={"Nats-Msg-Id": f"{event.id}-1-{durable}"}),
            broker.publish(audit, AUDIT_SUBJECT, stream="AUDIT", headers={"Nats-Msg-Id": f"{event.id}-2-{durable}"}),
        )
        await message.ack()
        done(event)

    await broker.start()
    return broker.stop
