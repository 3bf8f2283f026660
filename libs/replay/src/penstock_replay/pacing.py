"""A rate kept over time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_CATCH_UP_S: Final = 1.0
"""Most time that may be made up for: after an outage the copies must not come all at once."""


class Pacer:
    """Tells how long the next record has to wait.

    Record n is due n / rate seconds after the first, so that time spent on commits is made up for.

    Parameters
    ----------
    per_s
        Records per second; None lets every record go at once.
    clock
        Monotonic seconds; a test gives its own.

    Examples
    --------
    >>> now = 0.0
    >>> pacer = Pacer(10.0, clock=lambda: now)
    >>> pacer.count(), pacer.count(), round(pacer.wait_s(), 3)
    (None, None, 0.2)
    """

    def __init__(self, per_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = 0.0 if per_s is None else 1.0 / per_s
        self._clock = clock
        self._due: float | None = None

    def wait_s(self) -> float:
        """Return seconds until the next record is due; 0.0 if it is."""
        if self._due is None:
            return 0.0
        return max(0.0, self._due - self._clock())

    def count(self) -> None:
        """Note that a record has gone."""
        if self._interval_s:
            now = self._clock()
            due = now if self._due is None else max(self._due, now - _CATCH_UP_S)
            self._due = due + self._interval_s
