"""How an action passes the fence: nobody else is in between until it has ended, and nobody is left there behind it."""

import asyncio
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from functions.core.actuator import Live
from functions.core.ports import Fenced, Occupied, Token, ToolError
from functions.core.threads import Threads
from infra.hosts import fence as fence_module
from infra.hosts.fence import LocalFence
from schemas.remediation import ActionResult, Outcome
from tests.functions.core.tank import Drain
from tests.waiting import until

TOKENS = {"tank:a": Token(1, 5)}


class Tap:
    """A tool whose drain lasts until it may end."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.may_end = threading.Event()
        self.may_end.set()

    def drain(self, tank: str, amount: int, name: str) -> ActionResult:
        self.running.set()
        assert self.may_end.wait(30)
        return ActionResult(outcome=Outcome.DONE, done=1)


class Gate(LocalFence):
    """Notes that somebody began to wait at it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.waited = threading.Event()

    def passing(self, tokens, *, wait=True):
        if wait:
            self.waited.set()
        return super().passing(tokens, wait=wait)


@pytest.fixture
def fence(tmp_path) -> Gate:
    return Gate(tmp_path / "fences")


@pytest.fixture
def tap() -> Tap:
    return Tap()


def live(tap: Tap, fence) -> Live:
    async def observe():
        raise AssertionError("nothing is measured here")

    return Live(tap, fence, TOKENS, Threads(2), None, lambda: None, observe, settles=True)  # type: ignore[arg-type]


def free(fence: LocalFence) -> bool:
    try:
        with fence.passing(TOKENS, wait=False):
            return True
    except Occupied:
        return False


ACTION = Drain(tank="a", litres=1, name="x")


async def test_while_an_action_is_under_way_another_function_of_the_same_process_does_not_pass(fence, tap):
    tap.may_end.clear()
    acting = asyncio.create_task(live(tap, fence).apply(ACTION))
    await until(tap.running.is_set)

    assert not free(fence)

    tap.may_end.set()
    assert (await acting).outcome is Outcome.DONE
    assert free(fence)


async def test_whoever_stands_in_the_way_is_waited_for(fence, tap):
    with fence.passing(TOKENS, wait=False):
        acting = asyncio.create_task(live(tap, fence).apply(ACTION))
        await until(fence.waited.is_set)
        assert not tap.running.is_set()

    assert (await acting).outcome is Outcome.DONE
    assert free(fence)


async def test_whoever_stands_in_the_way_for_too_long_is_told_and_nothing_is_done(fence, tap, monkeypatch):
    monkeypatch.setattr(fence_module, "PATIENCE", 0.02)
    with fence.passing(TOKENS), pytest.raises(Fenced, match="another process has held"):
        await live(tap, fence).apply(ACTION)

    assert not tap.running.is_set()
    assert free(fence)


async def test_who_is_cancelled_while_it_waits_is_not_left_in_the_way(fence, tap):
    with fence.passing(TOKENS, wait=False):
        acting = asyncio.create_task(live(tap, fence).apply(ACTION))
        await until(fence.waited.is_set)
        acting.cancel()
        await asyncio.gather(acting, return_exceptions=True)

    await until(lambda: free(fence))
    assert not tap.running.is_set()


async def test_who_is_cancelled_in_the_middle_keeps_others_out_until_the_change_has_ended(fence, tap):
    tap.may_end.clear()
    acting = asyncio.create_task(live(tap, fence).apply(ACTION))
    await until(tap.running.is_set)
    acting.cancel()
    await asyncio.gather(acting, return_exceptions=True)

    assert not free(fence)

    tap.may_end.set()
    await until(lambda: free(fence))


async def test_a_fence_that_can_not_be_left_in_order_is_told_and_what_was_done_was_done(tap):
    class Stuck:
        @contextmanager
        def passing(self, tokens, *, wait=True):
            yield
            raise ToolError("the file can't be closed")

    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(str(context["exception"])))

    assert (await live(tap, Stuck()).apply(ACTION)).outcome is Outcome.DONE
    await until(lambda: told)

    assert told == ["the file can't be closed"]
