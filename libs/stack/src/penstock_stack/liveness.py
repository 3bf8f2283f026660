"""When a running component is given up: it says, and goes on saying, that it is not live."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

EVERY_S: Final = 2.0
STUCK_S: Final = 10.0
"""Time for which a component must say so before it is started again; one answer may be a moment."""


class Liveness:
    """Asks now and then whether a component is stuck.

    Parameters
    ----------
    is_stuck
        Answers within about a second; None for a component that only its exit can tell about.
    """

    def __init__(self, is_stuck: Callable[[], bool] | None) -> None:
        self._is_stuck = is_stuck
        self._next = 0.0
        self._since: float | None = None

    def is_lost(self) -> bool:
        """Tell whether it has been stuck long enough; cheap enough for every turn of a watch."""
        now = time.monotonic()
        if self._is_stuck is None or now < self._next:
            return False
        self._next = now + EVERY_S
        if not self._is_stuck():
            self._since = None
            return False
        self._since = now if self._since is None else self._since
        return now - self._since >= STUCK_S
