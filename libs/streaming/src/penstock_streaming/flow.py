"""How fast a partition fills and empties: rates over a window, and the time to drain. Pure.

All is counted in offsets. Control records and what compaction has removed take offsets too, but
they do so in arrival, in consumption and in lag alike, so that the quotient is right with them.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

WINDOW_S: Final = 15.0
"""Time that rates are averaged over, seconds: commits come in bursts, and so do the last stable
offsets of a topic that is itself written in transactions."""
MIN_SPAN_S: Final = 0.5
"""Time below which a difference of two measurements is no rate, seconds."""
SETTLED_S: Final = 2.0
"""Work of this many seconds is no backlog: it is what open transactions hold."""


@dataclass(frozen=True, slots=True)
class Flow:
    """One partition, or several together, at one time.

    Parameters
    ----------
    lag
        Offsets between what is committed and the last stable offset.
    arrived_per_s, consumed_per_s
        Offsets per second.
    """

    lag: int
    arrived_per_s: float
    consumed_per_s: float

    @property
    def is_settled(self) -> bool:
        """Tell whether the lag is no more than what is being worked on."""
        return self.lag <= self.consumed_per_s * SETTLED_S

    @property
    def drain_s(self) -> float:
        """Seconds until the lag is gone at these rates; infinite where it is not getting less.

        Examples
        --------
        >>> Flow(lag=3000, arrived_per_s=100.0, consumed_per_s=400.0).drain_s
        10.0
        >>> Flow(lag=3000, arrived_per_s=400.0, consumed_per_s=400.0).drain_s
        inf
        >>> Flow(lag=40, arrived_per_s=400.0, consumed_per_s=400.0).drain_s
        0.0
        """
        if self.is_settled:
            return 0.0
        gained_per_s = self.consumed_per_s - self.arrived_per_s
        return self.lag / gained_per_s if gained_per_s > 0.0 else math.inf


class FlowMeter:
    """The flow of one partition, from measurements of its two ends."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, int]] = deque()

    def add(self, now_s: float, end: int, done: int) -> None:
        """Take a measurement.

        Parameters
        ----------
        now_s
            Monotonic seconds.
        end
            The last stable offset.
        done
            The offset after what is committed.
        """
        samples = self._samples
        if samples and (end < samples[-1][1] or done < samples[-1][2]):
            samples.clear()  # offsets only grow: it is another log, or another place in it
        elif len(samples) > 1 and now_s - samples[-2][0] < MIN_SPAN_S:
            samples.pop()
        samples.append((now_s, end, done))
        while len(samples) > 2 and now_s - samples[1][0] >= WINDOW_S:
            samples.popleft()

    def flow(self) -> Flow | None:
        """Return the flow over the window, None before there are two measurements."""
        if len(self._samples) < 2:
            return None
        (then_s, end_then, done_then), (now_s, end, done) = self._samples[0], self._samples[-1]
        span_s = now_s - then_s
        if span_s < MIN_SPAN_S:
            return None
        return Flow(max(0, end - done), (end - end_then) / span_s, (done - done_then) / span_s)
