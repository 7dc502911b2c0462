"""What is on its way to the server and waits for an answer: publishes and JetStream requests.

Everything shares one inbox. A message is answered, sent again, or given up at its deadline by one task that looks
at all of them, so that a publish costs neither a task nor a timer of its own.
"""

import asyncio
import json
import logging
import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from nats.aio.msg import Msg
from pydantic_core import from_json

from bus.connection import Connection
from bus.port import BusError, Conflict, Rejected, TooLarge, Unavailable
from schemas.units import show_duration, show_size

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_TRY = 2.0  # seconds until a message that may be sent twice is sent again
_PAUSE = 0.25  # seconds between looks at what waits, and before the next try when nobody was there to answer
_NOT_PRINTABLE = re.compile(r"[^!-~]")
_MESSAGE_ID = "Nats-Msg-Id"
_DENIED = re.compile(r'violation for (?:publish|subscription) to "([^"]*)"')

# Codes of JetStream's API errors, as nats-server's errors.json has them.
_WRONG_LAST_SEQUENCE = (10071, 10164)
_STREAM_NOT_FOUND = 10059
_TRANSIENT_STATUS = 503
_STORE_REFUSES = ("maximum bytes exceeded", "maximum messages exceeded", "maximum messages per subject exceeded")


class TryAgain(Exception):
    """Nothing was stored, and a later try may be luckier; the text says why."""


class NobodyAnswers(TryAgain):
    """No stream takes the subject at the moment, or JetStream is off, starting or electing a leader."""


