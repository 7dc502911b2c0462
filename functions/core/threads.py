"""The threads in which an engine reads and acts: few, and none that hangs can keep the process alive.

The standard executor joins its threads when the interpreter ends, so a read that hangs would hold it for ever; and
what it does around each call costs more than most of our reads.
"""

import asyncio
import contextlib
import threading
import weakref
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

Answer = TypeVar("Answer")


class Threads:
    """At most *most* blocking calls at once; the others wait. For one event loop."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._calls: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = SimpleQueue()
        self._started = 0
        self._under_way = 0

    def run(self, call: Callable[[], Answer]) -> "asyncio.Future[Answer]":
        """The future is its answer or its error. A call whose future is cancelled before its turn is not made."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._under_way += 1
        self._calls.put((call, future))
        if self._under_way > self._started and self._started < self._most:
            self._started += 1
            name = f"{self._name}-{self._started}"
            answers = _ANSWERS.setdefault(loop, _Answers(loop))
            threading.Thread(target=self._work, args=(answers,), name=name, daemon=True).start()
        return future

    def stop(self) -> None:
        """Let the threads end when what they are at has ended."""
        for _ in range(self._started):
            self._calls.put(None)

    def _work(self, answers: "_Answers") -> None:
        while (item := self._calls.get()) is not None:
            call, future = item
            answer, error = None, None
            if not future.cancelled():
                try:
                    answer = call()
                except BaseException as raised:  # noqa: BLE001 - carried over to whoever waits, as executors do
                    error = raised
            answers.give(lambda done=future, answer=answer, error=error: self._settle(done, answer, error))  # type: ignore[misc]
            del item, call, future, answer, error  # nothing is kept alive while waiting for the next

    def _settle(self, future: "asyncio.Future[Any]", answer: Any, error: BaseException | None) -> None:
        self._under_way -= 1
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(answer)


class _Answers:
    """Brings the answers of all threads to one loop: it is woken once for all that have gathered."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._gathered: deque[Callable[[], None]] = deque()
        self._woken = False

    def give(self, settle: Callable[[], None]) -> None:
        """From any thread."""
        self._gathered.append(settle)
        if self._woken:
            return  # it was set before it looks, so it will see ours
        self._woken = True
        loop = self._loop()
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
                loop.call_soon_threadsafe(self._settle_all)

    def _settle_all(self) -> None:
        self._woken = False
        while self._gathered:
            self._gathered.popleft()()


_ANSWERS: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Answers]" = weakref.WeakKeyDictionary()
