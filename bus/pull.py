"""A durable consumer, shared by name: messages are pulled so that the next request is always outstanding.

The server holds one long request for as many messages as the window has room for; it is topped up when half of the
window is free again. A message that arrives gets its task at once, so nothing waits here while its time runs out.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from nats.aio.msg import Msg

from bus.connection import Connection
from bus.outbox import ApiRefusal, Denied, Outbox
from bus.port import BusError, Handler, Rejected, Subscription
from bus.streams import nanoseconds

logger = logging.getLogger(__name__)

INACTIVE_THRESHOLD = timedelta(days=7)
"""The server forgets a durable that nobody used for this long."""

_EXPIRES = 30.0  # seconds a request stays open on the server
_HEARTBEAT = 5.0  # seconds between signs of life of an idle request
_SILENCE = 2.5 * _HEARTBEAT  # without one for this long the server has forgotten the request
_FLOOR_EVERY = 30.0  # seconds between looks at how far the consumer has come
_LONGEST_DELAY = timedelta(minutes=1)  # of a redelivery after a handler that raised
_LEAST_ACK_PENDING = 1000  # the server's own default
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CONSUMER_GONE = (10014, 10059)
_REQUEST = "$JS.API.CONSUMER.MSG.NEXT"


class JetStreamMessage:
    """One delivery. Its answers are sent without waiting for the server: at worst it is delivered again."""

    __slots__ = ("_connection", "_fields", "_message", "answered")

    def __init__(self, message: Msg, connection: Connection) -> None:
        self._message = message
        self._connection = connection
        self._fields: list[str] | None = None
        self.answered = False

    @property
    def subject(self) -> str:
        return self._message.subject

    @property
    def body(self) -> bytes:
        return self._message.data

    @property
    def headers(self) -> Mapping[str, str]:
        return self._message.headers or {}

    @property
    def stored_at(self) -> datetime:
        return _EPOCH + timedelta(microseconds=int(self._reply_fields()[5]) // 1000)

    @property
    def sequence(self) -> int:
        return int(self._reply_fields()[3])

    @property
    def consumer_sequence(self) -> int:
        """Position among the deliveries of its consumer."""
        return int(self._reply_fields()[4])

    @property
    def deliveries(self) -> int:
        return int(self._reply_fields()[2])

    @property
    def pending(self) -> int:
        """Messages that wait on the server behind this one."""
        return int(self._reply_fields()[6])

    async def ack(self) -> None:
        await self._answer(b"")

    async def nak(self, delay: timedelta | None = None) -> None:
        await self._answer(b"-NAK" if delay is None else b'-NAK {"delay": %d}' % nanoseconds(delay))

    async def term(self) -> None:
        await self._answer(b"+TERM")

    async def in_progress(self) -> None:
        await self._connection.publish(self._message.reply, b"+WPI")

    async def _answer(self, body: bytes) -> None:
        if not self.answered:
            self.answered = True
            await self._connection.publish(self._message.reply, body)

    def _reply_fields(self) -> list[str]:
        """Stream, consumer, deliveries, stream and consumer sequence, time and pending, out of the reply subject.

        It is `$JS.ACK.` and these seven; a newer server, or a leaf, puts domain and account before them and may put
        a random token behind.
        """
        if self._fields is None:
            fields = self._message.reply.split(".")[2:]
            self._fields = fields if len(fields) == 7 else fields[2:9]
        return self._fields


class PullConsumer:
    """Keeps one durable consumer busy until it is stopped."""

    def __init__(
        self, subscription: Subscription, handler: Handler, connection: Connection, outbox: Outbox, replicas: int | None
    ) -> None:
        self._subscription = subscription
        self._handler = handler
        self._connection = connection
        self._outbox = outbox
        self._replicas = replicas
        self._request_subject = f"{_REQUEST}.{subscription.stream}.{subscription.durable}"
        self._inbox = connection.client.new_inbox()
        self._generation = 0
        self._low_water = max(1, subscription.window // 2)
        self._requested = 0  # asked of the server and not come yet
        self._handling = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._backlog: deque[JetStreamMessage] = deque()  # more than was asked for, after a recovery
        self._stopping = False
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._floor: int | None = None
        self._trouble = asyncio.Event()
        self._inbox_subscription: Any = None
        self._supervisor: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Create or update the consumer and begin. Raises Unavailable, Rejected."""
        await self._ensure()
        self._inbox_subscription = await self._connection.subscribe(f"{self._inbox}.*", self._on_message)
        self._connection.on_connected.append(self._on_connected)
        self._supervisor = asyncio.create_task(self._supervise(), name=f"consumer {self._subscription.durable}")
        await self._top_up()

    async def stop(self) -> None:
        """Take no more, give back what was not begun, wait for the handlers that run."""
        if self._stopping:
            return
        self._stopping = True
        if self._on_connected in self._connection.on_connected:
            self._connection.on_connected.remove(self._on_connected)
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        await self._leave_inbox()
        await self._give_back()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _leave_inbox(self) -> None:
        """Unsubscribe, and hear out what the server had sent by then; `_on_message` gives it back."""
        if self._inbox_subscription is None or not self._connection.connected:
            return  # the server has dropped what was not answered already
        try:
            await asyncio.wait_for(self._inbox_subscription.drain(), _HEARTBEAT)
        except Exception as error:  # noqa: BLE001 - the library raises many kinds; all mean that the server is gone
            logger.info("%s: left without a farewell: %s", self._subscription.durable, error)

    async def _give_back(self) -> None:
        try:
            while self._backlog:
                await self._backlog.popleft().nak()
        except BusError as error:  # they come again by themselves after ack_wait
            logger.info("%s: could not give back what was not begun: %s", self._subscription.durable, error)

    async def _on_message(self, raw: Msg) -> None:
        self._heard = self._loop.time()
        if not raw.reply.startswith("$JS.ACK."):
            await self._on_status(raw)
            return
        self._requested = max(0, self._requested - 1)
        message = JetStreamMessage(raw, self._connection)
        if self._stopping:
            await message.nak()
        elif self._subscription.settled(message):
            await message.ack()
            await self._top_up()
        elif self._handling < self._subscription.window:
            self._begin(message)
        else:
            self._backlog.append(message)

    def _begin(self, message: JetStreamMessage) -> None:
        self._handling += 1
        task = self._loop.create_task(self._handle(message))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s: %s", self._subscription.durable, error, exc_info=error)

    async def _handle(self, message: JetStreamMessage) -> None:
        try:
            await self._handler(message)
        except Exception:
            delay = min(timedelta(seconds=2 ** min(message.deliveries - 1, 10)), _LONGEST_DELAY)
            logger.exception(
                "%s: %s, delivery %d, failed; again in %d s",
                self._subscription.durable, message.subject, message.deliveries, delay.total_seconds(),
            )  # fmt: skip
            await message.nak(delay)
        finally:
            self._handling -= 1
        if self._stopping:
            return
        if self._backlog:
            self._begin(self._backlog.popleft())
        else:
            await self._top_up()

    async def _top_up(self) -> None:
        """Ask for as many as the window has room for, once that is half of it."""
        room = self._subscription.window - self._requested - self._handling - len(self._backlog)
        if room < self._low_water or not self._connection.connected:
            return
        self._requested += room
        body = {"batch": room, "expires": int(_EXPIRES * 1e9), "idle_heartbeat": int(_HEARTBEAT * 1e9)}
        await self._connection.publish(
            self._request_subject, json.dumps(body).encode(), f"{self._inbox}.{self._generation}"
        )

    async def _on_status(self, raw: Msg) -> None:
        headers = raw.headers or {}
        status = headers.get("Status")
        if status == "100" or not raw.subject.endswith(f".{self._generation}"):
            return  # a heartbeat, or the end of a request from before a recovery
        unanswered = headers.get("Nats-Pending-Messages")
        if status in ("404", "408", "409") and unanswered is not None:
            self._requested = max(0, self._requested - int(unanswered))
            if not self._stopping:
                await self._top_up()
        else:  # consumer deleted, leadership change, server shutdown, nobody responding
            logger.info("%s: %s %s", self._subscription.durable, status, headers.get("Description", ""))
            self._trouble.set()

    async def _on_connected(self) -> None:
        self._trouble.set()

    async def _supervise(self) -> None:
        """Notice what stops the flow without a word: a forgotten request, a lost consumer; and set it going again."""
        look_at_floor = self._loop.time() + _FLOOR_EVERY
        while True:
            try:
                async with asyncio.timeout(_HEARTBEAT):
                    await self._trouble.wait()
            except TimeoutError:
                silent = self._requested > 0 and self._loop.time() - self._heard > _SILENCE
                if not silent and self._loop.time() < look_at_floor:
                    continue
                if not silent:
                    look_at_floor = self._loop.time() + _FLOOR_EVERY
                    await self._remember_floor()
                    continue
            self._trouble.clear()
            if self._connection.connected:
                await self._recover()

    async def _recover(self) -> None:
        try:
            await self._ensure()
        except BusError as error:
            logger.warning("%s: waiting for the bus: %s", self._subscription.durable, error)
            await asyncio.sleep(1)
            self._trouble.set()
            return
        self._generation += 1
        self._requested = 0
        self._heard = self._loop.time()
        await self._top_up()

    async def _remember_floor(self) -> None:
        """How far all that share the consumer have come: where one that is deleted under us goes on."""
        try:
            info = await self._consumer()
        except BusError as error:
            logger.info("%s: no look at the consumer: %s", self._subscription.durable, error)
            return
        if info is None:
            self._trouble.set()
        else:
            self._floor = int(info["ack_floor"]["stream_seq"])

    async def _consumer(self) -> dict[str, Any] | None:
        name = f"{self._subscription.stream}.{self._subscription.durable}"
        try:
            return await self._outbox.api(f"CONSUMER.INFO.{name}")
        except ApiRefusal as error:
            if error.code in _CONSUMER_GONE:
                return None
            raise

    async def _ensure(self) -> None:
        """Create the consumer, or update it where it differs. Raises Rejected, Unavailable."""
        existing = await self._consumer()
        wanted = self._configuration()
        if existing is None:
            await self._doubt_floor()
            body = wanted | self._beginning()
        else:
            self._floor = int(existing["ack_floor"]["stream_seq"])
            configuration = _normal_filters(existing["config"])
            if all(configuration.get(key) == value for key, value in wanted.items()):
                return
            if configuration.get("deliver_subject") or configuration.get("ack_policy") != "explicit":
                raise Rejected(
                    f"{self._connection.url}: consumer {self._subscription.durable} of {self._subscription.stream}"
                    " exists and is no pull consumer with explicit ack; remove it with: nats consumer rm"
                )
            body = configuration | wanted
        subject = f"CONSUMER.CREATE.{self._subscription.stream}.{self._subscription.durable}"
        filters = body["filter_subjects"]
        if len(filters) == 1:  # where permissions look for it
            subject = f"{subject}.{filters[0]}"
            body = {key: value for key, value in body.items() if key != "filter_subjects"} | {
                "filter_subject": filters[0]
            }
        await self._outbox.api(subject, {"stream_name": self._subscription.stream, "config": body})

    async def _doubt_floor(self) -> None:
        """Begin at the first message of a stream that was made anew: behind the old one's last we'd wait in vain."""
        if not self._floor:
            return
        try:
            info = await self._outbox.api(f"STREAM.INFO.{self._subscription.stream}")
        except Denied:
            return  # a role that may not look goes on where it was
        if int(info["state"]["last_seq"]) < self._floor:
            self._floor = 0

    def _configuration(self) -> dict[str, Any]:
        wanted = {
            "durable_name": self._subscription.durable,
            "ack_policy": "explicit",
            "ack_wait": nanoseconds(self._subscription.ack_wait),
            "max_ack_pending": max(_LEAST_ACK_PENDING, 16 * self._subscription.window),
            "inactive_threshold": nanoseconds(INACTIVE_THRESHOLD),
            "filter_subjects": sorted(self._subscription.subjects),
        }
        if self._replicas is not None and self._replicas > 1:
            wanted["num_replicas"] = 1  # a thousand replicated consumers cost a fifth of a core on each idle node
        return wanted

    def _beginning(self) -> dict[str, Any]:
        if self._floor is not None:
            return {"deliver_policy": "by_start_sequence", "opt_start_seq": self._floor + 1}
        return {"deliver_policy": "all" if self._subscription.replay else "new"}


def _normal_filters(configuration: dict[str, Any]) -> dict[str, Any]:
    """The server says one filter in another key than several."""
    configuration = dict(configuration)
    single = configuration.pop("filter_subject", None)
    filters = configuration.get("filter_subjects") or ([single] if single else [])
    return configuration | {"filter_subjects": sorted(filters)}
