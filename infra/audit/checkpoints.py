"""Signed checkpoints of a chain, in a stream of their own: a chain alone does not show that its tail was cut."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from bus import subjects
from bus.port import Bus, BusError
from functions.core.ports import NotStored
from infra.audit import form
from infra.audit.heads import HeadFile
from infra.audit.keys import Signer
from infra.audit.segments import Chain, Position, envelope, written
from schemas.audit import Checkpoint
from schemas.clock import Clock

logger = logging.getLogger(__name__)

RECORDS = 100
"""A checkpoint is taken when so many records are new, …"""

EVERY = timedelta(minutes=15)
"""… or when anything is new after this time. Both are what field-notes/safety.md, R55, asks for."""

AGAIN = timedelta(minutes=1)
"""After one that failed."""

LAST_WITHIN = 10.0
"""Seconds for the last one."""


class Checkpoints:
    """Of one chain, in the background: one that fails is tried again and holds up nothing.

    *prepare* is called before each and returns who signs it, *position* where the chain stands then.
    """

    def __init__(
        self, bus: Bus, chain: Chain, heads: HeadFile, clock: Clock, position: Callable[[], Position],
        prepare: Callable[[], Awaitable[Signer]],
    ) -> None:  # fmt: skip
        self._bus = bus
        self._chain = chain
        self._subject = subjects.checkpoint(chain.host, chain.function, chain.emitter)
        self._heads = heads
        self._clock = clock
        self._position = position
        self._prepare = prepare
        self._taken = 0
        self._many = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def notice(self) -> None:
        """Records were stored."""
        if self._task is None:
            name = f"checkpoints of {self._chain.function}"
            self._task = asyncio.get_running_loop().create_task(self._forever(), name=name)
        if self._position().sequence - self._taken >= RECORDS:
            self._many.set()

    async def stop(self) -> None:
        """Take the last one."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not self._bus.connected:
            await self._note(self._position())
            logger.warning("%s: the last checkpoint was not stored: the bus is away", self._chain.function)
            return
        try:
            async with asyncio.timeout(LAST_WITHIN):
                await self._take()
        except TimeoutError:
            logger.warning("%s: the last checkpoint was not stored in %g s", self._chain.function, LAST_WITHIN)
        except (BusError, NotStored) as error:
            logger.warning("%s: the last checkpoint was not stored: %s", self._chain.function, error)

    async def _forever(self) -> None:
        while True:
            await self._due()
            while not await self._taken_now():
                await self._clock.sleep(AGAIN)

    async def _due(self) -> None:
        waits = [asyncio.create_task(self._clock.sleep(EVERY)), asyncio.create_task(self._many.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._many.clear()

    async def _taken_now(self) -> bool:
        try:
            await self._take()
        except (BusError, NotStored) as error:
            logger.warning("%s: no checkpoint, the next try is in %s: %s", self._chain.function, AGAIN, error)
            return False
        return True

    async def _take(self) -> None:
        """Raises BusError, NotStored."""
        if self._position().sequence == self._taken:
            return
        signer, position = await self._prepare(), self._position()
        await self._note(position)
        await self._bus.publish(
            self._subject, self._message(signer, position), message_id=f"{self._chain.emitter}-{position.sequence}"
        )
        self._taken = position.sequence

    async def _note(self, position: Position) -> None:
        """On this machine."""
        try:
            await asyncio.to_thread(self._heads.write, self._chain, position)
        except OSError as error:
            logger.warning("where the chain of %s stands was not noted here: %s", self._chain.function, error)

    def _message(self, signer: Signer, position: Position) -> bytes:
        now = self._clock.now()
        data = {
            "emitter": self._chain.emitter, "host": self._chain.host, "function": self._chain.function,
            "sequence": position.sequence, "head": position.head, "at": written(now), "key": signer.fingerprint,
        }  # fmt: skip
        data["signature"] = signer.sign(form.signed_checkpoint(data)).hex()
        return envelope(Checkpoint.TYPE_NAME, self._chain, now, "", json.dumps(data).encode())
