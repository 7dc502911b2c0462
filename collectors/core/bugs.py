"""Errors that nobody expected: each place is logged once with its traceback, all are counted."""

import logging
import traceback

logger = logging.getLogger(__name__)

PLACES = 100
"""Places that are remembered; errors whose place changes with every read are then no longer logged, only counted."""


class Bugs:
    """The unexpected errors of one collector."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._places: set[tuple[str, str, int | None]] = set()
        self.count = 0

    def keep(self, error: Exception) -> None:
        """Count *error*, and log it with its traceback unless one of its kind was raised at the same place before."""
        self.count += 1
        frames = traceback.extract_tb(error.__traceback__)
        place = (type(error).__name__, frames[-1].filename if frames else "", frames[-1].lineno if frames else None)
        if place not in self._places and len(self._places) < PLACES:
            self._places.add(place)
            logger.error("unexpected error in %s; this place is logged once only", self._name, exc_info=error)
