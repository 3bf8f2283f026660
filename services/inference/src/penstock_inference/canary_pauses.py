"""A canary that fails is left alone for a while: each try costs the records behind it time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from penstock_schemas.errors import ModelUnavailable, PenstockError
from penstock_streaming.backoff import Outage

from penstock_inference.routing import Route

logger = logging.getLogger(__name__)

LONGEST_PAUSE_S: Final = 30.0
FIRST_PAUSE_S: Final = 1.0
CANARY_TIMEOUT_S: Final = 2.0
"""Longest deadline of a call to a canary, seconds: the champion's rows wait for it too."""


class CanaryPauses:
    """Which canaries are not asked just now; the champion has their keys. Not thread-safe.

    Parameters
    ----------
    clock
        Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._outages: dict[str, Outage] = {}

    def is_paused(self, canary: Route) -> bool:
        """Tell whether a canary is not to be asked now."""
        outage = self._outages.get(canary.model.name)
        return outage is not None and outage.remaining_s > 0.0

    def failed(self, canary: Route, why: PenstockError) -> None:
        """Leave a canary alone, twice as long as the last time."""
        if self.is_paused(canary):
            return  # of several batches in flight the first has said it
        name = canary.model.name
        outage = self._outages.setdefault(name, Outage(LONGEST_PAUSE_S, self._clock))
        wait_s = outage.begin(ModelUnavailable(str(why), retry_after_s=FIRST_PAUSE_S))
        logger.warning(
            "canary %s fails, the champion has its keys for %.0f s: %s", name, wait_s, why
        )

    def answered(self, canary: Route) -> None:
        """Learn that a canary has answered."""
        if canary.model.name in self._outages:
            del self._outages[canary.model.name]
            logger.info("canary %s answers again", canary.model.name)
