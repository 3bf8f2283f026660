"""One budget of time, shared by all steps of a commit, a revoke or a shutdown."""

from __future__ import annotations

import time
from collections.abc import Callable


class Deadline:
    """A point in monotonic time.

    Parameters
    ----------
    seconds
        Time from now.
    clock
        Monotonic seconds; a test gives its own.

    Examples
    --------
    >>> now = 100.0
    >>> deadline = Deadline(2.5, clock=lambda: now)
    >>> deadline.remaining_s, deadline.expired
    (2.5, False)
    >>> now = 103.0
    >>> deadline.remaining_s, deadline.expired
    (0.0, True)
    """

    __slots__ = ("_at", "_clock")

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = clock() + seconds

    @property
    def remaining_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._at - self._clock())

    @property
    def expired(self) -> bool:
        """Tell whether no time is left."""
        return self._clock() >= self._at
