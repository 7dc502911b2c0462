"""One blocking call in a daemon thread: what hangs in it can't keep the process alive."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


def in_daemon_thread(name: str, call: Callable[[], Answer]) -> "asyncio.Future[Answer]":
    """Start *call* in a thread of its own; the future is its answer or its error.

    The standard executor's threads are joined when the interpreter ends: a read that hangs would hold it for ever.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Answer] = loop.create_future()

    def settle(set_outcome: Callable[[], None]) -> None:
        if not future.done():
            set_outcome()

    def work() -> None:
        try:
            answer = call()
            outcome = lambda: future.set_result(answer)  # noqa: E731
        except BaseException as error:  # noqa: BLE001 - carried over to whoever waits, as executors do
            raised = error
            outcome = lambda: future.set_exception(raised)  # noqa: E731
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=work, name=name, daemon=True).start()
    return future


def abandon(future: "asyncio.Future[Answer]") -> None:
    """Nobody will look at the answer; an error in it is no news any more."""
    future.add_done_callback(lambda late: None if late.cancelled() else late.exception())
