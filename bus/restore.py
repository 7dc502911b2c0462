"""Make a stream or bucket again that was removed while we run, by an administrator or with a restored store.

A message for a stream waits until it is there again. A request to a bucket is refused instead, at once: whoever
asked must hear that what was stored is gone, before it takes an empty bucket for the answer. The next one goes on.
"""

import asyncio
import logging
from collections.abc import Iterable

from bus.connection import Connection
from bus.outbox import Denied, Outbox
from bus.port import BusError, Rejected, Unavailable
from bus.provision import provision, stream_configuration
from bus.streams import StreamSpec, overlapping

logger = logging.getLogger(__name__)

_DIRECT_GET = "$JS.API.DIRECT.GET."


class Restorer:
    """Looks when nobody answers for a stream, and after every reconnect."""

    def __init__(
        self, outbox: Outbox, connection: Connection, streams: Iterable[StreamSpec], buckets: Iterable[StreamSpec]
    ) -> None:
        self._outbox = outbox
        self._connection = connection
        self._buckets = {spec.name: spec for spec in buckets}
        self._specs = {spec.name: spec for spec in streams} | self._buckets
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._why_not: dict[str, str] = {}
        """stream → why it can't be made again, as the log has it"""
        self._closed = False

    def open(self) -> None:
        self._outbox.on_nobody.append(self._nobody_answers)
        self._connection.on_connected.append(self._on_connected)

    async def close(self) -> None:
        self._closed = True
        looking = list(self._looking.values())
        for task in looking:
            task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)

    def missing(self, name: str) -> Rejected:
        """Begin to make stream *name* again; return what to tell whoever missed it."""
        self._look_at(name)
        why_not = self._why_not.get(name)
        outcome = f"it can't be made again: {why_not}" if why_not else "it is being made again, empty: try again"
        return Rejected(
            f"{self._connection.url}: stream {name} is gone: somebody removed it, or restored an older store; {outcome}"
        )

    async def _on_connected(self) -> None:
        for name in self._specs:
            self._look_at(name)

    def _nobody_answers(self, subject: str) -> None:
        name = self._stream_of(subject)
        if name is not None:
            self._look_at(name)

    def _stream_of(self, subject: str) -> str | None:
        if subject.startswith(_DIRECT_GET):
            name = subject.removeprefix(_DIRECT_GET).partition(".")[0]
            return name if name in self._specs else None
        return next((spec.name for spec in self._specs.values() if overlapping(spec.subjects, subject)), None)

    def _look_at(self, name: str) -> None:
        if not self._closed and name not in self._looking:
            task = asyncio.create_task(self._look(self._specs[name]), name=f"look for {name}")
            self._looking[name] = task
            task.add_done_callback(lambda _: self._looking.pop(name, None))

    async def _look(self, spec: StreamSpec) -> None:
        try:
            if await stream_configuration(self._outbox, spec.name) is not None:
                self._why_not.pop(spec.name, None)
                return  # it was starting, or electing a leader; or somebody made it again
            if spec.name in self._buckets:
                error = self.missing(spec.name)
                self._outbox.refuse_unsent(lambda subject: self._stream_of(subject) == spec.name, error)
            await provision(self._outbox, [spec], self._connection.url)
        except (Denied, Unavailable) as error:
            logger.info("no look at stream %s: %s", spec.name, error)
        except BusError as error:
            if self._why_not.get(spec.name) != str(error):  # the same reason, at every look
                self._why_not[spec.name] = str(error)
                logger.error("stream %s is gone and can't be made again: %s", spec.name, error)
        else:
            self._why_not.pop(spec.name, None)
            logger.error(
                "%s: stream %s was gone: somebody removed it, or restored an older store; made it again, empty",
                self._connection.url, spec.name,
            )  # fmt: skip
