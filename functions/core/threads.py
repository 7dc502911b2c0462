"""The threads in which engines read and act: few, and none that hangs can keep the process alive.

The functions of a process share one thread, which is cheaper to hand a call to than many: while it is at work, calls
gather and are done in one go. Only when it is blocked does another one start, so a mount that hangs holds up nobody.

The standard executor joins its threads when the interpreter ends, so a read that hangs would hold it for ever; and
what it does around each call costs more than most of our reads.
"""

import asyncio
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

BLOCKED_AFTER = 0.02
"""Seconds for which a call may hold up those behind it until another thread takes them."""


class _Call(NamedTuple):
    make: Callable[[], Any]
    future: "asyncio.Future[Any]"
    caller: "Threads"


class Threads:
    """At most *most* blocking calls at once; the others wait. For one event loop, whose threads are shared."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._under_way = 0
        self._waiting: deque[_Call] = deque()

    def run(self, make: Callable[[], Answer]) -> "asyncio.Future[Answer]":
        """The future is its answer or its error. A call whose future is cancelled before its turn is not made."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        call = _Call(make, future, self)
        if self._under_way < self._most:
            self._under_way += 1
            _crew_of(loop).take(call)
        else:
            self._waiting.append(call)
        return future

    def settle(self, crew: "_Crew", future: "asyncio.Future[Any]", answer: Any, error: BaseException | None) -> None:
        """Called in the loop when a call has ended."""
        if self._waiting:
            crew.take(self._waiting.popleft())
        else:
            self._under_way -= 1
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(answer)


class _Crew:
    """The threads of one loop. `take` and the watch run in the loop, `_work` in the threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._began: dict[int, float] = {}
        """number of a thread → when it began what it is at; 0 while it waits"""
        self._numbers = 0
        self._taken = 0
        self._watched: int | None = None
        """calls taken when it was looked at last; None while nobody looks"""
        self._answers: deque[tuple[_Call, Any, BaseException | None]] = deque()
        self._woken = False
        self._refused = False
        """no thread could be started when one was wanted last"""
        # No thread of ours outlives the loop by long: they hold neither it nor this crew's owner.
        weakref.finalize(loop, self._calls.put, None)

    def take(self, call: _Call) -> None:
        self._calls.put(call)
        if not self._began:
            self._start()
        if self._watched is None:
            self._watch_again(call.future.get_loop())

    def _watch_again(self, loop: asyncio.AbstractEventLoop) -> None:
        self._watched = self._taken
        loop.call_later(BLOCKED_AFTER, self._watch, loop)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start another thread when calls wait and none was taken since the last look."""
        waits = not self._calls.empty()
        if waits and self._taken == self._watched:
            self._start()
        if waits:
            self._watch_again(loop)
        else:
            self._watched = None

    def _start(self) -> None:
        """Where the system has no thread to give, calls wait: the watch asks again."""
        self._numbers += 1
        number = self._numbers
        self._began[number] = 0.0
        thread = threading.Thread(target=self._work, args=(number,), name=f"ansai-call-{number}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            del self._began[number]
            if not self._refused:
                logger.error("reads and actions wait, for no thread can be started: %s; see ulimit -u", error)
            self._refused = True
        else:
            self._refused = False

    def _work(self, number: int) -> None:
        try:
            while (call := self._calls.get()) is not None:
                self._taken += 1
                self._began[number] = time.monotonic()
                self._make(call)
                self._began[number] = 0.0
                del call  # nothing is kept alive while waiting for the next
                if len(self._began) > 1 and self._superfluous(number):
                    return
            self._calls.put(None)  # for the others: the loop is gone
        finally:
            self._began.pop(number, None)

    def _make(self, call: _Call) -> None:
        """Nothing is begun for a loop that is closed: what was still to be done is nobody's wish any more."""
        loop, answer, error = self._loop(), None, None
        if loop is None or loop.is_closed():
            return
        if not call.future.cancelled():
            try:
                answer = call.make()
            except BaseException as raised:  # noqa: BLE001 - carried over to whoever waits, as executors do
                error = raised
        self._give(loop, call, answer, error)

    def _superfluous(self, number: int) -> bool:
        """Whether another thread is free to take what comes."""
        blocked = time.monotonic() - BLOCKED_AFTER
        return any(not began or began > blocked for other, began in self._began.copy().items() if other != number)

    def _give(
        self, loop: asyncio.AbstractEventLoop, call: _Call, answer: Any, error: BaseException | None
    ) -> None:  # fmt: skip
        """To the loop, which is woken once for all answers that have gathered."""
        self._answers.append((call, answer, error))
        if self._woken:
            return  # it was set before it looks, so it will see ours
        self._woken = True
        try:
            loop.call_soon_threadsafe(self._settle)
        except RuntimeError:  # the loop was closed meanwhile: nobody waits any more, and each answer would hold it
            self._answers.clear()

    def _settle(self) -> None:
        self._woken = False
        while self._answers:
            call, answer, error = self._answers.popleft()
            call.caller.settle(self, call.future, answer, error)


_CREWS: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Crew]" = weakref.WeakKeyDictionary()


def _crew_of(loop: asyncio.AbstractEventLoop) -> _Crew:
    crew = _CREWS.get(loop)
    if crew is None:
        crew = _CREWS[loop] = _Crew(loop)
    return crew
