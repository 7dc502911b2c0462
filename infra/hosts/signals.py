"""What collectors said last, read from the stream of health events."""

import logging
from collections.abc import Sequence
from datetime import timedelta

from pydantic import ValidationError

from bus import subjects
from bus.port import Bus, BusError
from schemas.clock import Clock, SystemClock
from schemas.envelope import Event
from schemas.health import Health

logger = logging.getLogger(__name__)


class BusSignals:
    """See `functions.core.ports.Signals`. What can't be read or believed counts as not said: the function then knows
    less. It is held to what the inbox holds an event to.

    *tolerance*: by how much an event may lie in the future.
    """

    def __init__(
        self, bus: Bus, host: str, listens: Sequence[type[Health]], tolerance: timedelta, clock: Clock | None = None
    ) -> None:
        self._bus = bus
        self._host = host
        self._listens = listens
        self._tolerance = tolerance
        self._clock = clock or SystemClock()

    async def latest(self, target: str) -> Health | None:
        found = [event for model in self._listens if (event := await self._last(model, target)) is not None]
        return max(found, key=lambda event: event.time).data if found else None

    async def _last(self, model: type[Health], target: str) -> Event[Health] | None:
        subject = subjects.health(self._host, model.domain, model.signal, target)
        try:
            stored = await self._bus.last(subject)
            event = Event[model].model_validate_json(stored.body) if stored is not None else None  # type: ignore[valid-type]
        except BusError as error:
            logger.info("what was last said on %s is not known: %s", subject, error)
            return None
        except ValidationError as error:
            logger.warning("the last event on %s is damaged (%d errors)", subject, error.error_count())
            return None
        if event is None:
            return None
        problem = self._unbelievable(event, model, target)
        if problem:
            logger.warning("the last event on %s counts as not said: %s", subject, problem)
        return None if problem else event

    def _unbelievable(self, event: Event[Health], model: type[Health], target: str) -> str:
        latest = self._clock.now() + self._tolerance
        if event.type != model.type_name():
            return f"its type is {event.type!r}"
        if event.data.target != target:
            return f"it is about {event.data.target}"
        if max(event.time, event.data.observed_at) > latest:
            return "it lies in the future; check the sender's clock"
        return ""