class ApiRefusal(Rejected):
    """JetStream's own refusal, with its code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code

    @property
    def stream_missing(self) -> bool:
        return self.code == _STREAM_NOT_FOUND


class Denied(Rejected):
    """The permissions of this client do not include the subject."""


class _Sent(Generic[Answer]):
    """One message without its answer."""

    __slots__ = (
        "ambiguous",
        "body",
        "deadline",
        "due",
        "future",
        "headers",
        "judge",
        "repeatable",
        "seen",
        "subject",
        "windowed",
    )

    def __init__(
        self,
        subject: str,
        body: bytes,
        headers: dict[str, str] | None,
        judge: Callable[[Msg], Answer],
        repeatable: bool,
        deadline: float,
        future: asyncio.Future[Answer],
        windowed: bool,
    ) -> None:
        self.subject = subject
        self.body = body
        self.headers = headers
        self.judge = judge
        self.repeatable = repeatable
        self.deadline = deadline
        self.future = future
        self.windowed = windowed
        self.ambiguous = False  # it was sent, and may be stored for all we know
        self.due = 0.0
        self.seen = ""


class Outbox:
    """Sends, and turns answers into results or errors."""

    def __init__(self, connection: Connection, deadline: float, window: int) -> None:
        self._connection = connection
        self._deadline = deadline
        self._room = asyncio.Semaphore(window)
        self._waiting: dict[str, _Sent[Any]] = {}
        self._not_empty = asyncio.Event()
        self._counter = 0
        self._inbox = f"{connection.client.new_inbox()}."
        self._loop = asyncio.get_running_loop()
        self._watch: asyncio.Task[None] | None = None
        self.on_nobody: list[Callable[[str], None]] = []
        """Told the subject of what nobody answered."""

    async def open(self) -> None:
        await self._connection.subscribe(f"{self._inbox}*", self._on_answer)
        self._connection.on_connected.append(self._send_all_again)
        self._connection.on_lost.append(self._on_lost)
        self._connection.on_denied.append(self._on_denied)
        self._watch = asyncio.create_task(self._look_after_waiting(), name="bus outbox")

    async def close(self) -> None:
        """Wait for the answers that are under way, until their deadlines; then stop."""
        while self._waiting:
            await asyncio.wait([sent.future for sent in self._waiting.values()])
            for token in [token for token, sent in self._waiting.items() if sent.future.done()]:
                self._forget(token)
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    async def publish(
        self, subject: str, body: bytes, headers: dict[str, str] | None, judge: Callable[[Msg], Answer]
    ) -> asyncio.Future[Answer]:
        """Send when the window has room; the future is the judged answer.

        Sent again without an answer only when *headers* hold a message id. Raises Rejected when it is too large.
        """
        self._check(subject, body, headers)
        await self._room.acquire()
        repeatable = headers is not None and _MESSAGE_ID in headers
        return await self._send(subject, body, headers, judge, repeatable, windowed=True)

    async def request(
        self, subject: str, body: bytes, judge: Callable[[Msg], Answer], deadline: float | None = None
    ) -> Answer:
        """Ask for something that may be asked twice, and wait for the answer. *deadline* in seconds."""
        return await (await self._send(subject, body, None, judge, repeatable=True, windowed=False, deadline=deadline))

    async def api(
        self, subject: str, body: Mapping[str, Any] | None = None, deadline: float | None = None
    ) -> dict[str, Any]:
        """One request to JetStream's API. Raises ApiRefusal, Denied, Unavailable."""
        encoded = b"" if body is None else json.dumps(body).encode()
        return await self.request(f"$JS.API.{subject}", encoded, self._reply, deadline)

    def stored(self, answer: Msg) -> None:
        """Judge the answer to a publish whose sequence nobody needs."""
        data = answer.data
        if data.startswith(b'{"stream":') and b'"error"' not in data:
            return
        self._reply(answer)

    def sequence(self, answer: Msg) -> int:
        """Judge the answer to a publish whose sequence is needed."""
        return int(self._reply(answer)["seq"])

    def found(self, answer: Msg) -> Msg | None:
        """Judge the answer to a direct get: the message, or None when there is none."""
        headers = answer.headers or {}
        status = headers.get("Status")
        if status == "404":
            return None
        if status == "503":
            raise NobodyAnswers("nobody answers for the stream")
        if status is not None:
            raise Rejected(f"{self._connection.url}: {headers.get('Description', status)}")
        return answer

    def _reply(self, answer: Msg) -> dict[str, Any]:
        if answer.headers and answer.headers.get("Status") == "503":
            raise NobodyAnswers(
                "nobody answers: JetStream is off, starting or electing a leader, or no stream takes it"
            )
        try:
            reply: dict[str, Any] = from_json(answer.data)
        except ValueError as error:
            raise Rejected(f"{self._connection.url} answered with something else than JSON: {error}") from error
        if "error" in reply:
            raise _refusal(reply["error"], self._connection.url)
        return reply

    def _check(self, subject: str, body: bytes, headers: dict[str, str] | None) -> None:
        if not subject or _NOT_PRINTABLE.search(subject):
            raise Rejected(f"{subject!r} is no subject: it is empty, or holds spaces or control characters")
        # "NATS/1.0", each "name: value", and the empty line, every one with its line end; as the server counts.
        size = len(body) + (12 + sum(len(k) + len(v.encode()) + 4 for k, v in headers.items()) if headers else 0)
        limit = self._connection.client.max_payload
        if size > limit:
            raise TooLarge(
                f"a message of {size} bytes ({show_size(size)}) to {subject} is larger than the {limit} bytes"
                f" ({show_size(limit)}) that {self._connection.url} takes; raise max_payload there or send less"
            )

    async def _send(
        self,
        subject: str,
        body: bytes,
        headers: dict[str, str] | None,
        judge: Callable[[Msg], Answer],
        repeatable: bool,
        *,
        windowed: bool,
        deadline: float | None = None,
    ) -> asyncio.Future[Answer]:
        self._counter += 1
        token = str(self._counter)
        future: asyncio.Future[Answer] = self._loop.create_future()
        until = self._loop.time() + (self._deadline if deadline is None else deadline)
        sent = _Sent(subject, body, headers, judge, repeatable, until, future, windowed)
        self._waiting[token] = sent
        self._not_empty.set()
        if self._connection.connected:
            try:
                await self._transmit(token, sent)
            except BaseException:  # cancelled while the client's buffer was full: nobody will look at the answer
                self._forget(token)
                future.cancel()
                raise
        return future

    async def _transmit(self, token: str, sent: _Sent[Any]) -> None:
        sent.ambiguous = True
        sent.due = self._loop.time() + _TRY
        try:
            await self._connection.publish(sent.subject, sent.body, self._inbox + token, sent.headers)
        except Unavailable as error:
            sent.seen = str(error)
        except Rejected as error:
            self._fail(token, sent, error)

    async def _on_answer(self, answer: Msg) -> None:
        token = answer.subject[len(self._inbox) :]
        sent = self._waiting.get(token)
        if sent is None:
            return  # a second answer to what was sent twice
        try:
            result = sent.judge(answer)
        except TryAgain as reason:
            sent.seen = str(reason)
            sent.due = self._loop.time() + _PAUSE
            sent.ambiguous = False  # may go out again, whatever it is
            if isinstance(reason, NobodyAnswers):
                for tell in self.on_nobody:
                    tell(sent.subject)
        except BusError as error:
            self._fail(token, sent, error)
        else:
            self._forget(token)
            if not sent.future.done():
                sent.future.set_result(result)

    def refuse_unsent(self, concerns: Callable[[str], bool], error: Rejected) -> None:
        """Fail what waits for its next try, and so is not stored, on the subjects that *concerns* is true for."""
        for token, sent in list(self._waiting.items()):
            if not sent.ambiguous and concerns(sent.subject):
                self._fail(token, sent, error)

    def _forget(self, token: str) -> None:
        sent = self._waiting.pop(token, None)
        if sent is not None and sent.windowed:
            self._room.release()

    def _fail(self, token: str, sent: _Sent[Any], error: BusError) -> None:
        self._forget(token)
        if not sent.future.done():
            sent.future.set_exception(error)

    async def _look_after_waiting(self) -> None:
        while True:
            if not self._waiting:
                self._not_empty.clear()
                await self._not_empty.wait()
            await asyncio.sleep(_PAUSE)
            now = self._loop.time()
            for token, sent in list(self._waiting.items()):
                if sent.future.done():  # whoever waited was cancelled
                    self._forget(token)
                elif now >= sent.deadline:
                    self._fail(token, sent, self._too_late(sent))
                elif self._connection.connected and now >= sent.due and (sent.repeatable or not sent.ambiguous):
                    await self._transmit(token, sent)

    def _too_late(self, sent: _Sent[Any]) -> Unavailable:
        seen = sent.seen or (
            "no answer" if self._connection.connected else f"no connection for {show_duration(self._deadline)}"
        )
        return self._connection.unavailable(f"{self._connection.url}: {sent.subject}: {seen}")

    async def _send_all_again(self) -> None:
        """In the order in which they were given to us: of one subject, none overtakes another."""
        for token, sent in list(self._waiting.items()):
            if not sent.future.done() and (sent.repeatable or not sent.ambiguous):
                await self._transmit(token, sent)

    def _on_lost(self) -> None:
        for token, sent in list(self._waiting.items()):
            if sent.ambiguous and not sent.repeatable:
                text = (
                    f"{sent.subject}: the connection was lost before the answer came; whether it is stored is not known"
                )
                self._fail(token, sent, self._connection.unavailable(f"{self._connection.url}: {text}"))

    def _on_denied(self, text: str) -> None:
        match = _DENIED.search(text)
        if match is None:
            return
        for token, sent in list(self._waiting.items()):
            if sent.subject.lower() == match[1].lower():  # the client hands the text over in lower case
                self._fail(
                    token, sent, Denied(f"{self._connection.url} does not permit us to publish to {sent.subject}")
                )


def _refusal(error: Mapping[str, Any], url: str) -> Exception:
    """JetStream's error as one of ours, or TryAgain."""
    code, text = int(error.get("err_code", 0)), str(error.get("description", "no reason given"))
    if code in _WRONG_LAST_SEQUENCE:
        return Conflict(text)
    if any(reason in text for reason in _STORE_REFUSES):
        return ApiRefusal(f"{url}: the stream is full ({text}); archive and purge it, or widen its limit", code)
    if error.get("code") == _TRANSIENT_STATUS:
        return TryAgain(text)
    return ApiRefusal(f"{url}: {text} (JetStream error {code})", code)
