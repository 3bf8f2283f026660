"""Waiting without sleeping: deadlines, waits between attempts, budgets, bounded client calls."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from penstock_schemas.errors import RetryableError

from penstock_streaming.errors import OutcomeUnknown

GRACE_S: Final = 2.0
"""Time beyond its own time-out that a call gets before it counts as hanging."""


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
        """Whether no time is left."""
        return self._clock() >= self._at


class Outage:
    """A dependency is away: the time of the next attempt.

    Parameters
    ----------
    max_wait_s
        Longest wait between two attempts.
    clock
        Monotonic seconds.
    """

    def __init__(self, max_wait_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._until = 0.0
        self.attempts = 0

    @property
    def is_active(self) -> bool:
        """Whether the last attempt failed."""
        return self.attempts > 0

    @property
    def remaining_s(self) -> float:
        """Seconds until the next attempt."""
        return max(0.0, self._until - self._clock()) if self.attempts else 0.0

    def begin(self, error: RetryableError) -> float:
        """Count a failed attempt; the wait doubles from what the error asks for, up to the limit.

        Returns
        -------
        Seconds to wait.
        """
        wait_s = min(self._max_wait_s, error.retry_after_s * 2.0 ** min(self.attempts, 20))
        self.attempts += 1
        self._until = self._clock() + wait_s
        return wait_s

    def end(self) -> None:
        """Reset the wait: the attempt succeeded."""
        self.attempts = 0


class Budget:
    """At most so many events per window.

    Parameters
    ----------
    limit
        Events allowed.
    window_s
        Length of the sliding window, seconds.
    clock
        Monotonic seconds.
    """

    def __init__(
        self, limit: int, window_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._window_s = window_s
        self._clock = clock
        self._spent: deque[float] = deque()

    def spend(self) -> bool:
        """Spend one; return whether there was one left."""
        now = self._clock()
        while self._spent and now - self._spent[0] > self._window_s:
            self._spent.popleft()
        if len(self._spent) >= self._limit:
            return False
        self._spent.append(now)
        return True


class RejoinTimer:
    """How long a group's answer is waited for before the group is joined again.

    Parameters
    ----------
    first_s
        The first wait, and the first after an answer; each wait that ends without one is followed
        by one twice as long.
    clock
        Monotonic seconds.
    """

    def __init__(self, first_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._first_s = self._wait_s = first_s
        self._clock = clock
        self._since: float | None = None

    def begin(self) -> None:
        """Wait from now on, unless that is so already."""
        if self._since is None:
            self._since = self._clock()

    def end(self) -> None:
        """Wait no longer: the answer came."""
        self._since, self._wait_s = None, self._first_s

    def overdue_s(self) -> float | None:
        """Return the seconds that were waited if that was too long, and begin a longer wait."""
        if self._since is None or (waited_s := self._clock() - self._since) < self._wait_s:
            return None
        self._since, self._wait_s = self._clock(), 2.0 * self._wait_s
        return waited_s


def within(call: Callable[[float], object], timeout_s: float) -> None:
    """Make ``call(timeout_s)``, and give it up when it stays longer.

    Raises
    ------
    OutcomeUnknown
        If it has not returned in time. Its thread is left behind and ends when the call does; the
        client it was made on is to be dropped.
    """
    raised: list[BaseException] = []
    returned = threading.Event()

    def run() -> None:
        try:
            call(timeout_s)
        except BaseException as exc:
            raised.append(exc)
        finally:
            returned.set()

    threading.Thread(target=run, name="bounded-call", daemon=True).start()
    if not returned.wait(timeout_s + GRACE_S):
        raise OutcomeUnknown(f"the client has not returned {GRACE_S:.0f} s after its time-out")
    if raised:
        raise raised[0]
