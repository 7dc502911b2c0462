"""What collectors said last, read from the stream of health events."""

import logging
from collections.abc import Sequence

from pydantic import ValidationError

from bus import subjects
from bus.port import Bus, BusError
from schemas.envelope import Event
from schemas.health import Health

logger = logging.getLogger(__name__)


class BusSignals:
    """See `functions.core.ports.Signals`. What can't be read counts as not said: the function then knows less."""

    def __init__(self, bus: Bus, host: str, listens: Sequence[type[Health]]) -> None:
        self._bus = bus
        self._host = host
        self._listens = listens

    async def latest(self, target: str) -> Health | None:
        found = [event for model in self._listens if (event := await self._last(model, target)) is not None]
        return max(found, key=lambda event: event.time).data if found else None

    async def _last(self, model: type[Health], target: str) -> Event[Health] | None:
        subject = subjects.health(self._host, model.domain, model.signal, target)
        try:
            stored = await self._bus.last(subject)
            return Event[model].model_validate_json(stored.body) if stored is not None else None  # type: ignore[valid-type]
        except BusError as error:
            logger.info("what was last said on %s is not known: %s", subject, error)
        except ValidationError as error:
            logger.warning("the last event on %s is damaged (%d errors)", subject, error.error_count())
        return None
