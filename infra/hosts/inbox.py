"""From a message on the bus to the engines that listen: parse, judge its age, hand over, answer the bus.

A message that can't be understood is a dead letter: kept as it came, never delivered again. One that is too
old is counted and dropped. One that somebody else works on comes back later.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from bus import subjects
from bus.port import BusError, Message
from functions.core.engine import Engine
from functions.core.ports import NotStored
from functions.core.practice import Verdict
from infra.hosts.story import BusStory
from schemas.approval import Approval
from schemas.audit import Step
from schemas.clock import Clock
from schemas.envelope import Event, new_id
from schemas.health import Health
from schemas.remediation import Mode, Outcome
from schemas.settings.policy import Policy
from schemas.trigger import Trigger

logger = logging.getLogger(__name__)

LAST_DELIVERY = 10
"""A health event that found its target busy this often is acknowledged: the next event says how the target is.

By then the lease of a holder that died, before it could remember an incident, has run out; each crash counts as one."""

SUBJECTS = 4096
"""Subjects whose listener is remembered; a host has dozens, a flood of forged ones must not fill the memory."""

BURST = timedelta(seconds=1)
"""Stale events that come within this are told in one audit line."""


class NotUnderstood(Exception):
    """The message is a dead letter; the text says why."""


@dataclass(frozen=True)
class Listener:
    """The engines that hear one signal, and how its events are read."""

    type_name: str
    event: type[Event[Any]]
    engines: tuple[Engine, ...]


def listeners(engines: Sequence[Engine]) -> dict[tuple[str, str], Listener]:
    """(domain, signal) → who listens."""
    heard: dict[tuple[str, str], list[Engine]] = {}
    models: dict[tuple[str, str], type[Health]] = {}
    for engine in engines:
        for model in engine.remedy.listens:
            heard.setdefault((model.domain, model.signal), []).append(engine)
            models[model.domain, model.signal] = model
    return {
        key: Listener(models[key].type_name(), Event[models[key]], tuple(found))  # type: ignore[valid-type]
        for key, found in heard.items()
    }


class Inbox:
    """The two handlers that a function host gives to the bus."""

    def __init__(
        self, engines: Sequence[Engine], policy: Policy, story: BusStory, clock: Clock, ack_wait: timedelta
    ) -> None:
        self._engines = {engine.remedy.name: engine for engine in engines}
        self._listeners = listeners(engines)
        self._listener = lru_cache(maxsize=SUBJECTS)(self._find_listener)
        self.reconfigure(policy)
        self._story = story
        self._clock = clock
        self._ping = ack_wait.total_seconds() / 3
        self._stale: dict[str, int] = {}
        self._telling_stale: asyncio.Task[None] | None = None
        self.handled = 0

    def reconfigure(self, policy: Policy) -> None:
        self._policy = policy
        self._earliest = -policy.future_tolerance

    def settles(self, message: Message) -> bool:
        """Whether a health message is understood, fresh, and asks nothing of anybody. The common case, and cheap."""
        try:
            listener = self._listener(message.subject)
            event = self._health(message, listener)
        except NotUnderstood:
            return False
        if event is None or not all(engine.settles(event) for engine in listener.engines):
            return False
        self.handled += 1
        return True

    async def on_health(self, message: Message) -> None:
        """What `settles` left over."""
        self.handled += 1
        try:
            listener = self._listener(message.subject)
            event = self._health(message, listener)
        except NotUnderstood as error:
            return await self._dead(message, str(error))
        if event is None:
            self._count_stale(listener)
            return await message.ack()
        if len(listener.engines) == 1:
            verdict = await self._while_working(message, listener.engines[0].on_health(event))
        else:
            work = asyncio.gather(*(engine.on_health(event) for engine in listener.engines))
            verdicts = await self._while_working(message, work)
            verdict = next((each for each in verdicts if each.retry_after is not None), verdicts[0])
        return await self._answer(message, verdict, LAST_DELIVERY)

    async def on_answer(self, message: Message) -> None:
        """A person's answer to a plan that waits."""
        self.handled += 1
        try:
            engine, answer = self._answer_in(message)
        except NotUnderstood as error:
            return await self._dead(message, str(error))
        said, _, who = subjects.parse(message.subject).last.partition(".")
        if said != answer.data.state:
            return await self._dead(message, f"its subject says {said}, its data {answer.data.state}")
        work = engine.on_answer(answer.data, answer.correlationid, _unauthenticated(who))
        return await self._answer(message, await self._while_working(message, work), None)

    async def on_trigger(self, message: Message) -> None:
        self.handled += 1
        try:
            engine, trigger, correlation, sent_at = self._trigger(message)
        except NotUnderstood as error:
            return await self._dead(message, str(error))
        who = _unauthenticated(subjects.parse(message.subject).last)
        age = self._clock.now() - sent_at
        if age > self._policy.event_expiry:
            return await self._too_late(message, engine, age, correlation, who)
        verdict = await self._while_working(message, engine.on_trigger(trigger, correlation, who))
        return await self._answer(message, verdict, None)

    # Reading.

    def _find_listener(self, subject: str) -> Listener:
        """Raises NotUnderstood."""
        try:
            parsed = subjects.parse(subject)
        except subjects.BadSubject as error:
            raise NotUnderstood(str(error)) from error
        listener = self._listeners.get((parsed.domain, parsed.name))
        if listener is None:
            raise NotUnderstood(f"nobody here listens to {parsed.domain}.{parsed.name}")
        return listener

    def _health(self, message: Message, listener: Listener) -> Event[Any] | None:
        """The event; None for a stale one. Raises NotUnderstood."""
        try:
            event = listener.event.model_validate_json(message.body)
        except ValidationError as error:
            raise NotUnderstood(explain(error)) from error
        if event.type != listener.type_name:
            raise NotUnderstood(f"its type is {event.type!r}; on this subject only {listener.type_name} is understood")
        if not message.subject.endswith(subjects.target_token(event.data.target)):
            raise NotUnderstood(f"its subject is not that of its target {event.data.target!r}")
        age = self._clock.now() - event.time
        if age < self._earliest:
            self._not_from_the_future(event.time, age)
        return None if age > self._policy.event_expiry else event

    def _not_from_the_future(self, time: datetime, age: timedelta) -> None:
        if -age > self._policy.future_tolerance:
            raise NotUnderstood(
                f"its time {time.isoformat()} lies {-age.total_seconds():.0f} s in the future;"
                f" allowed are {self._policy.future_tolerance.total_seconds():.0f} s: check the sender's clock"
            )

    def _addressed(self, message: Message) -> Engine:
        """The function that a person's message is for. Raises NotUnderstood."""
        try:
            function = subjects.parse(message.subject).function
        except subjects.BadSubject as error:
            raise NotUnderstood(str(error)) from error
        engine = self._engines.get(function)
        if engine is None:
            raise NotUnderstood(f"no function {function} runs here; known are {', '.join(self._engines)}")
        return engine

    def _answer_in(self, message: Message) -> tuple[Engine, Event[Approval]]:
        """Raises NotUnderstood."""
        engine = self._addressed(message)
        try:
            event = Event[Approval].model_validate_json(message.body)
        except ValidationError as error:
            raise NotUnderstood(explain(error)) from error
        self._not_from_the_future(event.time, self._clock.now() - event.time)
        if event.data.function != engine.remedy.name:
            raise NotUnderstood(f"its subject is that of {engine.remedy.name}, its data names {event.data.function}")
        return engine, event

    def _trigger(self, message: Message) -> tuple[Engine, Trigger, str, datetime]:
        """A bare order, or one in an envelope. Raises NotUnderstood."""
        engine = self._addressed(message)
        try:
            fields = json.loads(message.body or b"{}")
            if isinstance(fields, dict) and "specversion" in fields:
                event = Event[Trigger].model_validate_json(message.body)
                self._not_from_the_future(event.time, self._clock.now() - event.time)
                return engine, event.data, event.correlationid, event.time
            trigger = Trigger.model_validate_json(message.body or b"{}")
            return engine, trigger, f"trigger-{message.sequence}", message.stored_at
        except ValidationError as error:
            raise NotUnderstood(explain(error)) from error
        except (ValueError, RecursionError) as error:
            raise NotUnderstood(f"no JSON: {error}") from error

    # Answering.

    async def _while_working(self, message: Message, work: Awaitable[Any]) -> Any:
        """Await *work*; tell the bus now and then that it is still going on, so that nobody else gets the message."""
        loop = asyncio.get_running_loop()
        pings: set[asyncio.Task[None]] = set()

        timers = [loop.call_later(self._ping, lambda: ping())]

        def ping() -> None:
            task = loop.create_task(message.in_progress())
            pings.add(task)
            task.add_done_callback(pings.discard)
            timers[0] = loop.call_later(self._ping, ping)

        try:
            return await work
        finally:
            timers[0].cancel()

    async def _answer(self, message: Message, verdict: Verdict, most_deliveries: int | None) -> None:
        if verdict.retry_after is None or (most_deliveries is not None and message.deliveries >= most_deliveries):
            await message.ack()
        else:
            await message.nak(verdict.retry_after)

    async def _dead(self, message: Message, why: str) -> None:
        try:
            parsed = subjects.parse(message.subject)
            listener = self._listeners.get((parsed.domain, parsed.name))
            function = listener.engines[0].remedy.name if listener is not None else parsed.function
        except subjects.BadSubject:
            function = "unknown.unknown"
        try:
            await self._story.dead_letter(function, message.subject, message.body, why)
        except BusError as error:
            logger.error("a dead letter could not be kept, it is delivered again: %s", error)
            await message.nak(timedelta(seconds=5))
        else:
            await message.term()

    async def _too_late(self, message: Message, engine: Engine, age: timedelta, correlation: str, who: str) -> None:
        limit = f"{self._policy.event_expiry.total_seconds():.0f} s"
        try:
            await self._story.audit(
                correlation, host=engine.host, function=engine.remedy.name, step=Step.REFUSED, mode=engine.policy.mode,
                rule="event_expiry", limit=limit, seen=f"{age.total_seconds():.0f} s old", who=who,
                outcome=Outcome.REFUSED, text="an order that waited too long is not carried out",
                policy=engine.policy.version,
            )  # fmt: skip
        except NotStored as error:
            logger.error("%s", error)
            await message.nak(timedelta(seconds=5))
            return
        await message.ack()

    # Stale events.

    def _count_stale(self, listener: Listener) -> None:
        name = listener.engines[0].remedy.name
        self._stale[name] = self._stale.get(name, 0) + 1
        if self._telling_stale is None or self._telling_stale.done():
            self._telling_stale = asyncio.create_task(self._tell_stale())

    async def _tell_stale(self) -> None:
        """One audit line for a burst."""
        await self._clock.sleep(BURST)
        counted, self._stale = self._stale, {}
        for name, count in counted.items():
            engine = self._engines[name]
            limit = f"{self._policy.event_expiry.total_seconds():.0f} s"
            text = f"{count} health events older than {limit} were dropped; the next ones say how the targets are"
            try:
                await self._story.audit(
                    new_id(), host=engine.host, function=name, step=Step.STALE, mode=Mode.OBSERVE, rule="event_expiry",
                    limit=limit, seen=str(count), text=text,
                )  # fmt: skip
            except NotStored as error:
                logger.error("%s: %s", text, error)

    async def stop(self) -> None:
        if self._telling_stale is not None:
            await self._telling_stale


def _unauthenticated(token: str) -> str:
    """Who asked or answered, by the last token of the subject, which anybody may write."""
    return f"{token or 'somebody'} (unauthenticated)"


def explain(error: ValidationError) -> str:
    """A validation error as one line: where, what, and no more than three."""
    problems = [
        f"{'.'.join(str(part) for part in problem['loc']) or 'message'}: {problem['msg']}"
        for problem in error.errors(include_url=False, include_input=False)[:3]
    ]
    more = error.error_count() - len(problems)
    return "; ".join(problems) + (f"; and {more} more" if more > 0 else "")
