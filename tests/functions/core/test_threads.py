"""Few threads for blocking calls, none of which keeps the process alive."""

import asyncio
import gc
import subprocess
import sys
import threading
import time
import weakref

import pytest

from functions.core.threads import Threads
from tests.e2e.conftest import REPOSITORY
from tests.waiting import until


@pytest.fixture
def threads():
    return Threads(2)


async def test_a_call_answers_or_raises_what_it_raised(threads):
    assert await threads.run(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 / 0)


async def test_calls_that_are_quick_share_one_thread_however_many_callers_there_are(threads):
    names = await asyncio.gather(*(each.run(threading.get_ident) for each in (threads, Threads(2)) for _ in range(50)))

    assert len(set(names)) == 1


async def test_a_caller_whose_calls_all_hang_holds_up_no_other(threads):
    go = threading.Event()
    hanging = [threads.run(lambda: go.wait(30)) for _ in range(4)]

    assert await asyncio.wait_for(Threads(2).run(lambda: 7), 10) == 7

    go.set()
    await asyncio.gather(*hanging)


async def test_threads_that_were_needed_while_others_hung_end_when_they_are_superfluous(threads):
    def crew() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each.name.startswith("ansai-call-") and each not in before]

    before, go = threading.enumerate(), threading.Event()
    hanging = [threads.run(lambda: go.wait(30)) for _ in range(2)]
    await Threads(2).run(lambda: None)
    assert len(crew()) == 3

    go.set()
    await asyncio.gather(*hanging)

    async def quick() -> bool:
        await Threads(2).run(lambda: None)
        return len(crew()) == 1

    await until(quick)


async def test_no_more_calls_than_threads_run_at_once_and_the_others_follow(threads):
    running, most, lock, go = 0, 0, threading.Lock(), threading.Event()

    def call() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        go.wait(10)
        with lock:
            running -= 1

    calls = [threads.run(call) for _ in range(6)]
    while running < 2:
        await asyncio.sleep(0.001)
    go.set()
    await asyncio.gather(*calls)

    assert most == 2


async def test_what_was_cancelled_before_its_turn_is_not_called(threads):
    go, called = threading.Event(), []
    first = [threads.run(lambda: go.wait(10)) for _ in range(2)]
    late = threads.run(lambda: called.append("late"))

    late.cancel()
    go.set()
    await asyncio.gather(*first)
    await threads.run(lambda: None)

    assert called == []


async def test_where_no_thread_can_be_started_calls_wait_until_one_can(threads, monkeypatch, caplog):
    start, refused = threading.Thread.start, []

    def start_later(thread: threading.Thread) -> None:
        if len(refused) < 5:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_later)

    assert await asyncio.wait_for(threads.run(lambda: 7), 10) == 7

    assert len(refused) == 5
    assert caplog.text.count("no thread can be started") == 1


def test_what_waited_when_its_loop_was_closed_is_not_begun_and_nothing_of_the_loop_is_kept():
    go, done, called = threading.Event(), threading.Event(), []

    def hang() -> None:
        go.wait(30)

    async def leave_them_behind() -> None:
        threads = Threads(4)
        threads.run(hang)
        await asyncio.sleep(0)
        futures = [threads.run(lambda: called.append(1)) for _ in range(3)]
        del futures

    before, loop = threading.enumerate(), asyncio.new_event_loop()
    loop.run_until_complete(leave_them_behind())
    crew = [each for each in threading.enumerate() if each not in before]
    loop.close()
    left = weakref.ref(loop)
    del loop
    go.set()

    deadline = time.monotonic() + 10
    while left() is not None or any(each.is_alive() for each in crew):
        assert time.monotonic() < deadline
        done.wait(0.005)
        gc.collect()
    assert called == []


def test_a_call_that_hangs_does_not_hold_up_the_end_of_the_process():
    program = (
        "import asyncio, threading\n"
        "from functions.core.threads import Threads\n"
        "async def main():\n"
        "    Threads(1).run(threading.Event().wait)\n"
        "    await asyncio.sleep(0.05)\n"
        "asyncio.run(main())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=20, check=False
    )

    assert (ended.returncode, ended.stderr) == (0, "")
