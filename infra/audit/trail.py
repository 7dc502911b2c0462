"""One chain of the audit trail, as its writer sees it: nothing is acted upon before its record is in the stream.

Records that come while a segment is on its way gather, and go out together under one signature.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bus import subjects
from bus.port import Bus, BusError
from functions.core.ports import NotStored
from infra.audit.checkpoints import Checkpoints
from infra.audit.heads import HeadFile
from infra.audit.keys import Keyring, KeyUnusable, Rotation, Signer, announce
from infra.audit.opening import opening, own_record
from infra.audit.segments import Chain, Document, Position, Segment, document, segment
from infra.audit.tip import SETTLE_WITHIN, Forked, Tip
from schemas.alert import Alert, AlertState, Severity
from schemas.audit import Step
from schemas.clock import Clock

logger = logging.getLogger(__name__)

SEGMENT_RECORDS = 64
"""At most so many records under one signature."""

SEGMENT_BYTES = 32 * 1024
"""Bytes of records under one signature: half of the smallest `max_payload` that an embedded server may have, a 32nd of
what nats-server allows by default. A single record may be larger; it goes alone."""

LAST_WITHIN = 10.0
"""Seconds for the last record of a chain."""


@dataclass(eq=False)
class _Waiting:
    """A record, and its caller, who gets None or why it was not stored."""

    document: Document
    answer: asyncio.Future[NotStored | None]
    successor: Signer | None = None
    """signs what comes after this record, which is the last of its segment"""


class _NothingLeft(Exception):
    """All that was to be stored is in the chain already."""


class AuditTrail:
    """The chain of one function in one process, from its first record to `stop`. For one event loop."""

    def __init__(
        self, bus: Bus, chain: Chain, keyring: Keyring, directory: Path, clock: Clock, alarm: Callable[[Alert], None],
        *, version: str = "", settle_within: float = SETTLE_WITHIN,
    ) -> None:  # fmt: skip
        """*directory*: where the machine remembers its chains. *alarm* tells people, and neither waits nor raises."""
        self._bus = bus
        self._chain = chain
        self._subject = subjects.audit(chain.host, chain.function, chain.emitter)
        self._keyring = keyring
        self._heads = HeadFile(directory / "heads", chain.function)
        self._clock = clock
        self._alarm = alarm
        self._version = version
        self._settle_within = settle_within
        self._tip: Tip | None = None
        self._opening: list[Document] = []
        self._queue: deque[_Waiting] = deque()
        self._group: Sequence[_Waiting] = ()
        self._writing: asyncio.Task[None] | None = None
        self._announcing: asyncio.Task[None] | None = None
        self._announced: str | None = None
        """fingerprint of the key that others know; empty after an attempt that failed, None before the first"""
        self._ended = False
        self._checkpoints = Checkpoints(bus, chain, self._heads, clock, lambda: self.position, self._before_checkpoint)

    @property
    def position(self) -> Position:
        return self._tip.position if self._tip is not None else Position()

    async def append(self, correlation: str, **fields: Any) -> None:
        """Return when the record is stored: fields of `AuditRecord` but those that the chain gives.

        Raises NotStored. Whoever is cancelled while waiting does not know; the record is stored if it can be.
        """
        if self._ended:
            raise NotStored(f"the audit trail of {self._chain.function} has ended with its process")
        await self._append(document(self._chain, self._clock.now(), correlation=correlation, **fields))

    async def stop(self) -> None:
        """Store the last record and the last checkpoint, if there was anything. Idempotent; raises nothing expected."""
        if self._ended:
            return
        self._ended = True
        await self._end()
        await self._checkpoints.stop()
        running = [task for task in (self._writing, self._announcing) if task is not None]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    async def _end(self) -> None:
        if not self.position.sequence or (self._tip and self._tip.forked):
            return
        if not self._bus.connected:
            logger.warning("the audit trail of %s ends without a last record: the bus is away", self._chain.function)
            return
        try:
            async with asyncio.timeout(LAST_WITHIN):
                await self._append(self._own(Step.ENDED, "the process stops in order"))
        except TimeoutError:
            logger.warning("the last audit record of %s was not stored in %g s", self._chain.function, LAST_WITHIN)
        except NotStored as error:
            logger.warning("the last audit record of %s was not stored: %s", self._chain.function, error)

    # Writing.

    async def _append(self, record: Document, successor: Signer | None = None) -> None:
        loop = asyncio.get_running_loop()
        waiting = _Waiting(record, loop.create_future(), successor)
        self._queue.append(waiting)
        if self._writing is None:
            self._writing = loop.create_task(self._write(), name=f"audit trail of {self._chain.function}")
        refusal = await waiting.answer
        if refusal is not None:
            raise refusal

    async def _write(self) -> None:
        """Until nobody waits. A task of its own, so that a caller who is cancelled tears nothing."""
        try:
            while self._queue:
                self._group = self._gather()
                try:
                    await self._store(self._group)
                except NotStored as error:
                    self._answer(str(error))
                else:
                    self._answer(None)
        except Exception:
            logger.exception("the audit trail of %s failed", self._chain.function)
        finally:
            self._writing = None
            self._group = [*self._group, *self._queue]  # none is left but after a failure, or when cancelled
            self._queue.clear()
            self._answer(f"the audit trail of {self._chain.function} stopped before the record was known to be stored")

    def _gather(self) -> list[_Waiting]:
        """What goes into the next segment."""
        group = [self._queue.popleft()]
        room = SEGMENT_BYTES - (group[0].document.size if self._queue else 0)
        while self._queue and len(group) < SEGMENT_RECORDS and group[-1].successor is None:
            room -= self._queue[0].document.size
            if room < 0:
                break
            group.append(self._queue.popleft())
        return group

    def _answer(self, refusal: str | None) -> None:
        for waiting in self._group:
            if not waiting.answer.done():  # its caller was cancelled
                waiting.answer.set_result(None if refusal is None else NotStored(refusal))
        self._group = ()

    async def _store(self, group: Sequence[_Waiting]) -> None:
        """Raises NotStored."""
        tip = self._tip = self._tip or await self._first_tip()
        if tip.forked:
            raise NotStored(tip.forked)
        if not tip.position.sequence and not self._opening:
            self._opening = await self._open(tip.signer, group[0])

        def make() -> Segment:
            opening = () if tip.position.sequence else self._opening
            documents = [*opening, *(each.document for each in group if not _superfluous(each, tip.signer))]
            if not documents:
                raise _NothingLeft
            return segment(self._chain, tip.position, documents, tip.signer, self._clock.now(), group[-1].successor)

        try:
            await tip.extend(make)
        except _NothingLeft:
            return
        except Forked as error:
            self._alert("the audit trail forked: the function changes nothing any more", str(error))
            raise
        self._checkpoints.notice()
        if self._announced is None:
            self._announce_soon()

    # The chain itself: its beginning, its key, its troubles.

    async def _first_tip(self) -> Tip:
        signer = await asyncio.to_thread(self._keyring.current)
        return Tip(self._bus, self._subject, signer, self._settle_within)

    async def _open(self, signer: Signer, first: _Waiting) -> list[Document]:
        """What stands before the first record, at the same time. Raises NotStored."""
        at = first.document.at
        records, trouble = await opening(self._bus, self._chain, self._heads, signer, at, self._version)
        if trouble:
            self._alert("the audit trail lacks records that were stored", trouble)
        return records

    async def _before_checkpoint(self) -> Signer:
        """Go over to another key when there is one, and make it known. Raises NotStored."""
        assert self._tip is not None
        for rotation in await asyncio.to_thread(self._rotations_from, self._tip.signer):
            successor = await asyncio.to_thread(self._keyring.signer, rotation.new_fingerprint)
            if self._ended:
                break  # the chain ended with its old key
            text = f"what follows is signed by {rotation.new_fingerprint}, which comes after {rotation.old_fingerprint}"
            changed = own_record(self._chain, self._clock.now(), Step.KEY_CHANGED, text, rotation.document())
            await self._append(changed, successor)
        if self._announced != self._tip.signer.fingerprint:
            self._announce_soon()
        return self._tip.signer

    def _rotations_from(self, signer: Signer) -> list[Rotation]:
        try:
            current = self._keyring.current().fingerprint
            steps = self._keyring.rotations_from(signer.fingerprint)
        except KeyUnusable as error:
            logger.error("%s goes on with the key that it has: %s", self._chain.function, error)
            return []
        if current != signer.fingerprint and not steps:
            logger.error(
                "%s goes on with the key %s: %s is said to be the current one, but no rotation leads to it",
                self._chain.function, signer.fingerprint, current,
            )  # fmt: skip
        return steps

    def _announce_soon(self) -> None:
        if self._announcing is None:
            self._announcing = asyncio.get_running_loop().create_task(self._announce())

    async def _announce(self) -> None:
        """Tell verifiers elsewhere of the key. Not being able to holds up nothing; the next checkpoint tries again."""
        assert self._tip is not None
        signer, host = self._tip.signer, self._chain.host
        try:
            if not await announce(self._bus, host, signer):
                name = subjects.key_of_signer(host, signer.fingerprint)
                text = f"{name} in the bucket fleet is not our key {signer.fingerprint}; see: nats kv get fleet {name}"
                self._alert("another key is announced in place of the one that signs the audit trail", text)
            self._announced = signer.fingerprint
        except BusError as error:
            self._announced = ""
            logger.warning("the key of the audit trail is not announced yet: %s", error)
        finally:
            self._announcing = None

    def _own(self, step: Step, text: str) -> Document:
        return own_record(self._chain, self._clock.now(), step, text, {})

    def _alert(self, title: str, text: str) -> None:
        logger.critical("%s: %s", title, text)
        self._alarm(
            Alert(
                host=self._chain.host, function=self._chain.function, target="stream:AUDIT",
                severity=Severity.CRITICAL, state=AlertState.OPENED, title=title, text=text,
                next="ansai audit verify", at=self._clock.now(),
            )
        )  # fmt: skip


def _superfluous(waiting: _Waiting, signer: Signer) -> bool:
    """A change of keys that was made already: its earlier copy came late."""
    return waiting.successor is not None and waiting.successor.fingerprint == signer.fingerprint
