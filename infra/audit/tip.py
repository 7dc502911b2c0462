"""The end of a chain in the stream, where its only writer adds to it; and what became of a segment nobody answered for.

The position advances only when a segment is known to be stored. When that is not known, the stream's last message
tells:

```text
a segment we sent      it was stored: the answer was lost, or it came late, after its callers were told "not stored"
its predecessor        it is not there yet: sent again, for a while
nothing                an archive took the chain so far: it goes on from the local head
anything else          somebody else writes on our subject, or the store was rolled back: a fork; this chain ends
```
"""

import asyncio
from collections.abc import Callable

from bus.port import Bus, BusError, Conflict, Rejected, Unavailable
from functions.core.ports import NotStored
from infra.audit import form
from infra.audit.heads import archived_end
from infra.audit.keys import Signer
from infra.audit.segments import Position, Segment

SETTLE_WITHIN = 20.0
"""Seconds until what the bus neither took nor refused is given up: twice the default of `bus.publish_deadline`."""

_PAUSE = 0.1  # seconds between two tries


class Forked(NotStored):
    """The chain can't go on: its subject holds what its writer has not written."""


class Tip:
    """Of one chain; extended by one caller at a time."""

    def __init__(self, bus: Bus, subject: str, signer: Signer, settle_within: float = SETTLE_WITHIN) -> None:
        self._bus = bus
        self._subject = subject
        self._settle_within = settle_within
        self.position = Position()
        self.signer = signer
        self.forked = ""
        """why, once it is"""
        self._message = ""
        """digest of the message that holds the head"""
        self._expected = 0
        """stream sequence of that message; 0 when the stream holds none of this chain"""
        self._unsettled: dict[str, tuple[Position, Signer]] = {}
        """digest of what was sent behind the present head, and may yet be stored → what holds then"""

    async def extend(self, make: Callable[[], Segment]) -> None:
        """Store what *make* builds upon the present position; it is asked again when that moved.

        Raises NotStored, Forked.
        """
        if self._unsettled:
            await self._settle()
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settle_within
        segment, upon, sent_before = make(), self.position, False
        while True:
            name = form.digest(segment.body)
            self._unsettled[name] = (segment.after, segment.signer)
            try:
                stored = await self._bus.append(self._subject, segment.body, expected_last=self._expected)
            except Rejected as error:
                if not sent_before:  # otherwise the first copy may still be on its way
                    del self._unsettled[name]
                raise NotStored(f"the audit trail refuses: {error}") from error
            except (Conflict, Unavailable) as error:
                await self._settle()
                if self.position == segment.after:
                    return
                if self.position != upon:  # an earlier segment had come: ours goes behind it
                    segment, upon, sent_before = make(), self.position, False
                    continue
                if loop.time() >= until:
                    raise NotStored(f"the audit record could not be placed on {self._subject}: {error}") from error
                await asyncio.sleep(_PAUSE)
                sent_before = True
            else:
                self._advance(name, stored)
                return

    async def _settle(self) -> None:
        """Learn from the stream where the chain stands. Raises NotStored, Forked."""
        try:
            last = await self._bus.last(self._subject)
            archived = await archived_end(self._bus, self._subject) if last is None else None
        except BusError as error:
            raise NotStored(f"whether the audit record is stored is not known: {error}") from error
        name = form.digest(last.body) if last is not None else ""
        if last is None:
            self._expected = 0
            for sent, (position, _) in list(self._unsettled.items()):
                if position == archived:  # stored, and archived before we could look
                    self._advance(sent, 0)
        elif name in self._unsettled:
            self._advance(name, last.sequence)
        elif name == self._message:
            self._expected = last.sequence
        else:
            self.forked = (
                f"the audit trail forked: message {last.sequence} on {self._subject} was not written by the process"
                f" that writes there; it changes nothing any more. Look into it with: ansai audit verify,"
                " then start the process again"
            )
            raise Forked(self.forked)

    def _advance(self, name: str, sequence: int) -> None:
        self.position, self.signer = self._unsettled[name]
        self._unsettled.clear()
        self._message, self._expected = name, sequence
