"""One blocking call in a daemon thread, which a hanging filesystem can neither keep the process alive with nor block."""

import asyncio
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

    def settle(answer: Answer | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(answer)  # type: ignore[arg-type]  # no error: this is the answer

    def work() -> None:
        answer: Answer | None = None
        error: BaseException | None = None
        try:
            answer = call()
        except BaseException as raised:  # noqa: BLE001 - carried over to whoever waits, as executors do
            error = raised
        try:
            loop.call_soon_threadsafe(settle, answer, error)
        except RuntimeError:
            pass  # the loop was closed meanwhile: nobody waits any more

    threading.Thread(target=work, name=name, daemon=True).start()
    return future
